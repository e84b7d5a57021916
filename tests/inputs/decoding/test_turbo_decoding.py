"""JPEG through simplejpeg: PIL's pixels, PIL's errors, PIL's orientation; anything else is left to PIL."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.decoding.jpeg import turbo_decoding
from image_text_embedding.inputs.decoding.jpeg.reduced_size import SHOWN, shown_part
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits

pytest.importorskip("simplejpeg")


@pytest.fixture
def by_pil(monkeypatch: pytest.MonkeyPatch) -> Any:
    """load_picture without simplejpeg, as its pixels or its message."""

    def load(content: bytes, *args: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(turbo_decoding, "_decoder", lambda: None)
            return result(content, *args)

    return load


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether simplejpeg gave the pixels, for each JPEG that was decoded."""
    seen: list[bool] = []
    decode = turbo_decoding.decode

    def noted(*args: Any) -> Any:
        found = decode(*args)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(turbo_decoding, "decode", noted)
    return seen


def result(content: bytes, *args: Any) -> Any:
    try:
        return np.asarray(load_picture(content, *args))
    except ImageError as error:
        return str(error)


def same(one: Any, other: Any) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(isinstance(other, str) and one == other)


def picture(width: int = 67, height: int = 45, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(small).astype(int) + noise, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def ordinary() -> Iterator[tuple[str, bytes]]:
    for size, subsampling, progressive, quality in itertools.product(
        [(1, 1), (7, 3), (16, 16), (67, 45), (250, 33)], [0, 1, 2, "4:1:1"], [False, True], [30, 95]
    ):
        options = {"subsampling": subsampling, "progressive": progressive, "quality": quality}
        yield f"{size} {options}", jpeg(picture(*size), **options)
    yield "grey", jpeg(picture().convert("L"))
    yield "grey, progressive", jpeg(picture().convert("L"), progressive=True)
    yield "kept as RGB", jpeg(picture(), keep_rgb=True)
    yield "restart markers", jpeg(picture(), restart_marker_blocks=2)
    yield "ICC profile and comment", jpeg(picture(), icc_profile=b"profile", comment=b"hello")
    yield "optimised", jpeg(picture(), optimize=True)
    yield "bytes behind the end", jpeg(picture()) + b"more" * 50
    file = io.BytesIO()
    picture().save(file, "MPO", save_all=True, append_images=[picture(seed=1)])
    yield "MPO", file.getvalue()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation {orientation}", jpeg(picture(), exif=exif)


@pytest.mark.parametrize(("name", "content"), list(ordinary()), ids=lambda each: each if isinstance(each, str) else "")
def test_the_pixels_are_those_of_pil(name: str, content: bytes, by_pil: Any, calls: list[bool]) -> None:
    expected = by_pil(content)
    assert isinstance(expected, np.ndarray) and same(result(content), expected)
    assert calls[-1]


def test_others_are_left_to_pil(by_pil: Any, calls: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    cmyk = jpeg(picture().convert("CMYK"))
    truncated = jpeg(picture())[:-300]
    padded = jpeg(picture(8, 8)) + bytes(100_000)
    for content in (cmyk, truncated, padded):
        assert same(result(content), by_pil(content))
        assert not calls[-1]
    assert "truncated" in result(truncated)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        assert isinstance(result(truncated), np.ndarray) and same(result(truncated), by_pil(truncated))


def test_mutated_files_give_the_same_pixels_or_the_same_error(by_pil: Any, calls: list[bool]) -> None:
    rng = np.random.default_rng(3)
    contents = [content for _, content in ordinary()]
    kinds: dict[bool, int] = {True: 0, False: 0}
    for i in range(600):
        changed = bytearray(contents[int(rng.integers(len(contents)))])
        for _ in range(int(rng.integers(1, 6))):
            changed[int(rng.integers(2, len(changed)))] = int(rng.integers(256))
        if rng.random() < 0.2:
            del changed[int(rng.integers(4, len(changed))) :]
        content = bytes(changed)
        limits = Limits(max_pixels=1_000_000)
        expected = by_pil(content, limits)
        assert same(result(content, limits), expected), i
        kinds[isinstance(expected, np.ndarray)] += 1
    assert min(kinds.values()) > 50 and any(calls)


def test_a_reduced_scale(by_pil: Any) -> None:
    content = jpeg(picture(400, 300), quality=95)
    found = load_picture(content, Limits(), 100)
    assert found.size == (150, 113)  # 3/8: PIL would take 1/2
    assert found.info == {SHOWN: (0, 0, 150, 112.5)}
    full = np.asarray(load_picture(content).resize(found.size, Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(found).astype(int) - full).mean() < 4
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = load_picture(jpeg(picture(400, 300), exif=exif), Limits(), 100)
    assert turned.size == (113, 150) and turned.info == {SHOWN: (0.5, 0, 113, 150)}
    assert load_picture(jpeg(picture(90, 300)), Limits(), 100).size == (90, 300)


@pytest.mark.parametrize("turn", [None, *Image.Transpose])
def test_which_part_is_shown(turn: Image.Transpose | None) -> None:
    """Against a picture whose lines and columns outside are marked."""
    marked = Image.new("L", (7, 5), 255)
    marked.paste(0, (0, 0, 6, 4))  # 13 x 9 pixels at 4/8 are 6.5 x 4.5
    marked = marked if turn is None else marked.transpose(turn)
    left, top, right, bottom = shown_part((13, 9), (7, 5), turn)
    assert {right - left, bottom - top} == {6.5, 4.5}
    inside = Image.eval(marked, lambda value: 255 - value).getbbox()
    assert inside is not None
    assert all(abs(one - other) <= 0.5 for one, other in zip((left, top, right, bottom), inside))


def test_a_decoder_with_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    assert turbo_decoding._decoder() is simplejpeg
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: decode(*args, **options) ^ 1)
    assert turbo_decoding._decoder.__wrapped__() is None
    monkeypatch.setitem(__import__("sys").modules, "simplejpeg", None)
    assert turbo_decoding._decoder.__wrapped__() is None


def test_the_picture_can_be_changed() -> None:
    found = load_picture(jpeg(picture()))
    found.putpixel((0, 0), (1, 2, 3))
    assert found.getpixel((0, 0)) == (1, 2, 3) and found.info == {}
