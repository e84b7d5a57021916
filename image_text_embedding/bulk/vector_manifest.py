"""The manifest stored with vectors: where they come from, and whether two sets of vectors may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.models.config_files import list_models

FORMAT = 1

# Vectors are comparable when these agree. Backend and precision change little, and are only recorded.
COMPARED = ("model", "revision", "sha256", "dim", "preprocessing", "normalized")


def manifest_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored with vectors, as JSON.

    Args:
        info: `Encoder.info`.

    Returns:
        format, model, family, revision, sha256 (of the weights), dim, preprocessing, normalized, backend, precision and the
        package's version.
    """
    return {
        "format": FORMAT,
        "model": info["name"],
        **{key: info[key] for key in ("family", "revision", "sha256", "dim", "preprocessing", "normalized")},
        "backend": info.get("backend", "torch"),
        "precision": info.get("precision", info["dtype"]),
        "version": info["version"],
    }


def check_comparable(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> None:
    """
    Args:
        ours: the manifest of the model in use.
        theirs: the manifest stored with the vectors.
        where: names these vectors in the error.

    Raises:
        ConfigError: the vectors cannot be compared; the message names what differs.
    """
    if theirs.get("format") != FORMAT:
        raise ConfigError(f"{where}: expected a manifest of format {FORMAT}, got {theirs.get('format')!r}")
    different = [
        f"{key} is {_short(theirs.get(key))} there and {_short(ours.get(key))} here"
        for key in COMPARED
        if theirs.get(key) != ours.get(key)
    ]
    if different:
        raise ConfigError(
            f"{where}: made with another model, so its vectors cannot be compared with these: {'; '.join(different)}. "
            "Use the model it was made with, or build it again"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def model_named_in(manifest: Mapping[str, Any], where: str) -> str:
    """The name of the model that a manifest's vectors come from.

    Raises:
        ConfigError: it is no model of this package.
    """
    name: str = manifest["model"]
    if name not in list_models():
        raise ConfigError(
            f"{where}: made with {str(name)[:100]!r}, which is no model of this package: pass its file as model="
        )
    return name
