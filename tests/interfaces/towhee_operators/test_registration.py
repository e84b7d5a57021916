"""Registration: twice, next to decoders of others, with the unreleased head of Towhee, and without a working Towhee."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import towhee
from support import towhee_pages as pages
from towhee.runtime import factory
from towhee.runtime.operator_manager import OperatorRegistry

import image_text_embedding as ite
from image_text_embedding.albef import Albef
from image_text_embedding.blip import Blip
from image_text_embedding.interfaces.towhee_operators import image_decoding


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """An empty registry and an empty Towhee home."""
    monkeypatch.setattr(OperatorRegistry, "REGISTRY", {})
    monkeypatch.setenv("TOWHEE_HOME", str(tmp_path))
    yield OperatorRegistry.REGISTRY


def test_registering_twice_changes_nothing(registry: dict[str, Any]) -> None:
    ite._register_operators()
    first = dict(registry)
    ite._register_operators()
    assert registry == first
    assert {"image-text-embedding/blip", "image-text-embedding/albef", "image-decode/cv2-rgb"} < set(first)


@pytest.mark.parametrize("name", ["image_decode", "image_decode/cv2", "image-decode/cv2-rgb"])
def test_a_registered_decoder_of_somebody_else_wins(name: str, registry: dict[str, Any]) -> None:
    class Theirs:
        pass

    towhee.register(name=name)(Theirs)
    ite._register_operators()
    assert OperatorRegistry.resolve(name.replace("_", "-")) is Theirs
    ours = [entry for entry in registry.values() if issubclass(entry, image_decoding.ImageDecode)]
    assert len(ours) == 3  # the other names


@pytest.mark.parametrize("name", ["towhee/image-decode", "image-decode/cv2", "image-decode/cv2-rgb"])
def test_a_local_decoder_of_somebody_else_wins(name: str, registry: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "operators" / name / "versions" / "main"
    folder.mkdir(parents=True)
    short = name.split("/")[1].replace("-", "_")
    (folder / "__init__.py").write_text(f"def {short}(): return lambda data: 'theirs'\n")
    ite._register_operators()
    wrapper = factory._OperatorWrapper(name.removeprefix("towhee/"), (), {})
    assert wrapper("teddy.jpg") == "theirs"


def test_fixed_names_of_the_unreleased_head(
    registry: dict[str, Any], models: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the head `ops.image_text_embedding` is an object of a fixed class, copied here."""
    HubOp = partial(factory.OpsParser, factory._OperatorWrapper.callback)

    class ImageTextEmbedding:
        clip = HubOp("image_text_embedding.clip")
        bilp = HubOp("image_text_embedding.blip")

    class ImageDecode:
        cv2 = HubOp("image_decode.cv2")

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return HubOp("towhee.image_decode")(*args, **kwargs)

    package = types.ModuleType("towhee.runtime.hub_ops")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, package.__name__, package)
    for name, fixed in {"image_text_embedding": ImageTextEmbedding, "image_decode": ImageDecode}.items():
        module = types.ModuleType(f"{package.__name__}.{name}")
        setattr(module, fixed.__name__, fixed)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(factory, "HubOp", HubOp, raising=False)

    theirs = ImageTextEmbedding.bilp, ImageDecode.cv2
    ite._register_operators()
    assert (ImageTextEmbedding.bilp, ImageDecode.cv2) == theirs
    ops = types.SimpleNamespace(image_text_embedding=ImageTextEmbedding(), image_decode=ImageDecode())
    for name, kind in {"blip": Blip, "bilp": Blip, "albef": Albef}.items():
        model = pages.MODELS["albef" if kind is Albef else "blip"]
        wrapper = getattr(ops.image_text_embedding, name)(model_name=model, modality="text")
        assert type(wrapper.get_op()) is kind
    assert ops.image_decode.cv2_rgb()(str(folder / "teddy.jpg")).mode == "RGB"
    assert ops.image_decode()(str(folder / "teddy.jpg")).mode == "BGR"


def test_importing_prints_nothing_and_imports_no_torch() -> None:
    code = "import image_text_embedding, sys; assert 'towhee' in sys.modules; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_broken_towhee_gives_a_warning() -> None:
    code = """if True:
        import sys, warnings
        sys.modules["pkg_resources"] = None  # as with setuptools 82
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import image_text_embedding
        assert any("setuptools<81" in str(warning.message) for warning in caught), caught
        from image_text_embedding.foundation.errors import SetupError
        try:
            from image_text_embedding.blip import blip
        except SetupError as error:
            assert "pip install towhee 'setuptools<81'" in str(error), error
        else:
            raise AssertionError("no error")
        import image_text_embedding.inference.loading  # plain Python needs no Towhee
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
