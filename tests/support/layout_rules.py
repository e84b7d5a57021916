"""The rules of the package's layout, as functions over parsed source files; `tests/project/test_layout.py` applies them.

A rule returns its violations as readable lines; an empty list means that the rule holds.
"""

from __future__ import annotations

import ast
import graphlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "image_text_embedding"
FLOORS = {
    "foundation": 0,
    "inputs": 1,
    "demo": 1,
    "models": 2,
    "inference": 3,
    "bulk": 4,
    "retrieval": 5,
    "training": 5,
    "interfaces": 6,
    "blip": 7,
    "albef": 7,
    "operators": 8,
    "__main__": 8,
}
# Doors into the package that know nothing of each other.
SEPARATE = [(("interfaces", "cli"), ("interfaces", "serving"))]
INIT = "__init__"
NOT_MIRRORED = {"project", "benchmarks", "support", "golden", "data_0_1_0"}

Module = tuple[
    str, ...
]  # ("inputs", "limits"), without the package's name; a folder's `__init__` has the folder's name
Modules = Mapping[Module, ast.Module]

FACE: Module = ()  # the top `__init__`


def read_modules(package: Path) -> dict[Module, ast.Module]:
    """Every source file below the package's folder, parsed."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        modules[parts[:-1] if parts[-1] == INIT else parts] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return modules


# Imports


def is_package(module: Module, modules: Modules) -> bool:
    return any(other[: len(module)] == module and len(other) > len(module) for other in modules)


def imported_names(module: Module, modules: Modules) -> Iterator[tuple[Module, str | None, str, int]]:
    """Each import of our own modules, those in functions and under TYPE_CHECKING included.

    Yields:
        (the module that the statement names, the name taken from it or None, the local name, line)
    """
    for node in ast.walk(modules[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, *rest = alias.name.split(".")
                if first == PACKAGE:
                    yield tuple(rest), None, alias.asname or first, node.lineno
        elif isinstance(node, ast.ImportFrom):
            dotted = node.module.split(".") if node.module else []
            if node.level:
                folder = module if is_package(module, modules) else module[:-1]
                source = (*folder[: len(folder) - node.level + 1], *dotted)
            elif dotted and dotted[0] == PACKAGE:
                source = tuple(dotted[1:])
            else:
                continue
            for alias in node.names:
                yield source, alias.name, alias.asname or alias.name, node.lineno


def imports(modules: Modules) -> dict[Module, set[Module]]:
    """Each module -> those that it imports."""
    edges: dict[Module, set[Module]] = {}
    for module in modules:
        edges[module] = set()
        for source, name, _, _ in imported_names(module, modules):
            submodule = (*source, name) if name else source
            target = submodule if submodule in modules else source
            if target != module:
                edges[module].add(target)
    return edges


def wrong_directions(modules: Modules) -> list[str]:
    """Imports between top folders that run upward or sideways."""
    found = []
    for module, targets in imports(modules).items():
        if module == FACE:
            continue
        for target in sorted(targets - {FACE}):
            here, there = module[0], target[0]
            if unknown := {here, there} - FLOORS.keys():
                found.append(f"{dotted(module)} imports {dotted(target)}: no floor for {', '.join(sorted(unknown))}")
            elif here != there and FLOORS[there] >= FLOORS[here]:
                found.append(
                    f"{dotted(module)} (floor {FLOORS[here]}) imports {dotted(target)} (floor {FLOORS[there]})"
                )
            for one, other in [*SEPARATE, *((b, a) for a, b in SEPARATE)]:
                if module[: len(one)] == one and target[: len(other)] == other:
                    found.append(f"{dotted(module)} imports {dotted(target)}: {one[-1]} and {other[-1]} are separate")
    return found


def circles(modules: Modules) -> list[str]:
    """A circle among the siblings of a folder, where a subfolder counts as one."""
    levels: dict[Module, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, targets in imports(modules).items():
        for target in targets:
            if FACE in (module, target):
                continue
            shared = 0
            while shared < min(len(module), len(target)) and module[shared] == target[shared]:
                shared += 1
            here = module[shared] if shared < len(module) else INIT
            there = target[shared] if shared < len(target) else INIT
            levels[module[:shared]][here].add(there)
    found = []
    for level, graph in sorted(levels.items()):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            found.append(f"in {dotted(level)}: {' <- '.join(error.args[1])}")
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_imports(modules: Modules) -> list[str]:
    """Names with a leading underscore that are taken from another file, by import or as `module._name`."""
    found = []
    for module, tree in modules.items():
        aliases: dict[str, Module] = {}
        for source, name, local, line in imported_names(module, modules):
            parts = (*source, name) if name else source
            if any(map(is_private, parts)):
                found.append(f"{dotted(module)}:{line} imports {dotted(parts)}")
            if name is None:
                aliases[local] = FACE if local == PACKAGE else source
            elif parts in modules:
                aliases[local] = parts
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                owner = attribute_chain(node.value)
                if owner and owner[0] in aliases and (*aliases[owner[0]], *owner[1:]) in modules:
                    found.append(f"{dotted(module)}:{node.lineno} reads {'.'.join(owner)}.{node.attr}")
    return found


def attribute_chain(node: ast.expr) -> tuple[str, ...]:
    """`a.b.c` -> ("a", "b", "c"); anything else -> ()."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (owner := attribute_chain(node.value)):
        return (*owner, node.attr)
    return ()


