"""PNG: damaged ancillary chunks are ignored, as browsers do; damaged pixels are an error that says so."""

from __future__ import annotations

import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin
from support.pictures import RGB, encoded, pixels

from image_text_embedding.foundation.errors import ImageError
from image_text_embedding.inputs.decoding import png_chunks
from image_text_embedding.inputs.image_loading import load_picture

GOOD = encoded(Image.fromarray(RGB))
HEADER, REST = GOOD[:33], GOOD[33:]  # signature and IHDR; IDAT and IEND


def chunk(name: bytes, content: bytes, checksum: int = 0) -> bytes:
    """A chunk; its checksum is changed by XOR."""
    right = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", right ^ checksum)


def with_chunk(added: bytes, is_behind: bool = False) -> bytes:
    return HEADER + REST[:-12] + added + REST[-12:] if is_behind else HEADER + added + REST


BOMB = zlib.compress(bytes(2 * PngImagePlugin.MAX_TEXT_CHUNK))
DAMAGED = {
    "text": chunk(b"tEXt", b"Title\0x", checksum=1),
    "gamma": chunk(b"gAMA", b"\0\0\0\1", checksum=2**31),
    "exif": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0", checksum=1),
    "private": chunk(b"prVt", b"abc", checksum=1),
    "large text": chunk(b"zTXt", b"Title\0\0" + BOMB),
    "large international text": chunk(b"iTXt", b"Title\0\1\0\0\0" + BOMB),
    "large profile": chunk(b"iCCP", b"name\0\0" + BOMB),
    "profile of an unknown kind": chunk(b"iCCP", b"name\0\7abc"),
    "short size": chunk(b"pHYs", b"\0"),
    "many texts": chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK))) * 70,
}


@pytest.mark.parametrize("is_behind", [False, True])
@pytest.mark.parametrize("added", DAMAGED.values(), ids=DAMAGED)
def test_damaged_ancillary_chunks_are_ignored(added: bytes, is_behind: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(with_chunk(added, is_behind))
    for item in (path, path.read_bytes()):
        assert (pixels(item) == RGB).all()


def test_the_orientation_survives_beside_a_damaged_chunk() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    content = encoded(Image.fromarray(RGB), exif=exif)
    damaged = content[:33] + DAMAGED["text"] + content[33:]
    assert (pixels(content) == RGB[::-1, ::-1]).all() and (pixels(damaged) == RGB[::-1, ::-1]).all()


def test_palettes_and_bits_survive_beside_a_damaged_chunk() -> None:
    for picture in (Image.fromarray(RGB).quantize(16), Image.fromarray(RGB).convert("LA"), Image.new("1", (9, 9), 1)):
        content = encoded(picture)
        assert (pixels(content[:33] + DAMAGED["text"] + content[33:]) == pixels(content)).all()


def test_no_flag_of_pil_is_set_and_threads_do_not_disturb_each_other() -> None:
    bad, truncated, results = with_chunk(DAMAGED["text"]), GOOD[:-40], []

    def work(content: bytes) -> None:
        try:
            results.append(bool((pixels(content) == RGB).all()))
        except ImageError:
            results.append(False)

    threads = [threading.Thread(target=work, args=(content,)) for content in [bad, truncated] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == [False] * 8 + [True] * 8 and not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("name", [b"IDAT", b"IHDR", b"PLTE"])
def test_a_wrong_checksum_of_a_critical_chunk_is_named(name: bytes) -> None:
    content = bytearray(encoded(Image.fromarray(RGB).quantize(16)))
    at = content.index(name)
    (length,) = struct.unpack(">I", content[at - 4 : at])
    content[at + 4 + length] ^= 1
    with pytest.raises(ImageError, match=rf"checksum \(CRC\) of a chunk {name.decode()}"):
        load_picture(bytes(content))


def test_a_wrong_checksum_of_any_of_many_idat_chunks_is_named() -> None:
    data = zlib.compress(np.insert(RGB.reshape(20, 90), 0, 0, axis=1).tobytes())
    parts = [data[i : i + 100] for i in range(0, len(data), 100)]
    for broken in (None, 0, 5, len(parts) - 1):
        chunks = b"".join(chunk(b"IDAT", part, checksum=int(i == broken)) for i, part in enumerate(parts))
        content = HEADER + chunks + REST[-12:]
        if broken is None:
            assert (pixels(content) == RGB).all()
        else:
            with pytest.raises(ImageError, match="chunk IDAT, which holds the pixels"):
                load_picture(content)


def test_changed_pixels_with_an_old_checksum_are_refused() -> None:
    content = bytearray(GOOD)
    content[GOOD.index(b"IDAT") + 20] ^= 1
    with pytest.raises(ImageError, match="IDAT"):
        load_picture(bytes(content))


def test_truncated_images_are_read_if_the_user_set_pils_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = bytearray(GOOD)
    content[-13] ^= 1  # the checksum of IDAT
    assert (pixels(bytes(content)) == RGB).all()


def test_millions_of_chunks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_chunks, "MAX_CHUNKS", 1000)
    assert (pixels(HEADER + chunk(b"IDAT", b"") * 900 + REST) == RGB).all()
    with pytest.raises(ImageError, match="at most 1000 chunks"):
        load_picture(HEADER + chunk(b"IDAT", b"") * 1100 + REST)
