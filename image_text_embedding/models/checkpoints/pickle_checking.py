"""Checks of a pickled checkpoint before torch reads it: nothing is built, executed or inflated.

torch's restricted unpickler executes no code, but trusts sizes and structure: a small file can make it allocate gigabytes,
hash for hours or overflow the C stack. `check_pickled_file` follows the instructions of the pickle with a stack of its own,
and refuses what no checkpoint of tensors needs. torch >= 1.6 writes a zip file of uncompressed members; older versions write
five pickles, followed by the values.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from image_text_embedding.foundation.errors import CheckpointError

MAX_TENSORS = 2**16  # in a file of any format; the largest official one has about 2,000
MAX_HEADER_BYTES = 2**23  # of the names, shapes and positions of the tensors

_MAX_INSTRUCTIONS = 2**20  # about 50 per tensor
_MAX_TUPLE_ITEMS = 1000  # nested ones included: hashing visits each, as often as it occurs
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the order of the storages

_ITEM_BYTES = {
    "ByteStorage": 1,
    "CharStorage": 1,
    "BoolStorage": 1,
    "UntypedStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}
_TENSOR_FUNCTIONS = {
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
}
_FUNCTIONS = _TENSOR_FUNCTIONS | {
    "torch._tensor _rebuild_from_type_v2",
    "torch.serialization _get_layout",
    "torch Size",
    "torch device",
    "collections OrderedDict",
    "collections Counter",
    "_codecs encode",
    "__builtin__ set",
    "builtins set",
}
_CONSTANTS = ("NONE", "NEWFALSE", "NEWTRUE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "BINFLOAT")
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINSTRING")


class _Global(str):
    """The name of a function or class, as "module name"."""


class _Opaque:
    """A value whose content does not matter: a list, a dictionary, a tensor."""


@dataclass(frozen=True)
class _Counted:
    """A value on the stack, and the number of items that hashing it visits."""

    value: Any
    items: int = 1


class CodeInPickleError(Exception):
    """A pickle uses functions or classes that a dictionary of tensors does not need."""


def check_pickled_file(path: Path) -> None:
    """Check a `.pth` or `.bin` file.

    Raises:
        CheckpointError: it declares more than it contains, or more than any model; or it is compressed.
        CodeInPickleError: it contains code or objects besides tensors.
        ValueError, EOFError, OSError, zipfile.BadZipFile, ...: it is damaged, or has another format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            pickles = [_read_zip(file, path, size)]
        else:
            file.seek(0)
            start = io.BytesIO(file.read(MAX_HEADER_BYTES))
            pickles = [start] * _LEGACY_PICKLES
    storages: dict[Any, int] = {}
    for pickle in pickles:
        try:
            _check_instructions(pickle, path, storages)
        except ValueError as error:
            if pickle.tell() == MAX_HEADER_BYTES:
                raise too_many_tensors(path) from error
            raise
    if sum(storages.values()) > size:
        raise CheckpointError(
            f"{path} is not a complete checkpoint: it has {size:,} bytes, and declares tensors of "
            f"{sum(storages.values()):,}. Download or copy it again"
        )


def _read_zip(file: BinaryIO, path: Path, size: int) -> io.BytesIO:
    """The pickle in a zip file of torch, after checking that its members are stored as they are."""
    _check_directory(file, path, size)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(
            member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size for member in members
        ):
            raise CheckpointError(
                f"{path}: expected a checkpoint as torch.save writes it, got one whose members are compressed. It was "
                "rejected before inflating it: a small file can inflate to any size"
            )
        names = {member.filename.lower() for member in members}
        if len(names) < len(members):
            raise ValueError("members with equal names")
        folder = members[0].filename.partition("/")[0]
        if f"{folder}/constants.pkl".lower() in names:
            raise CodeInPickleError("it is TorchScript, a program")
        pickle = archive.getinfo(f"{folder}/data.pkl")
        if pickle.file_size > MAX_HEADER_BYTES:
            raise too_many_tensors(path)
        return io.BytesIO(archive.read(pickle))


