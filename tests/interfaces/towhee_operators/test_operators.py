"""The Towhee operators: the published pages word for word in both generations, registration, and many threads at once."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import towhee
from PIL import Image as PILImage
from sklearn.datasets import load_sample_image
from support import towhee_pages as pages
from support.towhee_090 import OFFLINE, python_090
from towhee.operator import SharedType
from towhee.runtime import factory
from towhee.runtime.operator_manager import OperatorRegistry
from towhee.runtime.runtime_conf import set_runtime_config
from towhee.types import Image, VideoFrame

import image_text_embedding as ite
from image_text_embedding.albef import Albef, albef
from image_text_embedding.blip import Blip, blip
from image_text_embedding.inference import loading
from image_text_embedding.interfaces.towhee_operators import image_decoding
from image_text_embedding.interfaces.towhee_operators import operators as operators_module
from image_text_embedding.models import part_cache
from image_text_embedding.models.config_files import model_config

PHOTO = load_sample_image("china.jpg")  # (427, 640, 3) uint8 RGB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `teddy.jpg`."""
    folder = tmp_path_factory.mktemp("pages")
    PILImage.fromarray(PHOTO).save(folder / "teddy.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def models(home: Path) -> dict[str, Any]:
    """Both encoders, kept for the module, so that every operator in it shares their towers."""
    return {name: ite.load(name) for name in pages.MODELS.values()}


@pytest.fixture(scope="module")
def expected(folder: Path, models: dict[str, Any]) -> dict[str, np.ndarray]:
    vectors = {f"{name} image": model.encode_image(folder / "teddy.jpg") for name, model in models.items()}
    return vectors | {f"{name} text": model.encode_text(pages.TEXT) for name, model in models.items()}


def same(vector: Any, expected: np.ndarray) -> None:
    """A (256,) float32 vector of length 1, equal to what plain Python gives for the same file or text."""
    assert isinstance(vector, np.ndarray) and vector.shape == (256,) and vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(vector, expected, atol=2e-6)


# Towhee 1.x, in this process


@pytest.mark.parametrize("family", pages.MODELS)
def test_page_of_1x(
    family: str,
    folder: Path,
    expected: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    model = pages.MODELS[family]
    space: dict[str, Any] = {}
    exec("from towhee import pipe, ops, DataCollection", space)
    exec(pages.PIPES.format(family=family, model=model), space)
    shown = capsys.readouterr().out
    assert "mode=RGB" in shown and pages.TEXT in shown and shown.count("shape=(256,)") == 2
    same(space["img_pipe"]("./teddy.jpg").get()[1], expected[f"{model} image"])
    same(space["text_pipe"](pages.TEXT).get()[1], expected[f"{model} text"])


def test_underscore_and_dash_are_equal_and_the_heads_misspelling_works(models: dict[str, Any]) -> None:
    for space in ("image_text_embedding", "image-text-embedding"):
        for name, kind in {"blip": Blip, "bilp": Blip, "albef": Albef}.items():
            model = pages.MODELS["albef" if kind is Albef else "blip"]
            wrapper = getattr(getattr(towhee.ops, space), name)(model_name=model, modality="text")
            assert type(wrapper.get_op()) is kind


def test_bare_and_named_decoders(folder: Path) -> None:
    path = str(folder / "teddy.jpg")
    ops = towhee.ops
    modes = {
        "BGR": [ops.image_decode(), ops.towhee.image_decode(), ops.image_decode.cv2(), ops.image_decode.cv2("bgr")],
        "RGB": [ops.image_decode.cv2_rgb(), ops.image_decode.cv2("rgb"), ops.image_decode.cv2(mode="RGB")],
    }
    reference = np.asarray(PILImage.open(path))
    for mode, decoders in modes.items():
        for decode in decoders:
            for data in (path, (folder / "teddy.jpg").read_bytes()):
                image = decode(data)
                assert isinstance(image, Image) and image.mode == mode and image.dtype == np.uint8
                np.testing.assert_array_equal(image, reference if mode == "RGB" else reference[:, :, ::-1])
                assert image.flags.writeable and image.flags.c_contiguous  # what OpenCV's functions need


def test_decoder_errors_are_ours(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    with pytest.raises(ite.ImageError):
        image_decoding.ImageDecode()(str(tmp_path / "broken.jpg"))
    with pytest.raises(ite.InputError, match="expected 'BGR' or 'RGB', got 'HSV'"):
        image_decoding.ImageDecode("HSV")


def test_every_kind_of_picture(folder: Path, models: dict[str, Any]) -> None:
    operator = blip(model_name="blip_base", modality="image")
    with PILImage.open(folder / "teddy.jpg") as opened:
        pil = opened.convert("RGB")
    rgb = np.asarray(pil)
    encoded = io.BytesIO()
    pil.save(encoded, "png")
    kinds = [
        pil,
        rgb,
        Image(rgb, "RGB"),
        Image(rgb[:, :, ::-1], "BGR"),
        VideoFrame(rgb, "RGB", 0, False),
        folder / "teddy.jpg",
        str(folder / "teddy.jpg"),
        encoded.getvalue(),
    ]
    vector = models["blip_base"].encode_image(pil)
    many = operator(kinds)
    assert isinstance(many, list) and len(many) == len(kinds)
    for row in many:
        same(row, vector)
    same(operator(kinds[3]), vector)
    assert abs(operator(Image(rgb, "BGR")) - vector).max() > 1e-3  # the mode is not merely ignored


def test_list_in_list_out(models: dict[str, Any]) -> None:
    operator = albef(model_name="albef_4m", modality="text")
    assert operator([]) == []
    (alone,) = operator([pages.TEXT])
    same(alone, models["albef_4m"].encode_text(pages.TEXT))
    assert isinstance(operator(("a", "b")), list)


def test_window_hands_over_video_frames(models: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    frames = [VideoFrame(np.full((32, 32, 3), 40 * i, np.uint8), "BGR", i, True) for i in range(3)]
    operator = towhee.ops.image_text_embedding.blip(model_name="blip_base", modality="image")
    pipe = towhee.pipe.input("frames").flat_map("frames", "frame", lambda frames: frames)
    results = pipe.window("frame", "vecs", 2, 2, operator).output("vecs")(frames)
    rows = [row for _ in range(results.size) for row in results.get()[0]]
    np.testing.assert_allclose(rows, models["blip_base"].encode_image(frames), atol=2e-6)


@pytest.mark.parametrize("kind", ["window", "window_all", "time_window"])
def test_every_window_is_one_batch(kind: str, computed: list[int]) -> None:
    texts = [f"{number} dogs" for number in ["one", "two", "three", "four", "five"]]
    operator = towhee.ops.image_text_embedding.blip(model_name="blip_demo", modality="text")
    pipe = towhee.pipe.input("texts").flat_map("texts", ("text", "ms"), lambda texts: texts)
    if kind == "window":
        pipe = pipe.window("text", "vecs", 3, 3, operator)
    elif kind == "window_all":
        pipe = pipe.window_all("text", "vecs", operator)
    else:
        pipe = pipe.time_window("text", "vecs", "ms", 3, 3, operator)
    results = pipe.output("vecs")([(text, 1000 * i) for i, text in enumerate(texts)])
    rows = [row for _ in range(results.size) for row in results.get()[0]]
    assert computed == ([5] if kind == "window_all" else [3, 2])
    np.testing.assert_allclose(rows, ite.load("blip_demo").encode_text(texts), atol=1e-5)


def test_single_calls_of_a_pipes_batch_are_computed_together(
    computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pipe.batch` runs one pipeline for each input, at the same time: each calls the operator with one item."""
    coalesce = ite.Encoder.coalesce
    monkeypatch.setattr(ite.Encoder, "coalesce", lambda self, max_wait: coalesce(self, 2, max_wait))
    operator = towhee.ops.image_text_embedding.blip(model_name="blip_demo", modality="text", max_wait=60)
    pipe = towhee.pipe.input("text").map("text", "vec", operator).output("vec")
    rows = [result.get()[0] for result in pipe.batch(["a dog", "a bus"])]
    assert computed == [2]
    np.testing.assert_allclose(rows, ite.load("blip_demo").encode_text(["a dog", "a bus"]), atol=1e-6)


# Many at once


def test_eight_threads_at_once_give_what_one_gives(models: dict[str, Any]) -> None:
    operator = blip(model_name="blip_base", modality="text")
    assert operator.shared_type is SharedType.Shareable
    texts = [f"{number} dogs on a beach with a ball and a stick" for number in range(8)]
    together = threading.Barrier(8)

    def call(text: str) -> np.ndarray:
        together.wait(timeout=60)
        return operator(text)

    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(call, texts))
    np.testing.assert_allclose(at_once, [operator(text) for text in texts], atol=1e-6)


def test_eight_nodes_built_at_once_share_one_set_of_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_cache, "_parts", weakref.WeakValueDictionary())
    loads: list[int] = []
    load_weights = part_cache.load_weights

    def counting(*args: Any, **kwargs: Any) -> Any:
        loads.append(1)
        return load_weights(*args, **kwargs)

    monkeypatch.setattr(part_cache, "load_weights", counting)
    together = threading.Barrier(8)

    def build(_: int) -> Any:
        together.wait(timeout=60)
        return towhee.ops.image_text_embedding.albef(model_name="albef_4m", modality="text").get_op()

    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(build, range(8)))
    assert len(loads) == 1
    albef(model_name="albef_4m", modality="image")
    assert len(loads) == 2  # the other tower, and not this one again
    assert len({id(operator) for operator in built}) == 8


# Arguments


@pytest.mark.parametrize(
    ("make", "model", "says"),
    [
        (
            blip,
            "blip_bas",
            "unknown model 'blip_bas' — did you mean 'blip_base'\\? Models of blip that embed: blip_base,",
        ),
        (
            albef,
            "blip_base",
            r"is of the family 'blip': use image_text_embedding.blip\(model_name='blip_base', ...\), or one of albef_14m,",
        ),
        (blip, None, "unknown model None. Models of blip"),
    ],
)
def test_unknown_model(make: Callable[..., Any], model: Any, says: str) -> None:
    with pytest.raises(ite.UnknownModelError, match=says):
        make(model_name=model, modality="image")


def test_a_model_that_makes_no_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(model_config("blip_base"), name="blip_vqa", tasks=("answer",))
    monkeypatch.setattr(operators_module, "list_models", lambda: ["blip_base", "blip_vqa"])
    monkeypatch.setattr(
        operators_module, "model_config", lambda name: config if name == "blip_vqa" else model_config(name)
    )
    assert Blip.supported_model_names() == ["blip_base"]
    with pytest.raises(ite.UnknownModelError, match="'blip_vqa' cannot embed: use one of blip_base"):
        blip("blip_vqa", "text")


@pytest.mark.parametrize("modality", ["img", None, "both"])
def test_unknown_modality(modality: Any) -> None:
    with pytest.raises(ite.InputError, match=f"modality: expected 'image' or 'text', got {modality!r}"):
        blip("blip_base", modality)


def test_the_pipes_error_carries_our_message(models: dict[str, Any]) -> None:
    operator = towhee.ops.image_text_embedding.blip
    pipe = towhee.pipe.input("text").map("text", "vec", operator(model_name="blip_base", modality="text")).output("vec")
    try:
        blip("blip_base", "text")("")
    except ite.TextError as error:
        ours = str(error)
    with pytest.raises(RuntimeError) as caught:
        pipe("")
    assert ours in str(caught.value)
    pipe = towhee.pipe.input("text").map("text", "vec", operator(model_name="blip_bas", modality="text"))
    with pytest.raises(RuntimeError, match="did you mean 'blip_base'"):
        pipe.output("vec")  # which builds the operators


def test_what_load_is_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(loading, "load", lambda name, **kwargs: asked.append((name, kwargs)))
    blip("blip-base", "image", checkpoint_path="weights.pth")
    with set_runtime_config(types.SimpleNamespace(device=1, acc_info=None)):  # what a node's config sets
        blip("blip_base", "text")
        blip("blip_base", "text", device="cpu", backend="openvino", precision="int8")
    by_torch = {"backend": "torch", "precision": None}
    assert asked == [
        ("blip_base", {"modality": "image", "device": None, "checkpoint": "weights.pth", **by_torch}),
        ("blip_base", {"modality": "text", "device": "cuda:1", "checkpoint": None, **by_torch}),
        (
            "blip_base",
            {"modality": "text", "device": "cpu", "checkpoint": None, "backend": "openvino", "precision": "int8"},
        ),
    ]


def test_names_and_schemas(models: dict[str, Any]) -> None:
    embedding = {name for name in ite.list_models() if "embed" in model_config(name).tasks}
    assert set(Blip.supported_model_names()) | set(Albef.supported_model_names()) == embedding
    assert all(model_config(name).family == "albef" for name in Albef.supported_model_names())
    assert Blip.supported_model_names(format="pytorch") == Blip.supported_model_names()
    assert Blip.supported_model_names(format="onnx") == Blip.supported_model_names()
    assert Blip.supported_model_names(format="tensorrt") == []
    image, text = blip("blip_base", "image"), blip("blip_base", "text")
    assert image.input_schema() == [(Image, (-1, -1, 3))] and text.input_schema() == [(str, (1,))]
    assert image.output_schema() == text.output_schema() == [(np.float32, (256,))]


# Registration


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
def test_a_registered_decoder_of_theirs_wins(name: str, registry: dict[str, Any]) -> None:
    class Theirs:
        pass

    towhee.register(name=name)(Theirs)
    ite._register_operators()
    assert OperatorRegistry.resolve(name.replace("_", "-")) is Theirs
    ours = [entry for entry in registry.values() if issubclass(entry, image_decoding.ImageDecode)]
    assert len(ours) == 3  # the other names


@pytest.mark.parametrize("name", ["towhee/image-decode", "image-decode/cv2", "image-decode/cv2-rgb"])
def test_a_local_decoder_of_theirs_wins(name: str, registry: dict[str, Any], tmp_path: Path) -> None:
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
    """The head's `ops.image_text_embedding` is an object of a fixed class; these are its lines."""
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


def test_importing_is_quiet_and_brings_no_torch() -> None:
    code = "import image_text_embedding, sys; assert 'towhee' in sys.modules; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_broken_towhee_is_named() -> None:
    code = """if True:
        import sys, warnings
        sys.modules["pkg_resources"] = None  # as setuptools 82 leaves it
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


# Towhee 0.9.0, in its own environment


@pytest.fixture(scope="module")
def legacy(folder: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/towhee_090.py prints when it runs beside `teddy.jpg`."""
    if sys.version_info >= (3, 12):
        pytest.skip("towhee 0.9.0 does not run on Python 3.12 and later")
    python, script = python_090(), Path(__file__).parents[2] / "support" / "towhee_090.py"
    user = tmp_path_factory.mktemp("user")
    theirs = user / ".towhee" / "operators" / "image-decode" / "cv2" / "main"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("def cv2(): return lambda data: 'theirs'\n")
    environment = os.environ | OFFLINE | {"HOME": str(user)}
    done = subprocess.run([python, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_090_ran_and_nothing_came_from_the_other_version(legacy: dict[str, Any]) -> None:
    assert legacy["version"] == "0.9.0" and legacy["foreign"] == []


@pytest.mark.parametrize(
    ("page", "model", "modality", "shows"),
    [
        ("image", "blip_base", "image", "shape=(256,)"),
        ("text", "blip_base", "text", "shape=(256,)"),
        ("named image", "blip_base", "image", "<img src="),
        ("named text", "blip_base", "text", pages.TEXT),
        ("blip pipe image", "blip_base", "image", "<img src="),
        ("blip pipe text", "blip_base", "text", pages.TEXT),
        ("albef pipe image", "albef_4m", "image", "<img src="),
        ("albef pipe text", "albef_4m", "text", pages.TEXT),
    ],
)
def test_page_of_090(
    page: str, model: str, modality: str, shows: str, legacy: dict[str, Any], expected: dict[str, np.ndarray]
) -> None:
    assert shows in legacy["shown"][page] and "shape=(256,)" in legacy["shown"][page]
    same(np.float32(legacy["vectors"][page]), np.float32(legacy["expected"][f"{model} {modality}"]))
    same(np.float32(legacy["vectors"][page]), expected[f"{model} {modality}"])


def test_batch_of_090_hands_over_lists(legacy: dict[str, Any]) -> None:
    assert [len(vectors) for vectors in legacy["lists"]] == [2, 1]
    rows = [row for vectors in legacy["lists"] for row in vectors]
    np.testing.assert_allclose(rows, legacy["expected"]["lists"], atol=2e-6)


def test_090_shares_one_operator_between_calls_at_once(legacy: dict[str, Any]) -> None:
    assert legacy["builds"] == 1


def test_090_keeps_a_local_decoder_of_theirs(legacy: dict[str, Any]) -> None:
    assert legacy["decoded"] == ["theirs", "theirs"]  # of the chains' registry and of dc2's


def test_090_errors(legacy: dict[str, Any]) -> None:
    kind, message = legacy["errors"]["chain"]
    assert kind == "TextError"  # dc raises the operator's own exception,
    assert legacy["errors"]["pipe"][0] == "RuntimeError" and message in legacy["errors"]["pipe"][1]  # a pipe wraps it
    kind, message = legacy["errors"]["model"]
    assert kind == "UnknownModelError" and "did you mean 'blip_base'" in message
