"""The YAML files of `configs/`: where they are, which models they name, and reading them."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import yaml

from image_text_embedding.foundation.errors import ConfigError, UnknownModelError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.foundation.text_files import read_small_text
from image_text_embedding.models.config import ModelConfig, config_from_mapping

MAX_MERGED_KEYS = 1000

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]  # contains the packaged weights and, in a wheel, configs/


def config_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside it in a checkout or an editable install."""
    for folder in (PACKAGE_FOLDER / "configs", PACKAGE_FOLDER.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"no configs/ in {PACKAGE_FOLDER} or beside it: the installation is incomplete; reinstall the package"
    )


def packaged_file(name: str) -> Path | None:
    """The file of a name such as "demo/vocab.txt" within the package; None: there is none, or it is outside."""
    path = Path(os.path.normpath(PACKAGE_FOLDER / name))
    return path if PACKAGE_FOLDER in path.parents and os.path.isfile(path) else None


def list_models() -> list[str]:
    """The names that `load` and the operators know, sorted."""
    return sorted(path.stem for path in config_dir().glob("*.yaml"))


def model_config(name: str) -> ModelConfig:
    """The configuration of a named model.

    Args:
        name: one of `list_models()`; `-` and `_` are equivalent.

    Raises:
        UnknownModelError: no such name; the message lists the names and guesses the typo.
        ConfigError: its YAML file is malformed.
    """
    names = list_models()
    stem = str(name).replace("-", "_")
    if stem not in names:
        raise UnknownModelError(f"unknown model {name!r}{did_you_mean(stem, names)} Known models: {', '.join(names)}.")
    return read_config(config_dir() / f"{stem}.yaml")


@functools.lru_cache(maxsize=64)
def read_config(path: Path) -> ModelConfig:
    """Read one YAML file. Its stem is the model's name."""
    # `training` is the recipe, which only the training code reads.
    raw = {key: value for key, value in read_yaml(path).items() if key != "training"}
    return config_from_mapping({"name": path.stem, **raw}, where=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's keys and values.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        text = read_small_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        raw = yaml.load(text, Loader=_BoundedLoader)
    except _TooManyKeysError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    # YAML's errors quote the file, which may be another one than the user meant. ValueError: also impossible dates.
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else type(error).__name__
        raise ConfigError(f"cannot read {path}: expected YAML in UTF-8, got something else ({where})") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {type(raw).__name__}")
    return raw


class _TooManyKeysError(yaml.YAMLError):
    """A mapping has more keys than any configuration."""


class _BoundedLoader(yaml.SafeLoader):
    """SafeLoader with a limit on merged mappings (`<<: [*a, *a]`): before PyYAML 6.0.4 each line multiplied their size."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED_KEYS:
            raise _TooManyKeysError(f"expected at most {MAX_MERGED_KEYS} keys in a mapping, got {len(node.value)}")
