"""Fixtures that several test files share."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.environment import GOLDEN, SESSION, SESSION_FOLDER, VOCABULARY, Run, put_in_hub_cache
from support.models import SMALL, official_weights, small

if TYPE_CHECKING:
    import torch


@pytest.fixture(scope="session")
def vocabulary() -> Path:
    return VOCABULARY


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("link", ...) -> exit code, stdout, stderr."""
    from image_text_embedding.interfaces.cli import main

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["image-text-embedding", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """golden("blip_retrieval") -> the numbers that the official code computed, as tensors."""
    import torch

    def read(name: str) -> dict[str, Any]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays}

    return read


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """The session's cache with made-up weights of `blip_base` and `albef_4m` and the vocabulary of bert-base-uncased.

    The environment variables of `support.environment` point to it, so subprocesses use it, too.
    """
    import torch

    from image_text_embedding.models.checkpoints.url_download import url_cache_path
    from image_text_embedding.models.config_files import model_config

    for seed, name in enumerate(("blip_base", "albef_4m")):
        config = model_config(name)
        assert config.source.url is not None
        path = url_cache_path(config.source.url)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": official_weights(name, seed), "epoch": 19}, path)
    put_in_hub_cache(model_config("blip_base").tokenizer, VOCABULARY)
    yield SESSION
    SESSION_FOLDER.cleanup()


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files with made-up weights of the models in SMALL, with every part, at the sizes of `small`."""
    import torch

    from image_text_embedding.models.checkpoints.checkpoint_files import save_weights
    from image_text_embedding.models.part_cache import PARTS

    folder = tmp_path_factory.mktemp("small")
    for seed, name in enumerate(SMALL):
        config = small(name)
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        parts = ("image", "text") if config.embed_dim else ("image",)
        for part in (*parts, *(task for task in config.tasks if task != "embed")):
            for key, tensor in PARTS[part](config).state_dict().items():
                mean = 1.0 if ".norm" in key and key.endswith("weight") else 0.0
                tensors.setdefault(key, tensor.clone().normal_(mean, 0.15, generator=generator))
        if config.decoder is not None:
            tensors["decoder.lm_head.bias"][102] += 2.6  # [SEP], so that texts end at different lengths
        save_weights(folder / f"{name}.safetensors", tensors, {"config": dataclasses.asdict(config)})
    return {name: folder / f"{name}.safetensors" for name in SMALL}


@pytest.fixture(scope="session")
def small_models(home: Path, small_weights: dict[str, Path]) -> Path:
    """A folder that replaces configs/: the models of SMALL at small sizes, with their weights in the cache.

    Use it with `monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)`.
    """
    import yaml

    from image_text_embedding.models.checkpoints.url_download import url_cache_path

    folder = SESSION / "small-configs"
    folder.mkdir()
    for name, weights in small_weights.items():
        url = f"https://small.test/{weights.name}"
        raw = json.loads(json.dumps(dataclasses.asdict(small(name)) | {"source": {"url": url}}))
        del raw["name"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw))
        url_cache_path(url).parent.mkdir(parents=True, exist_ok=True)
        url_cache_path(url).symlink_to(weights)
    return folder


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of items in each call of a tower."""
    from image_text_embedding.inference.model_runtime import ModelRuntime

    counts: list[int] = []
    for name in ("vectors", "text_vectors"):
        real = getattr(ModelRuntime, name)
        monkeypatch.setattr(
            ModelRuntime, name, lambda self, items, real=real: (counts.append(len(items)), real(self, items))[1]
        )
    return counts


@pytest.fixture(scope="session")
def small_encoder(small_weights: dict[str, Path]) -> Callable[..., Any]:
    """small_encoder("blip_base", dtype="bf16") -> an encoder with the made-up weights of that model, built once."""
    import image_text_embedding as ite

    built: dict[Any, Any] = {}

    def load(name: str, **options: Any) -> Any:
        key = (name, *options.items())
        if key not in built:
            built[key] = ite.load(small_weights[name], tokenizer=VOCABULARY, device="cpu", **options)
        return built[key]

    return load


@pytest.fixture(scope="session")
def task_photos() -> list[np.ndarray]:
    """Four photos: uint8 (height, width, 3)."""
    from skimage import data

    return [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]


@pytest.fixture
def vit_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each pass through the vision transformer has."""
    from image_text_embedding.inference.model_runtime import ModelRuntime

    counts: list[int] = []
    states = ModelRuntime.states
    monkeypatch.setattr(
        ModelRuntime, "states", lambda self, pixels: (counts.append(len(pixels)), states(self, pixels))[1]
    )
    return counts
