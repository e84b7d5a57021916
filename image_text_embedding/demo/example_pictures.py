"""Example pictures for a first try: `ite.samples.teddy`, and the files that `image-text-embedding samples` writes."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from image_text_embedding.demo.packaged_gallery import GALLERY_FOLDER, gallery
from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.errors import InputError

SAMPLE_NAMES = {"teddy.jpg": "teddy.jpg", "beach.jpg": "33.png", "dog.jpg": "36.png"}  # name -> file of the gallery

PHOTOS = "photos"


@dataclass(frozen=True)
class Samples:
    """Pictures that come with the package, as paths of files.

    They are drawn scenes of the packaged gallery, which the demonstration models know.

    Attributes:
        teddy: a teddy bear on a skateboard.
        beach: a squirrel, a kite and a palm tree on yellow ground.
        dog: two dogs below a mouse.
        photos: the folder with all 48 pictures.
    """

    teddy: Path = GALLERY_FOLDER / SAMPLE_NAMES["teddy.jpg"]
    beach: Path = GALLERY_FOLDER / SAMPLE_NAMES["beach.jpg"]
    dog: Path = GALLERY_FOLDER / SAMPLE_NAMES["dog.jpg"]
    photos: Path = GALLERY_FOLDER


samples = Samples()


def write_samples(folder: str | os.PathLike[str] = ".") -> tuple[list[Path], list[Path]]:
    """Write `teddy.jpg`, `beach.jpg`, `dog.jpg`, and `photos/` with all 48 pictures and their captions.

    With these, the examples of the documentation run as they are. Nothing is overwritten, and nothing is put into a folder
    `photos` that holds other files.

    Returns:
        The paths that exist now (`photos` stands for its files), and those that are left alone because something else has
        that name.

    Raises:
        InputError: the folder cannot be written.
    """
    files = _sample_files()
    target = Path(folder)
    written: list[Path] = []
    left_alone: list[Path] = []
    try:
        for name in SAMPLE_NAMES:
            (written if _write(target / name, files[name]) else left_alone).append(target / name)
        photos = target / PHOTOS
        if photos.exists() and not (photos.is_dir() and {entry.name for entry in photos.iterdir()} <= files.keys()):
            left_alone.append(photos)
        else:
            results = {name: _write(photos / name, content) for name, content in files.items()}
            left_alone += [photos / name for name, done in results.items() if not done]
            written.append(photos)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or target}: {error.strerror or error}") from error
    return written, left_alone


def _sample_files() -> dict[str, bytes]:
    """Name -> content of the files in `photos`: the pictures, those with a name as JPEG, and a .txt caption for each."""
    names = {file: name for name, file in SAMPLE_NAMES.items()}
    files: dict[str, bytes] = {}
    for entry in gallery():
        path = Path(entry["path"])
        name = names.get(path.name, path.name)
        content = path.read_bytes()
        if Path(name).suffix != path.suffix:
            jpeg = io.BytesIO()
            Image.open(path, formats=["PNG"]).convert("RGB").save(jpeg, "JPEG", quality=92)
            content = jpeg.getvalue()
        files[name] = content
        files[f"{Path(name).stem}.txt"] = f"{entry['caption']}\n".encode()
    return files


def _write(path: Path, content: bytes) -> bool:
    """Write a file unless something has that name. Returns whether it has this content now."""
    if os.path.lexists(path):
        return path.is_file() and path.read_bytes() == content
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content)
    return True
