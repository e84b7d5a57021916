"""Pictures that cannot be used: each gets one clear error."""

from __future__ import annotations

import builtins
import gc
import io
import itertools
import os
import random
import struct
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile
from support.pictures import ALL, RGB, RNG, encoded, pixels, png

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits


@pytest.mark.parametrize("format", [f for f in ALL if f != "MPO"])
def test_truncated_files(format: str) -> None:
    content = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format)
    for size in (len(content) // 2, len(content) * 9 // 10):
        with pytest.raises(ImageError, match=r"truncated or broken|truncated header"):
            load_picture(content[:size])
    with pytest.raises(
        ImageError, match=r"the bytes: (expected a picture \(JPEG, .* truncated header|truncated or broken)"
    ):
        load_picture(content[:3])


def test_broken_files_never_raise_anything_else() -> None:
    """500 files with a few random bytes changed: each is a picture or an ImageError."""
    rng, broken = random.Random(0), 0
    good = [encoded(Image.fromarray(RGB), format) for format in ALL]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in itertools.islice(itertools.cycle(good), 500):
            bad = bytearray(content)
            for _ in range(rng.randint(1, 8)):
                bad[rng.randrange(min(len(bad), 200))] = rng.randrange(256)
            try:
                pixels(bad, max_pixels=10**6)
            except ImageError:
                broken += 1
    assert broken > 50


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0" * 100, "something else, or a truncated header"),
        (b"root:*:19000:0:99999:7:::", "text"),
        (b"hello, world", "something else, or a truncated header"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing or another XML file"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"P5 hunter2", "ValueError"),
        (b"P5 hunter2hunter2 5", "ValueError"),
        (b"P6 5 5 255\n\n", "OSError.*truncated.*"),
        (b"P3 2 2 255\nhunter2", "ValueError"),
        (b"\x89PNG\r\n\x1a\nhunter2 secret!!", r"PNG, .*"),
    ],
)
def test_files_that_are_not_pictures(content: bytes, kind: str, tmp_path: Path) -> None:
    """The error names the kind and never quotes the file, which may be a secret: a user of a service chose its path."""
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    for item in (content, path):
        with pytest.raises(ImageError, match=rf"{kind}$") as caught:
            load_picture(item)
        for secret in ("19000", "hunter", "secret!!", "hello", "svg'"):
            assert secret not in str(caught.value)
    assert "x.jpg" in str(caught.value)


def test_formats_that_run_programs_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    eps = encoded(Image.fromarray(RGB), "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was run"))
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", lambda self: pytest.fail("EPS was tried"))
    for content in (eps, encoded(Image.fromarray(RGB), "ICO"), encoded(Image.fromarray(RGB), "PDF")):
        with pytest.raises(ImageError, match="expected a picture"):
            load_picture(content)


def test_nothing_is_decoded_if_the_header_states_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    bombs = {
        "png": png(60000, 60000),
        "gif": b"GIF89a"
        + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0)
        + b",\0\0\0\0"
        + struct.pack("<HHB", 9, 9, 0)
        + b"\2",
        "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
        "ppm": b"P6 60000 60000 255\n",
    }
    small = [encoded(Image.fromarray(RGB), format) for format in ALL]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for content in bombs.values():
        # PIL checks its own limit first, except in a GIF, whose canvas it allocates at once.
        with pytest.raises(ImageError, match=r"(3600000000|60000 x 60000) pixels.*Limits\(max_pixels="):
            load_picture(content)
        with pytest.raises(ImageError, match=r"MAX_IMAGE_PIXELS|decoding_memory"):
            load_picture(content, Limits(max_pixels=10**12))
    for content in small:
        with pytest.raises(ImageError, match=r"30 x 20 pixels are more than 599\. Limits\(max_pixels"):
            load_picture(content, Limits(max_pixels=599))


def test_the_pixel_limit_applies_to_all_inputs() -> None:
    for item in (RGB, RGB[:, :, 0], Image.fromarray(RGB), encoded(Image.fromarray(RGB))):
        assert pixels(item, max_pixels=600).shape == (20, 30, 3)
        with pytest.raises(ImageError, match="more than 599"):
            load_picture(item, Limits(max_pixels=599))


