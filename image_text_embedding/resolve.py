"""What a user calls a model -> its configuration, its weights file and its vocabulary on this machine's disk.

A model may be called by name, by hub id, by a local file or folder, or be a configuration of the user's own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from image_text_embedding import config as configs
from image_text_embedding import download
from image_text_embedding.config import ModelConfig, Source
from image_text_embedding.errors import CheckpointError, ConfigError, InputError
from image_text_embedding.weights import METADATA_KEY, Checkpoint, read_checkpoint, rename

VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")


@dataclass(frozen=True)
class Resolved:
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


def resolve(model: str | os.PathLike[str] | ModelConfig, checkpoint: str | os.PathLike[str] | None) -> Resolved:
    """Find a model's configuration and weights, downloading them where they are not cached.

    Raises:
        UnknownModelError: no such name, file or hub id.
        ConfigError, CheckpointError, DownloadError: as their docstrings say.
    """
    if not isinstance(model, (str, os.PathLike, ModelConfig)):
        raise InputError(f"expected a model's name, a hub id, a file or a ModelConfig, came {type(model).__name__}")
    if checkpoint is not None:
        config = model if isinstance(model, ModelConfig) else configs.model_config(os.fspath(model))
        return _local(Path(checkpoint), config)
    if isinstance(model, ModelConfig):
        return _official(model)
    name = os.fspath(model)
    if isinstance(model, str) and name.replace("-", "_") in configs.list_models():
        return _official(configs.model_config(name))
    if os.path.exists(name):  # not Path.exists, to which a name can be too long
        return _local(Path(name), None)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return _hub(name)
    if not isinstance(model, str) or os.sep in name or Path(name).suffix in (".pth", ".pt", ".bin", ".safetensors"):
        return _local(Path(name), None)  # which says that it does not exist
    configs.model_config(name)  # raises, listing the names
    raise AssertionError("unreachable")


def vocabulary(resolved: Resolved, tokenizer: str | os.PathLike[str] | None) -> Path:
    """The vocabulary file: of `tokenizer` (a file, a folder, a hub id), else of the weights' folder, else the model's own."""
    if tokenizer is not None and os.path.exists(tokenizer):
        return Path(tokenizer)
    if tokenizer is None and resolved.folder is not None:
        found = next((path for name in VOCABULARY_FILES if (path := resolved.folder / name).is_file()), None)
        if found is not None:
            return found
    name = resolved.config.tokenizer if tokenizer is None else os.fspath(tokenizer)
    if tokenizer is None and (configs.PACKAGE / name).is_file():
        return configs.PACKAGE / name
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ConfigError(f"tokenizer: expected a vocab.txt, a tokenizer.json, a folder or a hub id, came {name!r}")
    return download.hub_file(name, VOCABULARY_FILES).path


# Family, width of the vision tower, and what else a file holds -> a model of ours that has the same parts.
_MATCHES, _WRITES = frozenset({"text", "itm_head"}), frozenset({"text", "itm_head", "decoder"})
_CAPTIONS, _ANSWERS = frozenset({"decoder"}), frozenset({"text", "decoder"})
_ALIKE = {
    ("blip", 768, _MATCHES): "blip_itm_base_coco",
    ("blip", 768, _WRITES): "blip_base",
    ("blip", 768, _CAPTIONS): "blip_caption_base",
    ("blip", 768, _ANSWERS): "blip_vqa_base",
    ("blip", 1024, _MATCHES): "blip_itm_large_coco",
    ("blip", 1024, _WRITES): "blip_large",
    ("blip", 1024, _CAPTIONS): "blip_caption_large",
    ("albef", 768, _MATCHES): "albef_14m",
    ("albef", 768, _ANSWERS): "albef_vqa",
}


def recognise(checkpoint: Checkpoint) -> ModelConfig:
    """Which model a lone file holds: from our own metadata, else from its names and shapes.

    Raises:
        CheckpointError: it cannot be told.
    """
    own = checkpoint.metadata.get(METADATA_KEY)
    if own is not None:
        try:
            return configs.from_mapping(json.loads(own)["config"], where=str(checkpoint.path))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{checkpoint.path}: its metadata cannot be read: {error}") from error
    family = "albef" if any("token_type_embeddings" in key for key in checkpoint.tensors) else "blip"
    names = import_module(f"image_text_embedding.{family}.names").NAMES
    theirs = {ours: key for key, ours in rename(checkpoint.tensors, names).items()}
    parts = frozenset(name.split(".")[0] for name in theirs) & {"text", "decoder", "itm_head"}
    vectors_only = parts == {"text"} and "text_proj.weight" in theirs
    try:
        position = checkpoint.tensors[theirs["vision.pos_embed"]]
        base = configs.model_config(_ALIKE[family, position.shape[-1], _MATCHES if vectors_only else parts])
        image_size = round(max(position.shape[1] - 1, 1) ** 0.5) * base.vision.patch_size
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"cannot tell from {checkpoint.path} which model it holds (no vision tower of a known width, or heads that no "
            "known model has together). Name the model and pass the file as its checkpoint: "
            f"load(NAME, checkpoint={str(checkpoint.path)!r}); "
            f"names: {', '.join(configs.list_models())}."
        ) from error
    return dataclasses.replace(
        base,
        name=checkpoint.path.stem,
        summary=f"{base.family.upper()}, from {checkpoint.path.name}",
        license="unknown",
        source=Source(),
        tasks=("embed",) if vectors_only else base.tasks,
        vision=dataclasses.replace(base.vision, image_size=image_size),
    )


def _official(config: ModelConfig) -> Resolved:
    if config.source.place is None:
        raise ConfigError(f"{config.name} names no source for its weights: pass checkpoint=PATH")
    found = download.locate(config.source)
    folder = found.path.parent if config.source.hub else None
    return Resolved(config, found.path, found.sha256, found.revision, folder, official=True)


def _local(path: Path, config: ModelConfig | None) -> Resolved:
    """A file; or a folder that transformers' `save_pretrained` wrote."""
    if not os.path.exists(path):  # not Path.exists, which raises where it may not look
        raise CheckpointError(
            f"expected a checkpoint file or folder, came {path}, which does not exist, or is out of reach"
        )
    if not path.is_dir():
        config = config or recognise(read_checkpoint(path))
        return Resolved(config, path, download.file_sha256(path), None, None)
    weights = next((file for name in download.WEIGHT_FILES if (file := path / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"expected {' or '.join(download.WEIGHT_FILES)} in the folder {path}, came neither")
    config = config or configs.from_transformers(path)
    return Resolved(config, weights, download.file_sha256(weights), None, path)


def _hub(repo_id: str) -> Resolved:
    for name in configs.list_models():
        config = configs.model_config(name)
        if config.source.hub is not None and config.source.hub.lower() == repo_id.lower():
            return _official(config)
    found = download.locate(Source(hub=repo_id))
    folder = download.hub_file(repo_id, ("config.json",), found.revision).path.parent
    for optional in (("preprocessor_config.json",), VOCABULARY_FILES):
        download.hub_file(repo_id, (*optional, "config.json"), found.revision)  # which is there, so none is no error
    config = dataclasses.replace(configs.from_transformers(folder), name=repo_id, source=Source(hub=repo_id))
    return Resolved(config, found.path, found.sha256, found.revision, folder, official=True)