def _check_directory(file: BinaryIO, path: Path, size: int) -> None:
    """Check the size of a zip file's directory, and that every reader finds the same directory.

    torch and Python search for its end record in different ways. There must be one, and the 64-bit one must precede it.

    Raises:
        ValueError: damaged, or ambiguous.
        CheckpointError: more members than tensors of any model.
    """
    start = max(0, size - 2**16 - 22)
    file.seek(start)
    tail = file.read()
    end = tail.find(b"PK\x05\x06")
    if end < 0 or end != tail.rfind(b"PK\x05\x06"):
        raise ValueError("no end record, or several")
    members, directory_bytes = struct.unpack_from("<HI", tail, end + 10)
    if end >= 20 and tail[end - 20 : end - 16] == b"PK\x06\x07":
        (position,) = struct.unpack_from("<Q", tail, end - 12)
        if position != start + end - 76 or tail[end - 76 : end - 72] != b"PK\x06\x06":
            raise ValueError("the 64-bit end record is not where it belongs")
        members, directory_bytes = struct.unpack_from("<QQ", tail, end - 44)
    if members > MAX_TENSORS or directory_bytes > 2 * MAX_HEADER_BYTES:
        raise too_many_tensors(path)


def too_many_tensors(path: Path) -> CheckpointError:
    """The error for a file that describes more than any known model."""
    return CheckpointError(
        f"{path}: expected at most {MAX_TENSORS:,} tensors, described in at most {MAX_HEADER_BYTES:,} bytes, got more than "
        "any known model has"
    )


def _check_instructions(pickle: BinaryIO, path: Path, storages: dict[Any, int]) -> None:
    """Follow one pickle up to its end, and add the bytes of the storages that it declares to `storages`, by their keys."""
    stack: list[_Counted] = []
    marks: list[list[_Counted]] = []
    memo: dict[Any, _Counted] = {}
    for count, (instruction, argument, _) in enumerate(pickletools.genops(pickle)):
        if count > _MAX_INSTRUCTIONS:
            raise too_many_tensors(path)
        name = instruction.name
        if name in _VALUES:
            stack.append(_Counted(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _CONSTANTS:
            stack.append(_Counted(_Opaque))
        elif name == "EMPTY_TUPLE":
            stack.append(_tuple_of([]))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            length = int(name[-1])
            stack[-length:] = [_tuple_of(stack[-length:])]
        elif name == "MARK":
            marks.append(stack)
            stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, marks.pop()
            if name == "TUPLE":
                stack.append(_tuple_of(items))
        elif name == "GLOBAL":
            stack.append(_Counted(_checked_global(str(argument))))
        elif name == "BINPERSID":
            _add_storage(stack.pop().value, storages)
            stack.append(_Counted(_Opaque))
        elif name == "REDUCE":
            arguments = stack.pop().value
            _check_call(stack.pop().value, arguments)
            stack.append(_Counted(_Opaque))
        elif name in ("APPEND", "BUILD"):
            stack.pop()
        elif name == "SETITEM":
            del stack[-2:]
        elif name == "NEWOBJ":
            raise CodeInPickleError("it creates objects")
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"unexpected instruction {name}")


def _tuple_of(items: list[_Counted]) -> _Counted:
    total = 1 + sum(item.items for item in items)
    if total > _MAX_TUPLE_ITEMS:
        raise CodeInPickleError("it nests tuples more than a state dict does")
    return _Counted(tuple(item.value for item in items), total)


def _checked_global(name: str) -> _Global:
    module, _, attribute = name.partition(" ")
    is_type = module in ("torch", "torch.nn.parameter") and attribute in ("Tensor", "Parameter")
    is_dtype = module == "torch" and attribute.startswith(("float", "bfloat", "int", "uint", "bool", "complex"))
    is_storage = module in ("torch", "torch.storage", "torch.cuda") and attribute in _ITEM_BYTES
    if not (name in _FUNCTIONS or is_type or is_dtype or is_storage):
        raise CodeInPickleError(f"it uses {name!r}")
    return _Global(name)


def _check_call(function: Any, arguments: Any) -> None:
    if not isinstance(function, _Global) or function not in _FUNCTIONS or not isinstance(arguments, tuple):
        raise CodeInPickleError("it calls what rebuilds no tensor")
    if function == "torch._tensor _rebuild_from_type_v2":  # it calls its first argument
        wrapped = arguments[0] if arguments else None
        if not isinstance(wrapped, _Global) or wrapped not in _TENSOR_FUNCTIONS:
            raise CodeInPickleError("it calls what rebuilds no tensor")
    if function == "_codecs encode" and arguments[1:] not in (("latin1",), ("latin-1",)):  # others can take hours
        raise CodeInPickleError("it encodes text in an unusual way")


def _add_storage(identity: Any, storages: dict[Any, int]) -> None:
    """Add the size of a storage, from the identity that torch.save writes: ("storage", type, key, device, items, ...)."""
    kind, key, items = identity[1], identity[2], identity[4]
    item_bytes = _ITEM_BYTES[kind.rpartition(" ")[2]]
    if items < 0 or not isinstance(key, (str, int)):
        raise ValueError(f"a storage of {items} items")
    storages[key] = max(storages.get(key, 0), items * item_bytes)
