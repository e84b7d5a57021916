"""Fuzzing of what a stranger's model consists of: safetensors, pickles, configurations, vocabularies, lists of shards.

    .venv/bin/python tests/benchmarks/fuzz_checkpoints.py --seconds 60 --seed 1

`run(seconds, seed)` changes small good files at random, opens each with the package, and counts the errors that are not the
package's own. Each kind runs in a process of its own, so that a crash is a result and the peak of memory is that of one kind.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import pickle
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from random_changes import changed_bytes, changed_json

FOLDER = Path(__file__).resolve().parents[1]  # tests/
LIMIT_SECONDS = 120  # beyond its share of the time, a process hangs


def run(seconds: float, seed: int) -> list[dict[str, Any]]:
    """Fuzz every kind of file.

    Args:
        seconds: for all kinds together.
        seed: of the changes; the same seed changes the same bytes.

    Returns:
        For each kind a row: `kind`, `runs`, `refused` (with an error of the package), `foreign` (other errors: number),
        `examples` (up to five of these), `slowest` (seconds of one run), `memory` (MiB by which the peak grew).
    """
    rows = []
    for kind in KINDS:
        command = [
            sys.executable,
            __file__,
            "--kind",
            kind,
            "--seconds",
            str(seconds / len(KINDS)),
            "--seed",
            str(seed),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds / len(KINDS) + LIMIT_SECONDS)
            failure = f"exit code {done.returncode}: {done.stderr[-500:]}" if done.returncode else None
        except subprocess.TimeoutExpired:
            failure = f"no end within {LIMIT_SECONDS} seconds"
        if failure is None:
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        else:
            zeros = {"runs": 0, "refused": 0, "slowest": 0.0, "memory": 0.0}
            rows.append({"kind": kind, **zeros, "foreign": 1, "examples": [failure]})
    return rows


def _run_kind(kind: str, seconds: float, seed: int) -> dict[str, Any]:
    from image_text_embedding.foundation.errors import EmbeddingError

    chance = random.Random(f"{kind} {seed}")
    row: dict[str, Any] = {"kind": kind, "runs": 0, "refused": 0, "foreign": 0, "examples": [], "slowest": 0.0}
    with tempfile.TemporaryDirectory() as name:
        attempts = KINDS[kind](Path(name), chance)
        next(attempts)()  # the good file: everything is imported, and opening it works
        before, end = _peak(), time.monotonic() + seconds
        while time.monotonic() < end:
            attempt = next(attempts)
            started = time.monotonic()
            try:
                attempt()
            except EmbeddingError:
                row["refused"] += 1
            except Exception as error:  # what this bench looks for
                row["foreign"] += 1
                if len(row["examples"]) < 5:
                    row["examples"].append(f"run {row['runs']}: {type(error).__name__}: {str(error)[:300]}")
            row["runs"] += 1
            row["slowest"] = round(max(row["slowest"], time.monotonic() - started), 3)
    return {**row, "memory": round(_peak() - before, 1)}


def _peak() -> float:
    """The highest memory use of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Kinds: each yields functions that open a file. The first file is good.


