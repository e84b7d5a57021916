"""What a stranger's model consists of: safetensors, pickles, configurations, vocabularies and lists of shards, damaged."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
import random
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

import image_text_embedding as ite
from fuzzing.cases import Case, changed_json, mutated
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.checkpoints.checkpoint_files import METADATA_KEY, read_checkpoint, save_weights
from image_text_embedding.models.checkpoints.parameter_names import PARAMETER_NAMES, rename_parameters
from image_text_embedding.models.checkpoints.transformers_config import config_from_transformers
from image_text_embedding.models.config_files import PACKAGE_FOLDER, config_dir
from image_text_embedding.training import read_recipe
from image_text_embedding.training.settings import train_config

sys.path.append(str(Path(__file__).parents[2]))  # tests/, for `support`

from support.models import ENC, RETRIEVAL, golden_checkpoint, official_weights
from support.transformers_blip import CLASS_BY_TASK, SMALL_SIZES


def _opened(name: str, content: bytes, open_file: Callable[[Path], Any], **others: bytes) -> Callable[[], None]:
    """A call that writes a file, and others beside it, and opens it."""

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for other, its in others.items():
                (Path(folder) / other).write_bytes(its)
            path = Path(folder) / name
            path.write_bytes(content)
            open_file(path)

    return call


def _damaged(content: bytes, random: random.Random) -> bytes:
    return mutated(content, content, random)[1]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


# safetensors


@functools.cache
def _small_model() -> tuple[dict[str, torch.Tensor], bytes]:
    """The tensors of a small model, and its file."""
    tensors = golden_checkpoint("blip_retrieval").tensors
    ours = rename_parameters(tensors, PARAMETER_NAMES["blip"])
    config = RETRIEVAL["blip"]
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, enc_id=ENC))
    named = {name: tensors[key].clone() for key, name in ours.items()}
    with tempfile.TemporaryDirectory() as folder:
        metadata = {"config": json.loads(json.dumps(dataclasses.asdict(config)))}
        return named, save_weights(Path(folder) / "x.safetensors", named, metadata).read_bytes()


def safetensors(random: random.Random, number: int) -> Case:
    """A model file whose header, or whose metadata, is damaged."""
    good = _small_model()[1]
    (length,) = struct.unpack("<Q", good[:8])
    header, values = json.loads(good[8 : 8 + length]), good[8 + length :]
    kind = random.choice(("bytes of the header", "header", "metadata")) if number else "undamaged"
    content = good
    if kind == "bytes of the header":
        content = _damaged(good[: 8 + length], random) + values
    elif kind != "undamaged":
        if kind == "header":
            header = changed_json(header, random)
        else:
            header["__metadata__"][METADATA_KEY] = json.dumps(
                changed_json(json.loads(header["__metadata__"][METADATA_KEY]), random)
            )
        content = struct.pack("<Q", len(_json(header))) + _json(header) + values
    return kind, _opened("x.safetensors", content, lambda path: ite.load(path, modality="image", device="cpu"))


# Pickles


@functools.cache
def _pickles() -> list[tuple[bytes, bytes, bytes]]:
    """For both formats of torch: what is before the pickle, the pickle, and what is behind it."""
    # Of each tensor one value, as the fuzzing is about their descriptions.
    weights = official_weights("blip_base").items()
    small = {key: tensor.flatten()[:1].clone().view([1] * tensor.ndim) for key, tensor in weights}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pth"
        for zipped in (True, False):
            torch.save({"model": small, "epoch": 1}, path, _use_new_zipfile_serialization=zipped)
            content = path.read_bytes()
            if zipped:
                with zipfile.ZipFile(path) as archive:
                    program = archive.read("x/data.pkl")
                start = content.index(program)
            else:
                start = len(content) - len(content.partition(b"X\x05\x00\x00\x00model")[2]) - 40
                program = content[start : content.index(pickle.STOP, start + 1000) + 1]
            found.append((content[:start], program, content[start + len(program) :]))
    return found


def pickles(random: random.Random, number: int) -> Case:
    """A .pth whose pickle, or whose archive, is damaged."""
    before, program, after = _pickles()[number % 2]
    if number < 2:
        return "undamaged", _opened("x.pth", before + program + after, read_checkpoint)
    way = random.choice(("pickle", "archive", "pickle in a valid archive"))
    if way == "pickle":
        content = before + _damaged(program, random) + after
    elif way == "archive":
        content = _damaged(before + program + after, random)
    else:
        content = _archive(_damaged(program, random))
    return way, _opened("x.pth", content, read_checkpoint)


def _archive(program: bytes) -> bytes:
    """A zip file with a directory and checksums that fit."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", program)
            archive.writestr("x/version", b"3\n")
            for number in range(200):
                archive.writestr(f"x/data/{number}", bytes(4))
        return path.read_bytes()


# Configurations


def huggingface_config(random: random.Random, number: int) -> Case:
    """A folder of transformers with a damaged config.json."""
    good = {"model_type": "blip", "architectures": [random.choice(list(CLASS_BY_TASK.values()))], **SMALL_SIZES}
    processor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 64, "width": 64}}
    as_bytes = random.random() < 0.2
    first, second = (
        _damaged(_json(value), random) if as_bytes else _json(changed_json(value, random)) if number else _json(value)
        for value in (good, processor)
    )
    others = {"preprocessor_config.json": second}
    return "bytes" if as_bytes else "values", _opened(
        "config.json", first, lambda path: config_from_transformers(path.parent), **others
    )


def recipes(random: random.Random, number: int) -> Case:
    """A damaged YAML file with a model and the settings of its training."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(config_dir().glob("*demo*.yaml"))]
    text = random.choice(texts)
    if number and random.random() < 0.4:
        content = _damaged(text.encode(), random)
    else:
        content = yaml.safe_dump(
            changed_json(yaml.safe_load(text), random) if number else yaml.safe_load(text)
        ).encode()
    return "YAML", _opened("mine.yaml", content, lambda path: train_config(read_recipe(path)[1], "training"))


# Vocabularies, shards


def vocabularies(random: random.Random, number: int) -> Case:
    """A damaged vocab.txt or tokenizer.json."""
    text = (PACKAGE_FOLDER / "demo" / "vocab.txt").read_text(encoding="utf-8")
    words = {word: i for i, word in enumerate(text.rstrip("\n").split("\n")[:60])}
    normalizer = {"type": "BertNormalizer", "lowercase": True}
    tokenizer = {"model": {"type": "WordPiece", "vocab": words}, "normalizer": normalizer}
    name, content = random.choice([("vocab.txt", text.encode()), ("tokenizer.json", _json(tokenizer))])
    if number:
        change_values = name == "tokenizer.json" and random.random() < 0.7
        content = _json(changed_json(tokenizer, random)) if change_values else _damaged(content, random)

    def read(path: Path) -> None:
        found = Tokenizer.from_vocabulary(path)
        found.decode(found("a dog, on the é 中 table", TextRules(30, 35, True)))

    return name, _opened(name, content, read)


def shards(random: random.Random, number: int) -> Case:
    """A damaged list of shards."""
    tensors, keys = _small_model()[0], list(_small_model()[0])
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    files = {name: save({key: tensors[key] for key in keys[i::3]}) for i, name in enumerate(names)}
    index = {"metadata": {"total_size": 1}, "weight_map": {key: names[i % 3] for i, key in enumerate(keys)}}
    content = _json(changed_json(index, random)) if number else _json(index)
    if number and random.random() < 0.3:
        content = _damaged(_json(index), random)
    return "index", _opened("model.safetensors.index.json", content, read_checkpoint, **files)
