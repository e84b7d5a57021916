"""Which formats are read, what kind of file its first bytes show, and the plugins that extras install."""

from __future__ import annotations

from typing import Any

from PIL import Image

from image_text_embedding.foundation.errors import ImageError, SetupError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inputs.decoding import png_chunks
from image_text_embedding.inputs.decoding.grey_levels import register_more_grey
from image_text_embedding.inputs.decoding.jpeg import jpeg_xl_header

# PIL's names of ordinary raster formats. Files are untrusted, and some other formats run programs (EPS: Ghostscript) or do
# not state their size in the header (ICO contains complete PNG files).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL")

# Formats that a plugin decodes: the module, and the extra that installs it.
PLUGINS = {"HEIF": ("pillow_heif", "heif"), "JXL": ("pillow_jxl", "jxl")}

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")

# First bytes -> PIL's name of the format.
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (png_chunks.SIGNATURE, "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    *((head, "TIFF") for head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((b"P" + number, "PPM") for number in (b"1", b"2", b"3", b"4", b"5", b"6")),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (jpeg_xl_header.CODESTREAM, "JXL"),
    (jpeg_xl_header.CONTAINER, "JXL"),
)

# First bytes -> what else a file may be, in words.
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\0\0\x01\0", "a Windows icon (ICO)"),
    (b"8BPS", "a Photoshop file"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM), which encode_video takes"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
)


def recognized_format(head: bytes) -> str | None:
    """PIL's name of the format that a file's first 64 bytes show. None: no format that can be read."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        # The major brand, and then those that the file is compatible with.
        size = int.from_bytes(head[:4], "big")
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))]
        first = [brand for brand in brands if brand in _HEIF_BRANDS + _AVIF_BRANDS]
        return None if not first else "HEIF" if first[0] in _HEIF_BRANDS else "AVIF"
    return next((name for start, name in _SIGNATURES if head.startswith(start)), None)


def recognized_kind(head: bytes) -> str:
    """What a file's first 64 bytes show, in words that quote none of them."""
    if not head:
        return "0 bytes"
    if (name := recognized_format(head)) is not None:
        return f"a file that begins like {name}, with a truncated header or one that cannot be read"
    if head[4:8] == b"ftyp":
        return (
            "a HEIF file of an unknown coding"
            if head[8:12] in (b"mif1", b"msf1")
            else "a video (MP4 or MOV), which encode_video takes"
        )
    for start, kind in _OTHERS:
        if head.startswith(start):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG drawing or another XML file"
    # Of many formats, the first bytes are text, too.
    return "text" if len(head) >= 16 and _is_text(head) else "something else, or a truncated header"


def _is_text(head: bytes) -> bool:
    # The last character may be cut.
    text = head.decode("utf-8", "replace").rstrip("\ufffd")
    return all((char.isprintable() and char != "\ufffd") or char in "\t\r\n\f" for char in text)


def readable_formats(name: str | None) -> list[str]:
    """PIL's names of the formats to try; the plugin of the recognised one is registered if it has one.

    Raises:
        ImageError: that plugin is not installed.
    """
    # Loads PIL's own plugins on the first call.
    Image.init()
    register_more_grey()
    if name in PLUGINS:
        _register(name)
    return [each for each in FORMATS if each in Image.OPEN]


def _register(name: str) -> None:
    """Import a format's plugin and register it, unless the program has done so itself."""
    if name in Image.OPEN:
        return
    module, extra = PLUGINS[name]
    try:
        plugin: Any = import_optional(module, extra, f"reading {'HEIC' if name == 'HEIF' else 'JPEG XL'} pictures")
    except SetupError as error:
        raise ImageError(str(error)) from error
    # pillow_jxl registers itself.
    if name == "HEIF":
        plugin.register_heif_opener()
