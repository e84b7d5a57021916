"""JPEG through torchcodec for `decode="device"`: what is taken, what is left to the processor, and equal pictures.

There is no GPU here: torchcodec's function is replaced by one that decodes by PIL, or called with the device "cpu".
"""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inputs.decoding.jpeg.gpu_decoding import GpuJpegDecoder
from image_text_embedding.inputs.image_loading import decoded_picture
from image_text_embedding.inputs.pixels import resize_pixels, to_pixels
from image_text_embedding.models.devices import DeviceSpec

SIZE = 64
CPU = torch.device("cpu")


def picture(size: tuple[int, int] = (320, 200), seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    return Image.fromarray(random).resize(size, Image.Resampling.BICUBIC)


def jpeg(shown: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def turned(orientation: int) -> Any:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What torchcodec was asked to decode, the sample at the start left out."""
    seen: list[bytes] = []

    def decode_jpeg(source: bytes, *, mode: str, device: torch.device) -> torch.Tensor:
        assert (mode, device) == ("RGB", CPU)
        seen.append(source)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(source))).convert("RGB")
        return torch.from_numpy(np.array(upright)).permute(2, 0, 1)

    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(decode_jpeg=decode_jpeg))
    return seen


def decoded(content: bytes, gpu: GpuJpegDecoder | None) -> np.ndarray:
    with decoded_picture(content, gpu=gpu) as found:
        return to_pixels(found, SIZE)


ORDINARY = {
    "rgb": jpeg(picture()),
    "grey": jpeg(picture().convert("L")),
    "progressive": jpeg(picture(), progressive=True),
    "small colours": jpeg(picture(), subsampling=2),
    "bytes at the end": jpeg(picture()) + b"\0\0",
    **{f"turned {n}": jpeg(picture(), exif=turned(n)) for n in range(1, 9)},
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_jpegs_are_decoded_on_the_device(kind: str, calls: list[bytes]) -> None:
    gpu = GpuJpegDecoder(CPU, SIZE, resize_pixels)
    assert gpu.is_available
    calls.clear()
    found = decoded(ORDINARY[kind], gpu)
    assert calls == [ORDINARY[kind]] and found.shape == (SIZE, SIZE, 3)
    assert np.abs(found.astype(int) - decoded(ORDINARY[kind], None)).max() <= 3


def png() -> bytes:
    file = io.BytesIO()
    picture().save(file, "PNG")
    return file.getvalue()


OTHERS = {
    "png": png(),
    "cmyk": jpeg(picture().convert("CMYK")),
    "rgb without conversion": jpeg(picture(), keep_rgb=True),
    "many bytes": jpeg(picture((8, 8))) + bytes(100_000),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_left_to_the_processor(kind: str, calls: list[bytes]) -> None:
    gpu = GpuJpegDecoder(CPU, SIZE, resize_pixels)
    assert gpu.is_available
    calls.clear()
    assert np.array_equal(decoded(OTHERS[kind], gpu), decoded(OTHERS[kind], None)) and not calls


def test_a_truncated_one_is_an_error_as_on_the_processor(calls: list[bytes]) -> None:
    thumbnail = Image.Exif()
    thumbnail[0x010E] = jpeg(picture((16, 16))).decode("latin-1")  # has an end of its own
    for content in (jpeg(picture()), jpeg(picture(), exif=thumbnail)):
        gpu = GpuJpegDecoder(CPU, SIZE, resize_pixels)
        assert gpu.is_available
        calls.clear()
        with pytest.raises(ImageError, match="truncated"):
            decoded(content[:-500], gpu)
        assert not calls


def test_what_the_device_refuses_is_decoded_by_the_processor(
    calls: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = GpuJpegDecoder(CPU, SIZE, resize_pixels)
    assert gpu.is_available

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("nvjpegDecode failed: 2")

    monkeypatch.setattr(gpu, "_decode", refuse)
    assert np.array_equal(decoded(ORDINARY["rgb"], gpu), decoded(ORDINARY["rgb"], None))


def test_without_torchcodec_or_with_other_colours_the_processor_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert not GpuJpegDecoder(CPU, SIZE, resize_pixels).is_available

    def in_bgr(source: bytes, **_: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(io.BytesIO(source)))[..., ::-1].copy()).permute(2, 0, 1)

    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(decode_jpeg=in_bgr))
    gpu = GpuJpegDecoder(CPU, SIZE, resize_pixels)
    assert not gpu.is_available
    assert np.array_equal(decoded(ORDINARY["rgb"], gpu), decoded(ORDINARY["rgb"], None))


def test_the_encoder_uses_it_on_cuda_only(calls: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    model = ite.load("blip_demo", device="cpu", modality="image")
    assert model.runtime.gpu_decoder is None
    on_cuda = SimpleNamespace(device=torch.device("cuda", 1), device_spec=DeviceSpec("cuda", 1), config=model.config)
    made = ModelRuntime.gpu_decoder.func(on_cuda)  # type: ignore[attr-defined]
    assert (made.device, made.size) == (torch.device("cuda", 1), model.config.vision.image_size)
    contents = [jpeg(picture((400, 300), seed)) for seed in range(3)]
    broken = [contents[0], contents[1][:-300], contents[2]]
    exact = model.encode_image(contents)
    errors = model.encode_image(broken, on_error="skip")[1]
    monkeypatch.setitem(
        vars(model.runtime), "gpu_decoder", GpuJpegDecoder(CPU, model.config.vision.image_size, resize_pixels)
    )
    assert (exact * model.encode_image(contents, decode="device")).sum(1).min() > 0.9999
    assert sorted(calls[-3:]) == sorted(contents)
    vectors, ours = model.encode_image(broken, decode="device", on_error="skip")
    assert [(index, str(error)) for index, error in ours] == [(index, str(error)) for index, error in errors]
    assert (exact * vectors)[[0, 2]].sum(1).min() > 0.9999


def test_torchcodec_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = pytest.importorskip("torchcodec.decoders")
    if not hasattr(decoders, "decode_jpeg"):
        pytest.skip("torchcodec before 0.16")
    gpu = GpuJpegDecoder(CPU, SIZE, resize_pixels)
    assert gpu.is_available
    for content in ORDINARY.values():
        assert np.abs(decoded(content, gpu).astype(int) - decoded(content, None)).max() <= 3
    with pytest.raises(ImageError, match="truncated"):
        decoded(jpeg(picture())[:-500], gpu)
