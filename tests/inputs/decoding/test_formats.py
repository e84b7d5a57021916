"""Which formats are tried, plugins of extras, and paths that a service refuses."""

from __future__ import annotations

import ast
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.environment import ROOT
from support.pictures import ALL, RGB, encoded, pixels

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.decoding import formats
from image_text_embedding.inputs.decoding.jpeg import jpeg_xl_header
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.inputs.limits import Limits

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
JXL = b"\xff\x0a\xfa\x1f\x40" + bytes(40)


@pytest.mark.parametrize("format", ALL)
def test_every_format_is_recognized_by_its_first_bytes(format: str) -> None:
    content = encoded(Image.fromarray(RGB), format)
    assert formats.recognized_format(content[:64]) == ("JPEG" if format == "MPO" else format)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (HEIC, "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0miafheixmif1" + bytes(9), "HEIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0miafavifmif1" + bytes(9), "AVIF"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0msf1hevc" + bytes(9), "HEIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + bytes(9), None),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(9), "JXL"),
        (JXL, "JXL"),
        (b"MM\0+\0\x08\0\0" + bytes(9), "TIFF"),
    ],
)
def test_brands_of_files_tell_their_format(head: bytes, name: str | None) -> None:
    assert formats.recognized_format(head) == name


@pytest.mark.parametrize(
    ("content", "module", "message"),
    [
        (HEIC, "pillow_heif", r"reading HEIC pictures needs pillow_heif.*pip install .*\[heif\]'"),
        (JXL, "pillow_jxl", r"reading JPEG XL pictures needs pillow_jxl.*pip install .*\[jxl\]'"),
    ],
)
def test_without_its_plugin_the_error_names_the_extra(
    content: bytes, module: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    path = tmp_path / "IMG_0001.JPG"  # phones and messengers rename them
    path.write_bytes(content)
    for item in (content, path):
        with pytest.raises(ImageError, match=message):
            load_picture(item)
    assert (pixels(encoded(Image.fromarray(RGB))) == RGB).all()


def test_an_installed_plugin_is_registered_when_first_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin with the interface of pillow_heif; it reads the picture behind the header."""
    registered: list[str] = []

    class Plugin:
        @staticmethod
        def register_heif_opener() -> None:
            registered.append("HEIF")
            Image.register_open("HEIF", lambda file, name: Image.OPEN["PNG"][0](io.BytesIO(file.read()[64:]), name))

    monkeypatch.setitem(sys.modules, "pillow_heif", Plugin)  # type: ignore[arg-type]
    monkeypatch.setattr(Image, "OPEN", {name: each for name, each in Image.OPEN.items() if name != "HEIF"})
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    load_picture(encoded(Image.fromarray(RGB)))
    assert registered == []
    for _ in range(2):
        assert (pixels(HEIC + encoded(Image.fromarray(RGB))) == RGB).all()
    assert registered == ["HEIF"]


@pytest.mark.parametrize("format", ["HEIF", "JXL"])
def test_real_plugins(format: str) -> None:
    plugin = pytest.importorskip(formats.PLUGINS[format][0])
    if format == "HEIF":
        plugin.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    flat = Image.new("RGB", (64, 48), (200, 30, 60))
    content = encoded(flat, format, exif=exif.tobytes())
    assert abs(pixels(content).astype(int) - (200, 30, 60)).max() <= 8 and pixels(content).shape == (64, 48, 3)
    with pytest.raises(ImageError, match=r"(64 x 48|48 x 64) pixels are more than 99"):
        load_picture(content, Limits(max_pixels=99))


@pytest.mark.parametrize(
    ("content", "size"),
    [
        # The first bytes of files that libjxl wrote.
        (bytes.fromhex("ff0acb4024080201"), (64, 48)),
        (bytes.fromhex("ff0a7a3e04910802"), (3000, 2000)),
        (bytes.fromhex("ff0a0080ce078804"), (1000, 1)),
        (bytes.fromhex("ff0a021060258804"), (300, 513)),
        (bytes.fromhex("ff0a040021201208"), (8193, 8193)),
        (bytes.fromhex("ff0a3c1901180091"), (7, 9000)),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14jxlp\0\0\0\0" + bytes.fromhex("ff0acb4024080201"), (64, 48)),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x10jxlc" + bytes.fromhex("ff0acb4024080201"), (64, 48)),
        (b"\xff\x0b" + bytes(9), None),
    ],
)
def test_the_size_of_a_jpeg_xl_is_read_from_its_header(content: bytes, size: tuple[int, int] | None) -> None:
    assert jpeg_xl_header.stated_size(io.BytesIO(content)) == size


def test_only_these_formats_are_ever_tried() -> None:
    """Every call of PIL's open in the package passes a list of formats: without one it tries EPS, which runs Ghostscript."""
    calls = 0
    for path in (ROOT / "image_text_embedding").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "open":
                owner = ast.unparse(node.func.value)
                if owner in ("Image", "PILImage", "PIL.Image"):
                    calls += 1
                    assert "formats" in [each.arg for each in node.keywords], f"{path}:{node.lineno}"
    assert calls == 6  # of pictures, of animations given as videos, of samples, and of the GPU decoder's own JPEG
    for name in ("EPS", "PDF", "ICO", "WMF", "PSD"):
        assert name not in formats.FORMATS


class Pathlike:
    def __fspath__(self) -> str:
        return "/etc/passwd"


@pytest.mark.parametrize("item", ["/etc/passwd", "none.jpg", "", Path("/etc/passwd"), Pathlike(), "C:\\x.png"])
def test_a_service_refuses_paths(item: Any) -> None:
    with pytest.raises(ImageError, match=r"a path is not allowed here \(Limits\.allow_files is False\)"):
        load_picture(item, Limits(allow_files=False))


def test_a_service_reads_everything_else(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(RGB))
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with open(path, "rb") as file:
        for item in (content, io.BytesIO(content), file, Image.fromarray(RGB), RGB):
            assert (pixels(item, allow_files=False) == RGB).all()
    assert (pixels(path) == RGB).all()
    with pytest.raises(ImageError, match="expected http, https or data:"):
        load_picture(path.as_uri(), Limits(allow_files=False))