@pytest.mark.parametrize(
    "item",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 0), np.uint8),
        Image.new("RGB", (0, 5)),
        png(0, 5),
        b"P6 5 0 255\n",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 0, 5, 1, 24, 0, 0, 0, 0, 0, 0),
    ],
)
def test_zero_sized_pictures(item: Any) -> None:
    with pytest.raises(ImageError, match=r"at least one pixel|truncated or broken|expected a picture"):
        load_picture(item)


def test_paths_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.jpg").touch()
    cases: list[tuple[Any, str]] = [
        (tmp_path / "none.jpg", r"no such file: .*none\.jpg"),
        ("", "no such file: ''"),
        (tmp_path, "got a folder"),
        (tmp_path / "empty.jpg" / "x.jpg", "cannot open"),
        (tmp_path / "empty.jpg", r"empty\.jpg.*got 0 bytes"),
        ("a\0b.jpg", "cannot open .*null"),
        ("\ud800.jpg", "no such file|cannot open"),
        ("x" * 1_000_000 + ".jpg", "cannot open .*too long"),
    ]
    for item, why in cases:
        with pytest.raises(ImageError, match=why) as caught:
            load_picture(item)
        assert len(str(caught.value)) < 600
    (tmp_path / "shut.jpg").touch()

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)  # the tests may run as root, which may read everything
    with pytest.raises(ImageError, match=r"cannot open .*shut\.jpg.*Permission denied"):
        load_picture(tmp_path / "shut.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="got a device"):
        load_picture(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("content", [b"", bytearray(), memoryview(b""), io.BytesIO()])
def test_empty_bytes(content: Any) -> None:
    with pytest.raises(ImageError, match="got 0 bytes"):
        load_picture(content)


def test_file_objects_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"binary mode \('rb'\), got one that returns str"):
        load_picture(io.StringIO("x"))
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(ImageError, match="cannot read the file object BytesIO"):
        load_picture(closed)


def test_file_objects_stay_open() -> None:
    file = io.BytesIO(encoded(Image.fromarray(RGB)))
    load_picture(file)
    assert not file.closed


def test_broken_pil_images() -> None:
    content = encoded(Image.fromarray(RGB))
    with pytest.raises(ImageError, match="the PIL image: truncated or broken"):
        load_picture(Image.open(io.BytesIO(content[:-100])))
    closed = Image.open(io.BytesIO(content))
    closed.close()
    with pytest.raises(ImageError, match="the PIL image was closed"):
        load_picture(closed)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "CMYK"])
def test_a_pil_image_is_not_changed(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    Image.fromarray(RGB).convert(mode).save(path)
    with Image.open(path) as picture:
        picture.info["mine"] = 1
        before = (picture.mode, picture.size, dict(picture.info), Image.fromarray(RGB).convert(mode).tobytes())
        result = load_picture(picture)
        result.paste((1, 2, 3), (0, 0, 30, 20))
        assert (picture.mode, picture.size, picture.info, picture.tobytes()) == before


def test_no_file_stays_open(tmp_path: Path) -> None:
    good, bad, none = tmp_path / "good.tiff", tmp_path / "bad.png", tmp_path / "none.png"
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    good.write_bytes(encoded(red, "TIFF", save_all=True, append_images=[blue]))
    bad.write_bytes(encoded(Image.fromarray(RGB))[:-100])
    none.write_bytes(b"none")
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        load_picture(good)
        for path in (bad, none):
            with pytest.raises(ImageError):
                load_picture(path)
        with pytest.raises(ImageError):
            load_picture(good, Limits(max_pixels=1))
        gc.collect()
    assert [str(each.message) for each in caught] == []


def test_one_lazy_picture_in_many_threads() -> None:
    content = encoded(Image.fromarray(np.tile(RGB, (20, 20, 1))), "PNG")
    expected = pixels(content)
    for _ in range(5):
        lazy, barrier, results = Image.open(io.BytesIO(content)), threading.Barrier(8, timeout=20), []

        def work(lazy: Any = lazy, barrier: Any = barrier, results: Any = results) -> None:
            barrier.wait()
            results.append(pixels(lazy))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(results) == 8 and all((result == expected).all() for result in results)
