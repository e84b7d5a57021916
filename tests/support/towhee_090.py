"""Towhee 0.9.0 next to the installed Towhee: an environment with only the packages that this one lacks, and a script for it.

`python_090()` builds the environment once, in the git-ignored .cache/, and returns its interpreter. Run with it in
a folder with a `teddy.jpg`, this file runs the operator pages and prints their results as JSON.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import json
import pickle
import shutil
import subprocess
import sys
import threading
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
# 0.9.0 draws pictures with OpenCV in `.show()`, and pip-installs it at that moment if it is missing.
REQUIREMENTS = ["towhee==0.9.0", "pyarrow<21", "setuptools<81", "pandas", "ipython", "opencv-python-headless"]

# Environment variables that keep Towhee in a subprocess off the network. support/environment.py sets our own caches.
OFFLINE = {"PIP_NO_INDEX": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def python_090() -> Path:
    """The interpreter of the environment, which is built if it is missing or incomplete.

    Raises:
        RuntimeError: the environment cannot be built; with pip's output.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = ROOT / ".cache" / f"towhee-0.9.0-{version}"
    python, stamp = folder / "bin" / "python", folder / "complete"
    parents = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    content = "\n".join([sys.version, sys.executable, *parents, *REQUIREMENTS])
    folder.parent.mkdir(exist_ok=True)
    # Two workers of pytest-xdist may need it at once.
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if stamp.is_file() and stamp.read_text() == content:
            return python
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, symlinks=True, with_pip=False)
        # A .pth adds its folders after the environment's own, so this towhee comes first. addsitedir also reads the parents'
        # .pth files; one of them may lead to an editable install of this project.
        lines = [f"import site; site.addsitedir({path!r})\n" for path in parents]
        (folder / "lib" / version / "site-packages" / "parents.pth").write_text("".join(lines))
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
        done = subprocess.run([*command, *REQUIREMENTS], capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise RuntimeError(f"the environment for towhee 0.9.0 cannot be built:\n{done.stdout}\n{done.stderr}")
        stamp.write_text(content)  # last, so that an interrupted build is rebuilt
    return python


def run() -> dict[str, Any]:
    """All results of 0.9.0, from one process because the imports and the weights take most of the time."""
    import towhee
    import towhee_pages as pages  # a script finds the files beside it
    from towhee.utils.thirdparty import ipython_utils

    import image_text_embedding as ite  # registers the operators

    ite._register_operators()  # a second time
    shown: list[str] = []
    ipython_utils.display = lambda html: shown.append(html.data)
    answer: dict[str, Any] = {"vectors": {}, "expected": {}, "shown": {}, "errors": {}}
    answer["version"] = importlib.metadata.version("towhee")

    for model in pages.MODELS.values():
        encoder = ite.load(model)
        answer["expected"][f"{model} image"] = encoder.encode_image("teddy.jpg").tolist()
        answer["expected"][f"{model} text"] = encoder.encode_text(pages.TEXT).tolist()
    for name, page in pages.CHAINS.items():
        exec(page, {"towhee": towhee})
        row = eval(page.replace(".show()", ".to_list()"), {"towhee": towhee})[0]
        answer["vectors"][name] = (row.vec if "named" in name else row).tolist()
        answer["shown"][name] = shown[-1]
    for family, model in pages.MODELS.items():
        space: dict[str, Any] = {}
        exec("from towhee.dc2 import pipe, ops, DataCollection", space)
        exec(pages.PIPES.format(family=family, model=model), space)
        answer["vectors"][f"{family} pipe image"] = space["img_pipe"]("./teddy.jpg").get()[1].tolist()
        answer["vectors"][f"{family} pipe text"] = space["text_pipe"](pages.TEXT).get()[1].tolist()
        answer["shown"][f"{family} pipe image"], answer["shown"][f"{family} pipe text"] = shown[-2:]

    texts = ["a dog", "a cat", "a bus"]
    chain = towhee.dc(texts).batch(2).image_text_embedding.blip(model_name="blip_base", modality="text")
    answer["lists"] = [[vector.tolist() for vector in vectors] for vectors in chain.to_list()]
    answer["expected"]["lists"] = ite.load("blip_base").encode_text(texts).tolist()
    answer["builds"] = concurrent_builds()
    answer["copied"] = copies()
    answer["decoded"] = [ops.image_decode.cv2()("teddy.jpg") for ops in (towhee.ops, towhee.dc2.ops)]

    chain = towhee.dc([""]).image_text_embedding
    pipe = towhee.dc2.pipe.input("text").map(
        "text", "vec", towhee.dc2.ops.image_text_embedding.blip(model_name="blip_base", modality="text")
    )
    for name, attempt in {
        "chain": lambda: chain.blip(model_name="blip_base", modality="text").to_list(),
        "pipe": lambda: pipe.output("vec")("").get(),
        "model": lambda: chain.blip(model_name="blip_bas", modality="text").to_list(),
    }.items():
        try:
            attempt()
        except Exception as error:
            answer["errors"][name] = [type(error).__name__, str(error)]

    # pkg_resources makes `towhee` a namespace of both versions' folders: no module may be of the other version.
    files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
    towhees = [file for file in files if "/site-packages/towhee/" in file]
    answer["foreign"] = [file for file in towhees if not file.startswith(str(Path(sys.prefix).resolve()))]
    return answer


def concurrent_builds() -> int:
    """How many operators a dc2 node builds for calls that run at the same time."""
    from towhee.dc2 import ops, pipe

    from image_text_embedding.blip import Blip

    built: list[int] = []
    together = threading.Barrier(2)  # on the smallest machine the thread pool runs two pipelines
    init, call = Blip.__init__, Blip.__call__

    def counting_init(self: Any, *args: Any, **kwargs: Any) -> None:
        built.append(1)
        init(self, *args, **kwargs)

    def waiting_call(self: Any, data: Any) -> Any:
        together.wait(timeout=60)  # both calls run at once, so neither waits for the other's operator
        return call(self, data)

    Blip.__init__, Blip.__call__ = counting_init, waiting_call
    try:
        operator = ops.image_text_embedding.blip(model_name="blip_base", modality="text")
        p = pipe.input("text").map("text", "vec", operator).output("vec")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda text: p(text).get(), ["a dog", "a cat"]))
    finally:
        Blip.__init__, Blip.__call__ = init, call
    return len(built)


def copies() -> list[bool]:
    """Whether a pickle and a copy of an operator of either registry are of its class, and give its vector."""
    from towhee.engine.operator_registry import OperatorRegistry as Legacy
    from towhee.runtime.operator_manager import OperatorRegistry

    found = []
    for registry in (Legacy, OperatorRegistry):
        operator = registry.resolve("image-text-embedding/blip")("blip_base", "text")
        vector = operator("a dog")
        for again in (pickle.loads(pickle.dumps(operator)), copy.deepcopy(operator)):
            found.append(type(again) is type(operator) and bool((again("a dog") == vector).all()))
    return found


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = run()
    json.dump(result, sys.stdout)