def _small_model() -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors and the configuration of a small model."""
    from support.models import ENC, RETRIEVAL, golden_checkpoint

    from image_text_embedding.models.checkpoints.parameter_names import PARAMETER_NAMES, rename_parameters

    tensors = golden_checkpoint("blip_retrieval").tensors
    ours = rename_parameters(tensors, PARAMETER_NAMES["blip"])
    config = RETRIEVAL["blip"]
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, enc_id=ENC))
    return {name: tensors[key].clone() for key, name in ours.items()}, dataclasses.asdict(config)


def _safetensors(folder: Path, chance: random.Random) -> Iterator[Callable[[], None]]:
    from image_text_embedding.models.checkpoints.checkpoint_files import METADATA_KEY, save_weights

    tensors, config = _small_model()
    path = save_weights(folder / "x.safetensors", tensors, {"config": json.loads(json.dumps(config))})
    yield lambda: _load(path)
    good = path.read_bytes()
    (length,) = struct.unpack("<Q", good[:8])
    header, values = json.loads(good[8 : 8 + length]), good[8 + length :]
    while True:
        kind = chance.randrange(3)
        if kind == 0:
            content = changed_bytes(good[: 8 + length], chance) + values
        else:
            other = copy.deepcopy(header)
            if kind == 1:
                other = changed_json(other, chance)
            else:
                own = json.loads(other["__metadata__"][METADATA_KEY])
                other["__metadata__"][METADATA_KEY] = json.dumps(changed_json(own, chance))
            text = json.dumps(other).encode()
            content = struct.pack("<Q", len(text)) + text + values
        path.write_bytes(content)
        yield lambda: _load(path)


def _load(path: Path) -> None:
    import image_text_embedding as ite

    ite.load(path, modality="image", device="cpu")


def _pickles(folder: Path, chance: random.Random) -> Iterator[Callable[[], None]]:
    import torch
    from support.models import official_weights

    path = folder / "x.pth"
    state = official_weights("blip_base")
    # Of each tensor one value, as the fuzzing is about their descriptions.
    small = {key: tensor.flatten()[:1].clone().view([1] * tensor.ndim) for key, tensor in state.items()}
    good: list[tuple[bytes, bytes, bytes]] = []
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
        good.append((content[:start], program, content[start + len(program) :]))

    def read() -> None:
        from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint

        read_checkpoint(path)

    yield read
    while True:
        before, program, after = chance.choice(good)
        if chance.random() < 0.7:
            content = before + changed_bytes(program, chance) + after
        else:
            content = changed_bytes(before + program + after, chance)
        if chance.random() < 0.5 and before[:2] == b"PK":  # with a directory and checksums that fit
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x/data.pkl", changed_bytes(program, chance))
                archive.writestr("x/version", b"3\n")
                for number in range(len(small)):
                    archive.writestr(f"x/data/{number}", bytes(4))
        else:
            path.write_bytes(content)
        yield read


def _configurations(folder: Path, chance: random.Random) -> Iterator[Callable[[], None]]:
    from support.transformers_blip import CLASS_BY_TASK, SMALL_SIZES
    from transformers.utils import logging

    from image_text_embedding.models.checkpoints.transformers_config import config_from_transformers

    logging.set_verbosity_error()
    good = [{"model_type": "blip", "architectures": [name], **SMALL_SIZES} for name in CLASS_BY_TASK.values()]
    processor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 64, "width": 64}}
    files = folder / "config.json", folder / "preprocessor_config.json"
    for file, content in zip(files, (good[0], processor)):
        file.write_text(json.dumps(content))
    yield lambda: config_from_transformers(folder) and None
    while True:
        for file, content in zip(files, (chance.choice(good), processor)):
            if chance.random() < 0.2:
                file.write_bytes(changed_bytes(json.dumps(content).encode(), chance))
            else:
                file.write_text(json.dumps(changed_json(content, chance)))
        yield lambda: config_from_transformers(folder) and None


def _yaml(folder: Path, chance: random.Random) -> Iterator[Callable[[], None]]:
    import yaml

    from image_text_embedding.models.config_files import config_dir
    from image_text_embedding.training import read_recipe
    from image_text_embedding.training.settings import train_config

    texts = [path.read_text(encoding="utf-8") for path in sorted(config_dir().glob("*demo*.yaml"))]
    path = folder / "mine.yaml"
    path.write_text(texts[0], encoding="utf-8")

    def read() -> None:
        _, training = read_recipe(path)
        train_config(training, "training")

    yield read
    while True:
        text = chance.choice(texts)
        if chance.random() < 0.4:
            path.write_bytes(changed_bytes(text.encode(), chance))
        else:
            path.write_text(yaml.safe_dump(changed_json(yaml.safe_load(text), chance)), encoding="utf-8")
        yield read


def _vocabularies(folder: Path, chance: random.Random) -> Iterator[Callable[[], None]]:
    from image_text_embedding.inputs.text_rules import TextRules
    from image_text_embedding.inputs.tokenizer import Tokenizer
    from image_text_embedding.models.config_files import PACKAGE_FOLDER

    text = (PACKAGE_FOLDER / "demo" / "vocab.txt").read_text(encoding="utf-8")
    words = {word: number for number, word in enumerate(text.rstrip("\n").split("\n")[:60])}
    good = {
        "vocab.txt": text,
        "tokenizer.json": json.dumps(
            {
                "model": {"type": "WordPiece", "vocab": words},
                "normalizer": {"type": "BertNormalizer", "lowercase": True},
            }
        ),
    }
    rules = TextRules(30, 35, True)

    def read(file: Path) -> None:
        tokenizer = Tokenizer.from_vocabulary(file)
        tokenizer.decode(tokenizer("a dog, on the é 中 table", rules))

    (folder / "vocab.txt").write_text(text, encoding="utf-8")
    yield lambda: read(folder / "vocab.txt")
    while True:
        name = chance.choice(list(good))
        if name == "tokenizer.json" and chance.random() < 0.7:
            (folder / name).write_text(json.dumps(changed_json(json.loads(good[name]), chance)), encoding="utf-8")
        else:
            (folder / name).write_bytes(changed_bytes(good[name].encode(), chance))
        yield lambda name=name: read(folder / name)


def _shards(folder: Path, chance: random.Random) -> Iterator[Callable[[], None]]:
    from image_text_embedding.models.checkpoints.checkpoint_files import save_weights

    tensors, _ = _small_model()
    keys = list(tensors)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for number, name in enumerate(names):
        save_weights(folder / name, {key: tensors[key] for key in keys[number::3]}, {})
    good = {"metadata": {"total_size": 1}, "weight_map": {key: names[i % 3] for i, key in enumerate(keys)}}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps(good))

    def read() -> None:
        from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint

        read_checkpoint(index)

    yield read
    while True:
        if chance.random() < 0.3:
            index.write_bytes(changed_bytes(json.dumps(good).encode(), chance))
        else:
            index.write_text(json.dumps(changed_json(good, chance)))
        yield read


KINDS: dict[str, Callable[[Path, random.Random], Iterator[Callable[[], None]]]] = {
    "safetensors": _safetensors,
    "pickles": _pickles,
    "config.json": _configurations,
    "YAML": _yaml,
    "vocabularies": _vocabularies,
    "shards": _shards,
}


def main() -> None:
    """Fuzz one kind or all, and print JSON or a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=list(KINDS), help="only this kind, in this process; prints JSON")
    arguments = parser.parse_args()
    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    if arguments.kind:
        print(json.dumps(_run_kind(arguments.kind, arguments.seconds, arguments.seed)))
        return
    print(
        "| kind | runs | refused | foreign errors | slowest, s | memory, MiB |\n| --- | --- | --- | --- | --- | --- |"
    )
    for row in run(arguments.seconds, arguments.seed):
        print(
            "| "
            + " | ".join(str(row[key]) for key in ("kind", "runs", "refused", "foreign", "slowest", "memory"))
            + " |"
        )
        for example in row["examples"]:
            print("    ", example)


if __name__ == "__main__":
    main()
