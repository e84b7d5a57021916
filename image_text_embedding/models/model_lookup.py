"""What a user calls a model -> its configuration, its weights file and its vocabulary on this machine's disk.

A model may be called by name, by hub id, by a local file or folder, or be a configuration of the user's own.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

from image_text_embedding.foundation.errors import CheckpointError, ConfigError, InputError
from image_text_embedding.foundation.file_digests import file_sha256
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.checkpoints.download import locate
from image_text_embedding.models.checkpoints.hub_download import WEIGHT_FILES, hub_file
from image_text_embedding.models.checkpoints.recognition import recognise_checkpoint
from image_text_embedding.models.checkpoints.transformers_config import config_from_transformers
from image_text_embedding.models.config import ModelConfig, WeightsSource
from image_text_embedding.models.config_files import PACKAGE_FOLDER, list_models, model_config

VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are here."""

    config: ModelConfig
    weights: Path
    sha256: str
    revision: str | None
    folder: Path | None  # the folder that came with the weights, which may bring a vocabulary
    official: bool = False  # whether the weights came from the source that the configuration names

    @property
    def source(self) -> str:
        """Where the weights came from: as the configuration says it, or the path of a user's own file."""
        return (self.official and self.config.source.place) or str(self.weights)


def resolve_model(
    model: str | os.PathLike[str] | ModelConfig, checkpoint: str | os.PathLike[str] | None
) -> ResolvedModel:
    """Find a model's configuration and weights, downloading them where they are not cached.

    Raises:
        UnknownModelError: no such name, file or hub id.
        ConfigError, CheckpointError, DownloadError: as their docstrings say.
    """
    if not isinstance(model, (str, os.PathLike, ModelConfig)):
        raise InputError(f"expected a model's name, a hub id, a file or a ModelConfig, got {type(model).__name__}")
    if checkpoint is not None:
        config = model if isinstance(model, ModelConfig) else model_config(os.fspath(model))
        return _local(Path(checkpoint), config)
    if isinstance(model, ModelConfig):
        return _official(model)
    name = os.fspath(model)
    if isinstance(model, str) and name.replace("-", "_") in list_models():
        return _official(model_config(name))
    if os.path.exists(name):  # not Path.exists, to which a name can be too long
        return _local(Path(name), None)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return _hub(name)
    if not isinstance(model, str) or os.sep in name or Path(name).suffix in (".pth", ".pt", ".bin", ".safetensors"):
        return _local(Path(name), None)  # which says that it does not exist
    model_config(name)  # raises, listing the names
    raise AssertionError("unreachable")


def find_vocabulary(resolved: ResolvedModel, tokenizer: str | os.PathLike[str] | None) -> Path:
    """The vocabulary file: of `tokenizer` (a file, a folder, a hub id), else of the weights' folder, else the model's own."""
    if tokenizer is not None and os.path.exists(tokenizer):
        return Path(tokenizer)
    if tokenizer is None and resolved.folder is not None:
        found = next((path for name in VOCABULARY_FILES if (path := resolved.folder / name).is_file()), None)
        if found is not None:
            return found
    name = resolved.config.tokenizer if tokenizer is None else os.fspath(tokenizer)
    if tokenizer is None and (PACKAGE_FOLDER / name).is_file():
        return PACKAGE_FOLDER / name
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ConfigError(f"tokenizer: expected a vocab.txt, a tokenizer.json, a folder or a hub id, got {name!r}")
    return hub_file(name, VOCABULARY_FILES).path


def _official(config: ModelConfig) -> ResolvedModel:
    if config.source.place is None:
        raise ConfigError(f"{config.name} names no source for its weights: pass checkpoint=PATH")
    found = locate(config.source)
    folder = found.path.parent if config.source.hub else None
    return ResolvedModel(config, found.path, found.sha256, found.revision, folder, official=True)


def _local(path: Path, config: ModelConfig | None) -> ResolvedModel:
    """A file; or a folder that transformers' `save_pretrained` wrote."""
    if not os.path.exists(path):  # not Path.exists, which raises where it may not look
        raise CheckpointError(
            f"expected a checkpoint file or folder, got {path}, which does not exist, or is out of reach"
        )
    if not path.is_dir():
        config = config or recognise_checkpoint(read_checkpoint(path))
        return ResolvedModel(config, path, file_sha256(path), None, None)
    weights = next((file for name in WEIGHT_FILES if (file := path / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"expected {' or '.join(WEIGHT_FILES)} in the folder {path}, got neither")
    config = config or config_from_transformers(path)
    return ResolvedModel(config, weights, file_sha256(weights), None, path)


def _hub(repo_id: str) -> ResolvedModel:
    for name in list_models():
        config = model_config(name)
        if config.source.hub is not None and config.source.hub.lower() == repo_id.lower():
            return _official(config)
    found = locate(WeightsSource(hub=repo_id))
    folder = hub_file(repo_id, ("config.json",), found.revision).path.parent
    for optional in (("preprocessor_config.json",), VOCABULARY_FILES):
        hub_file(repo_id, (*optional, "config.json"), found.revision)  # which is there, so none is no error
    config = dataclasses.replace(config_from_transformers(folder), name=repo_id, source=WeightsSource(hub=repo_id))
    return ResolvedModel(config, found.path, found.sha256, found.revision, folder, official=True)


def load_tokenizer(config: ModelConfig, path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_vocabulary(path)
    # BLIP's tower has two words more than bert-base-uncased: [DEC] and [ENC], which no sentence contains.
    fewest = config.text.vocab_size - (2 if config.family == "blip" else 0)
    if not fewest <= tokenizer.vocab_size <= config.text.vocab_size:
        raise ConfigError(
            f"{path}: expected a vocabulary of {fewest} words for {config.name}, got one of {tokenizer.vocab_size}"
        )
    return tokenizer
