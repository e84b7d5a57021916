"""A model as the user names it -> its configuration, weights file and vocabulary on this machine's disk.

A model is named by its name, a hub id, a local file or folder, or a `ModelConfig`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

from image_text_embedding.foundation.errors import CheckpointError, ConfigError, InputError
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.checkpoints.download import locate
from image_text_embedding.models.checkpoints.hub_download import hub_file
from image_text_embedding.models.checkpoints.recognition import check_picture_size, recognise_checkpoint
from image_text_embedding.models.checkpoints.transformers_config import config_from_transformers
from image_text_embedding.models.checkpoints.weight_files import find_weights, weights_sha256
from image_text_embedding.models.config import ModelConfig, WeightsSource, config_from_mapping
from image_text_embedding.models.config_files import list_models, model_config, packaged_file

VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are on this machine's disk."""

    config: ModelConfig
    weights: Path
    sha256: str
    revision: str | None
    folder: Path | None  # the folder of the weights, if it may contain a vocabulary
    official: bool = False  # whether the weights are from the source that the configuration names

    @property
    def source(self) -> str:
        """The origin of the weights: the location in the configuration, or the path of the user's own file."""
        return (self.official and self.config.source.location) or str(self.weights)


def resolve_model(
    model: str | os.PathLike[str] | ModelConfig, checkpoint: str | os.PathLike[str] | None
) -> ResolvedModel:
    """Find a model's configuration and weights, and download them if they are not cached.

    Args:
        checkpoint: a file or folder with weights for `model`, instead of the official ones.

    Raises:
        UnknownModelError: no such name, file or hub id.
        ConfigError: a malformed configuration, or one without a source.
        CheckpointError: the file is not found, is not a checkpoint, or contains an unknown model.
        DownloadError: the weights are not cached and cannot be downloaded.
    """
    if not isinstance(model, (str, os.PathLike, ModelConfig)):
        raise InputError(f"expected a model name, a hub id, a file or a ModelConfig, got {type(model).__name__}")
    if isinstance(model, ModelConfig):  # its own dataclasses check nothing
        model = config_from_mapping(dataclasses.asdict(model), where=f"the ModelConfig {model.name!r}")
    if checkpoint is not None:
        config = model if isinstance(model, ModelConfig) else model_config(os.fspath(model))
        return _local(Path(checkpoint), config)
    if isinstance(model, ModelConfig):
        return _official(model)
    name = os.fspath(model)
    if isinstance(model, str) and name.replace("-", "_") in list_models():
        return _official(model_config(name))
    if os.path.exists(name):  # not Path.exists, which raises for very long names
        return _local(Path(name), None)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return _hub(name)
    if not isinstance(model, str) or os.sep in name or Path(name).suffix in (".pth", ".pt", ".bin", ".safetensors"):
        return _local(Path(name), None)  # raises: not found
    model_config(name)  # raises, listing the names
    raise AssertionError("unreachable")


def find_vocabulary(resolved: ResolvedModel, tokenizer: str | os.PathLike[str] | None) -> Path:
    """The vocabulary file: of `tokenizer` (a file, a folder, a hub id), else of the weights' folder, else the model's own.

    Raises:
        ConfigError: `tokenizer` is neither an existing file or folder nor a hub id.
        DownloadError: the vocabulary is not cached and cannot be downloaded.
    """
    if tokenizer is not None and os.path.exists(tokenizer):
        return Path(tokenizer)
    if tokenizer is None and resolved.folder is not None:
        found = next((path for name in VOCABULARY_FILES if (path := resolved.folder / name).is_file()), None)
        if found is not None:
            return found
    name = resolved.config.tokenizer if tokenizer is None else os.fspath(tokenizer)
    if tokenizer is None and (packaged := packaged_file(name)):
        return packaged
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ConfigError(f"tokenizer: expected a vocab.txt, a tokenizer.json, a folder or a hub id, got {name!r}")
    return hub_file(name, VOCABULARY_FILES).path


def _official(config: ModelConfig) -> ResolvedModel:
    if config.source.location is None:
        raise ConfigError(f"{config.name} has no source for its weights: pass checkpoint=PATH")
    found = locate(config.source)
    folder = found.path.parent if config.source.hub else None
    return ResolvedModel(config, found.path, found.sha256, found.revision, folder, official=True)


def _local(path: Path, config: ModelConfig | None) -> ResolvedModel:
    """A file; or a folder that transformers' `save_pretrained` wrote."""
    if not os.path.exists(path):  # not Path.exists, which raises without permission
        raise CheckpointError(f"expected a checkpoint file or folder: {path} is not found or not readable")
    if not path.is_dir():
        config = config or recognise_checkpoint(read_checkpoint(path))
        return ResolvedModel(config, path, weights_sha256(path), None, None)
    weights = find_weights(path)
    if config is None:
        config = config_from_transformers(path)
        check_picture_size(config, read_checkpoint(weights))
    return ResolvedModel(config, weights, weights_sha256(weights), None, path)


def _hub(repo_id: str) -> ResolvedModel:
    for name in list_models():
        config = model_config(name)
        if config.source.hub is not None and config.source.hub.lower() == repo_id.lower():
            return _official(config)
    found = locate(WeightsSource(hub=repo_id))
    folder = hub_file(repo_id, ("config.json",), found.revision).path.parent
    for optional in (("preprocessor_config.json",), VOCABULARY_FILES):
        # config.json exists, so a missing optional file is no error.
        hub_file(repo_id, (*optional, "config.json"), found.revision)
    config = dataclasses.replace(config_from_transformers(folder), name=repo_id, source=WeightsSource(hub=repo_id))
    check_picture_size(config, read_checkpoint(found.path))
    return ResolvedModel(config, found.path, found.sha256, found.revision, folder, official=True)


def load_tokenizer(config: ModelConfig, path: Path) -> Tokenizer:
    """The tokenizer of a vocabulary file, checked against the size of the model's embeddings.

    Raises:
        ConfigError: the vocabulary belongs to another model.
    """
    tokenizer = Tokenizer.from_vocabulary(path)
    # BLIP adds two words to bert-base-uncased, [DEC] and [ENC]. They occur in no text, so the vocabulary may lack them.
    minimum = config.text.vocab_size - (2 if config.family == "blip" else 0)
    if not minimum <= tokenizer.vocab_size <= config.text.vocab_size:
        raise ConfigError(
            f"{path}: expected a vocabulary of {minimum} words for {config.name}, got one of {tokenizer.vocab_size}"
        )
    return tokenizer
