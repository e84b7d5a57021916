"""Picture inputs: paths, URLs, bytes, files, PIL images and arrays."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pictures import ALL, LOSSLESS, RGB, encoded, pixels

from image_text_embedding.foundation.errors import FetchError, ImageError
from image_text_embedding.inputs import image_loading
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits


@pytest.mark.parametrize(
    "wrap",
    [
        lambda path, content: str(path),
        lambda path, content: path,
        lambda path, content: content,
        lambda path, content: bytearray(content),
        lambda path, content: memoryview(content + b"")[:],
        lambda path, content: memoryview(bytes(x for b in content for x in (b, 0)))[::2],
        lambda path, content: io.BytesIO(content),
        lambda path, content: Image.open(io.BytesIO(content)),
        lambda path, content: Image.fromarray(RGB),
        lambda path, content: RGB,
        lambda path, content: "data:image/png;base64," + base64.b64encode(content).decode(),
    ],
    ids=["str", "Path", "bytes", "bytearray", "memoryview", "strided", "file", "lazy PIL", "PIL", "array", "data:"],
)
def test_every_form_of_one_picture_gives_the_same_pixels(wrap: Callable[[Path, bytes], Any], tmp_path: Path) -> None:
    content = encoded(Image.fromarray(RGB))
    path = tmp_path / "pïcture.png"
    path.write_bytes(content)
    assert (pixels(wrap(path, content)) == RGB).all()


def test_a_url_is_fetched_with_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        image_loading, "fetch_picture", lambda *call: calls.append(call) or encoded(Image.fromarray(RGB))
    )
    assert (pixels("https://pictures.test/a", max_bytes=9999) == RGB).all()
    assert calls == [("https://pictures.test/a", Limits(max_bytes=9999))]


def test_errors_of_urls_name_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match="not at a public address"):
        load_picture("http://127.0.0.1/x.jpg")
    with pytest.raises(FetchError, match="got 's3'"):
        load_picture("s3://bucket/x.jpg")
    monkeypatch.setattr(image_loading, "fetch_picture", lambda *_: b"<!DOCTYPE html><html>")
    with pytest.raises(
        ImageError, match=r"http://pictures\.test/a\?…: expected a picture .*, got an HTML page$"
    ) as caught:
        load_picture("http://pictures.test/a?key=hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("format", ALL)
def test_ordinary_formats(format: str) -> None:
    flat = np.full((24, 40, 3), (200, 100, 50), dtype=np.uint8)
    assert np.abs(pixels(encoded(Image.fromarray(flat), format)).astype(int) - flat).max() <= 4
    if format in LOSSLESS:
        assert (pixels(encoded(Image.fromarray(RGB), format, **LOSSLESS[format])) == RGB).all()


@pytest.mark.parametrize("wrong", [None, 3, 2.5, [RGB], (RGB,), {"image": RGB}, object(), np.uint8(3)])
def test_other_types_are_named(wrong: Any) -> None:
    with pytest.raises(ImageError, match=rf"expected a path, .*; got .*{type(wrong).__name__}"):
        load_picture(wrong)


def test_a_tensor_is_named() -> None:
    import torch

    with pytest.raises(ImageError, match=r"got torch\.Tensor: pass x\.permute\(1, 2, 0\)\.cpu\(\)\.numpy\(\)$"):
        load_picture(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_base64_without_a_header_is_recognised(format: str) -> None:
    """As short and long strings: only the first is a name that a file may have."""
    flat = encoded(Image.new("RGB", (24, 40)), format)
    for content in (flat, flat + bytes(9000)):
        text = base64.b64encode(content).decode()
        url = f"data:image/{format.lower()};base64,"
        with pytest.raises(ImageError, match=f"{len(text)} characters that begins like {format} in base64") as caught:
            load_picture(text)
        assert f"'{url}' + text" in str(caught.value) and len(str(caught.value)) < 200
        assert load_picture(url + text).size == (24, 40)


@pytest.mark.parametrize("name", ["a" * 64, "A" * 9000, "ä" * 70, "/9j/", "file.jpg"])
def test_other_missing_files_are_only_missing(name: str) -> None:
    with pytest.raises(ImageError, match=r"no such file|cannot open") as caught:
        load_picture(name)
    assert "base64" not in str(caught.value)


def test_a_file_url_is_refused_in_one_line() -> None:
    with pytest.raises(ImageError, match=r"got 'file'\. Give a local file as a plain path$"):
        load_picture("file:///tmp/a.jpg")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (RGB[:, :, 0], RGB[:, :, [0, 0, 0]]),
        (RGB[:, :, :1], RGB[:, :, [0, 0, 0]]),
        (np.dstack([RGB, RGB[:, :, 0]]), RGB),
        (RGB[::-1, ::-2], RGB[::-1, ::-2]),
        (RGB[:, :, ::-1], RGB[:, :, ::-1]),
        (RGB.transpose(1, 0, 2), RGB.transpose(1, 0, 2)),
        (np.asfortranarray(RGB), RGB),
        (np.asfortranarray(RGB[:, :, 1]), RGB[:, :, [1, 1, 1]]),
        (RGB.astype(np.uint16) * 257, RGB),
        (RGB.astype(">u2") * 256 + 255, RGB),
        (RGB[:, :, 2].astype(np.uint16) * 256, RGB[:, :, [2, 2, 2]]),
        (RGB[:1, :1], RGB[:1, :1]),
    ],
    ids=[
        "RGB",
        "grey",
        "grey 3-D",
        "RGBA",
        "negative strides",
        "channels reversed",
        "transposed",
        "Fortran",
        "Fortran grey",
        "16 bits",
        "16 bits big-endian",
        "16 bits grey",
        "one pixel",
    ],
)
def test_arrays(array: np.ndarray, expected: np.ndarray) -> None:
    before = array.copy()
    assert (pixels(array) == expected).all()
    assert (array == before).all()


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
def test_the_picture_does_not_share_the_arrays_pixels(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 7, dtype=np.uint8)
    picture = load_picture(array)
    array[:] = 99
    assert (np.array(picture) == 7).all()


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int16", "int64", "uint32", "uint64", "float16", "float64", "O", "S1"]
)
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(ImageError, match=r"expected an array of uint8 .*scale it and convert it"):
        load_picture(np.zeros((4, 4, 3), dtype=dtype))


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 2), (4, 4, 5), (3, 4, 5), (1, 4, 4, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"expected an array \(H, W\).*got shape") as caught:
        load_picture(np.zeros(shape, dtype=np.uint8))
    assert str(shape) in str(caught.value)


def test_towhee_images_are_read_by_their_mode() -> None:
    from towhee.types import Image as TowheeImage

    rgba = np.dstack([RGB, RGB[:, :, 0]])
    same = [
        (RGB, "RGB"),
        (RGB[:, :, ::-1], "BGR"),
        (RGB[:, :, ::-1].copy(), "bgr"),
        (rgba, "RGBA"),
        (rgba[:, :, [2, 1, 0, 3]], "BGRA"),
        (RGB, None),
        (rgba, None),
        (RGB.astype(np.uint16)[:, :, ::-1] * 257, "BGR"),
    ]
    for array, mode in same:
        assert (pixels(TowheeImage(array, mode)) == RGB).all(), mode
    for grey in (RGB[:, :, 0], RGB[:, :, :1]):
        assert (pixels(TowheeImage(grey, "GRAY")) == RGB[:, :, [0, 0, 0]]).all()
    assert (pixels(TowheeImage(RGB, "BGR")[2:9]) == RGB[2:9, :, ::-1]).all()  # a slice has the same mode


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("HSV", (4, 4, 3)),
        ("", (4, 4, 3)),
        ("BGR", (4, 4)),
        ("GRAY", (4, 4, 3)),
        ("RGB", (4, 4, 4)),
        ("RGBA", (4, 4, 3)),
    ],
)
def test_modes_that_do_not_fit_are_refused(mode: str, shape: tuple[int, ...]) -> None:
    from towhee.types import Image as TowheeImage

    with pytest.raises(ImageError, match=r"RGB \(3 channels\), BGR \(3 channels\), .*GRAY \(1 channels\) or None, got"):
        load_picture(TowheeImage(np.zeros(shape, dtype=np.uint8), mode))


def test_a_closed_pil_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    with Image.open(path) as left:  # closed on leaving, before its pixels were read
        pass
    closed = Image.open(path)
    closed.close()
    in_memory = Image.fromarray(RGB)
    in_memory.close()
    with path.open("rb") as file:
        without_file = Image.open(file)
    for picture in (left, closed, in_memory, without_file):
        with pytest.raises(ImageError, match=r"was closed: .*image\.copy\(\)"):
            load_picture(picture)
    with Image.open(path) as loaded:
        loaded.load()
    assert (np.asarray(load_picture(loaded)) == RGB).all()  # the pixels were read in time
