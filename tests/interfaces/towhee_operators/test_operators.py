"""The operators in Towhee 1.x: the published pages word for word, lists and windows, many threads at once, arguments."""

from __future__ import annotations

import dataclasses
import io
import threading
import types
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import towhee
from PIL import Image as PILImage
from support import towhee_pages as pages
from support.vector_checks import assert_same_vector
from towhee.operator import SharedType
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
    assert_same_vector(space["img_pipe"]("./teddy.jpg").get()[1], expected[f"{model} image"])
    assert_same_vector(space["text_pipe"](pages.TEXT).get()[1], expected[f"{model} text"])


def test_underscores_dashes_and_the_misspelling_of_the_head_work(models: dict[str, Any]) -> None:
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
                assert image.flags.writeable and image.flags.c_contiguous  # OpenCV's functions need this


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
    vectors = operator(kinds)
    assert isinstance(vectors, list) and len(vectors) == len(kinds)
    for row in vectors:
        assert_same_vector(row, vector)
    assert_same_vector(operator(kinds[3]), vector)
    assert abs(operator(Image(rgb, "BGR")) - vector).max() > 1e-3  # the mode is respected


def test_list_in_list_out(models: dict[str, Any]) -> None:
    operator = albef(model_name="albef_4m", modality="text")
    assert operator([]) == []
    (alone,) = operator([pages.TEXT])
    assert_same_vector(alone, models["albef_4m"].encode_text(pages.TEXT))
    assert isinstance(operator(("a", "b")), list)


def test_a_window_passes_video_frames(models: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
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
    """`pipe.batch` runs one pipeline per input at the same time; each calls the operator with one item."""
    coalesce = ite.Encoder.coalesce
    monkeypatch.setattr(ite.Encoder, "coalesce", lambda self, max_wait: coalesce(self, 2, max_wait))
    operator = towhee.ops.image_text_embedding.blip(model_name="blip_demo", modality="text", max_wait=60)
    pipe = towhee.pipe.input("text").map("text", "vec", operator).output("vec")
    rows = [result.get()[0] for result in pipe.batch(["a dog", "a bus"])]
    assert computed == [2]
    np.testing.assert_allclose(rows, ite.load("blip_demo").encode_text(["a dog", "a bus"]), atol=1e-6)


# Many threads


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
    assert len(loads) == 2  # the other tower; the first is not loaded again
    assert len({id(operator) for operator in built}) == 8


# Arguments


@pytest.mark.parametrize(
    ("operator", "model", "message"),
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
def test_unknown_model(operator: Callable[..., Any], model: Any, message: str) -> None:
    with pytest.raises(ite.UnknownModelError, match=message):
        operator(model_name=model, modality="image")


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
        pipe.output("vec")  # this builds the operators


def test_the_arguments_of_load(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(loading, "load", lambda name, **kwargs: calls.append((name, kwargs)))
    blip("blip-base", "image", checkpoint_path="weights.pth")
    with set_runtime_config(types.SimpleNamespace(device=1, acc_info=None)):  # a node's config sets this
        blip("blip_base", "text")
        blip("blip_base", "text", device="cpu", backend="openvino", precision="int8")
    by_torch = {"backend": "torch", "precision": None}
    assert calls == [
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