def dynamic_imports(modules: Modules) -> list[str]:
    """`import_module` or `__import__` of our own modules, outside the top `__init__`.

    A name that is computed may be a user's or another package's; then the file may hold no dotted name of ours.
    """
    found = []
    for module, tree in modules.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_import_call(node)]
        if module == FACE or not calls:
            continue
        ours = [
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and f"{node.value}.".startswith(f"{PACKAGE}.")
        ]
        relative = [
            node.lineno
            for call in calls
            for node in ast.walk(call)
            if (isinstance(node, ast.Name) and node.id in ("__name__", "__package__"))
            or (isinstance(node, ast.Constant) and str(node.value).startswith("."))
        ]
        for line in sorted({*ours, *relative}):
            found.append(f"{dotted(module)}:{line} imports a module of ours by its name")
    return found


def is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("import_module", "__import__")


def face_imports(modules: Modules) -> list[str]:
    """Imports of the public face from inside the package."""
    return [
        f"{dotted(module)}:{line} imports {name or PACKAGE} from the face"
        for module in modules
        for source, name, _, line in imported_names(module, modules)
        if source == FACE and module != FACE
    ]


def torch_in_foundation(modules: Modules) -> list[str]:
    """Imports of torch, and of what brings it along, below `foundation`."""
    found = []
    for module, tree in modules.items():
        if module[:1] != ("foundation",):
            continue
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                if name.split(".")[0] in ("torch", "torchvision", "timm", "transformers"):
                    found.append(f"{dotted(module)}:{node.lineno} imports {name}")
    return found


# Files and folders


def long_files(folder: Path, limit: int) -> list[str]:
    """Source files of more than `limit` lines."""
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(folder.rglob("*.py"))}
    return [f"{path.relative_to(folder)}: {count} lines" for path, count in counts.items() if count > limit]


def crowded_folders(modules: Modules, limit: int) -> list[str]:
    """Folders with more than `limit` files and subfolders. Names that begin with an underscore are out of sight."""
    rooms: dict[Module, set[str]] = defaultdict(set)
    for module in modules:
        for depth, name in enumerate(module):
            if not name.startswith("_"):
                rooms[module[:depth]].add(name)
    return [f"{dotted(folder)}: {len(names)} rooms" for folder, names in sorted(rooms.items()) if len(names) > limit]


def undescribed_files(modules: Modules) -> list[str]:
    """Files without a docstring that says what they are for. An empty `__init__` needs none."""
    return [
        dotted(module)
        for module, tree in modules.items()
        if tree.body and (ast.get_docstring(tree) or "TODO").startswith("TODO")
    ]


def unmirrored_test_folders(tests: Path, package: Path) -> list[str]:
    """Folders with tests that no folder of the package corresponds to."""
    folders = sorted({path.parent.relative_to(tests) for path in tests.rglob("test_*.py")})
    return [
        str(folder)
        for folder in folders
        if folder.parts and folder.parts[0] not in NOT_MIRRORED and not (package / folder).is_dir()
    ]


def dotted(module: Module) -> str:
    return ".".join(module) or PACKAGE


# Printing

# The only modules that print: lines, and tables.
PRINTERS: dict[Module, set[str]] = {
    ("foundation", "terminal_text"): {"print"},
    ("interfaces", "cli", "output"): {"Console", "print"},
}
PRINTING = {"print", "echo", "secho", "pprint", "print_json", "print_exc", "rprint", "Console", "Progress", "track"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


def printing_calls(modules: Modules) -> list[str]:
    """Calls that write to the terminal outside of the modules for it, and descriptions of progress bars."""
    ours = modules.get(("interfaces", "cli", "output"))
    own_names = {node.name for node in ast.walk(ours) if isinstance(node, ast.FunctionDef)} if ours else set()
    found = []
    for module, tree in modules.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            chain = attribute_chain(node.func)
            name = chain[-1] if chain else getattr(node.func, "attr", "")
            prints = name in PRINTING - PRINTERS.get(module, set()) and not (len(chain) == 1 and name in own_names)
            writes = name in ("write", "writelines") and len(chain) > 1 and chain[-2] in STREAMS
            describes = name in ("set_description", "set_description_str") or (
                name == "tqdm" and any(keyword.arg == "desc" for keyword in node.keywords)
            )
            if prints or writes or describes:
                found.append(f"{dotted(module)}:{node.lineno} calls {'.'.join(chain) or name}")
    return found
