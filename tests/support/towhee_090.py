"""Towhee 0.9.0 beside the installed one: an environment that holds only what this one lacks, and what is run in it.

`python_090()` builds it, once, in the git-ignored .cache/, and gives its interpreter. With that interpreter this file is a
script: in the current folder, with a `teddy.jpg`, it runs the operator pages and prints what came of them as JSON.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import threading
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# OpenCV: in `.show()` 0.9.0 draws pictures with it, and would pip-install it there and then.
REQUIREMENTS = ["towhee==0.9.0", "pyarrow<21", "setuptools<81", "pandas", "ipython", "opencv-python-headless"]

# Of a subprocess's environment: what keeps Towhee from the network. Our own caches are set in conftest.py.
OFFLINE = {"PIP_NO_INDEX": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def python_090() -> Path:
    """The interpreter of the environment, which is built where it is not there or not whole.

    Raises:
        RuntimeError: it cannot be built; with pip's output.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = ROOT / ".cache" / f"towhee-0.9.0-{version}"
    python, stamp = folder / "bin" / "python", folder / "complete"
    parents = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    content = "\n".join([sys.version, sys.executable, *parents, *REQUIREMENTS])
    if stamp.is_file() and stamp.read_text() == content:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True, with_pip=False)
    # A .pth adds its folders behind the environment's own, so this towhee comes first. addsitedir reads the parents' own
    # .pth files, too: by one of them an editable install of this project is found.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in parents]
    (folder / "lib" / version / "site-packages" / "parents.pth").write_text("".join(lines))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
    done = subprocess.run([*command, *REQUIREMENTS], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"the environment for towhee 0.9.0 cannot be built:\n{done.stdout}\n{done.stderr}")
    stamp.write_text(content)  # last: a build that was cut short is begun anew
    return python


def run() -> dict[str, Any]:
    """Everything that is tried with 0.9.0, in one process, because its imports and the weights take most of the time."""
    import towhee
    from towhee.utils.thirdparty import ipython_utils

    import image_text_embedding as ite  # all that it takes
    from support import towhee_pages as pages  # beside this file

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

    # pkg_resources makes `towhee` a namespace of both versions' folders: nothing may have come from the other one.
    files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
    towhees = [file for file in files if "/site-packages/towhee/" in file]
    answer["foreign"] = [file for file in towhees if not file.startswith(str(Path(sys.prefix).resolve()))]
    return answer


def concurrent_builds() -> int:
    """How many operators a dc2 node builds for calls that run at the same time."""
    from towhee.dc2 import ops, pipe

    from image_text_embedding.blip import Blip

    built: list[int] = []
    together = threading.Barrier(2)  # its thread pool has room for two pipelines on the smallest machine
    init, call = Blip.__init__, Blip.__call__

    def counting_init(self: Any, *args: Any, **kwargs: Any) -> None:
        built.append(1)
        init(self, *args, **kwargs)

    def waiting_call(self: Any, data: Any) -> Any:
        together.wait(timeout=60)  # until both are inside: neither can have waited for the other's operator
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


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = run()
    json.dump(result, sys.stdout)
