"""What a model is, in numbers: frozen dataclasses read from `configs/<model>.yaml`.

One file is one model. A key that is not a field here is an error that guesses the typo, so a YAML file can never say
something that nobody reads.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from image_text_embedding.errors import ConfigError, UnknownModelError


@dataclass(frozen=True)
class VisionConfig:
    """A ViT with a class token (BLIP paper §4.1, ALBEF paper §3.1; official `models/vit.py`)."""

    image_size: int  # pixels, square
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mean: tuple[float, float, float]  # of RGB in [0, 1]
    std: tuple[float, float, float]
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class TextConfig:
    """A BERT stack (official `models/med.py` for BLIP, `models/xbert.py` for ALBEF).

    A text alone runs through layers [0, text_depth); a text fused with a picture continues, with cross-attention, through
    layers [fusion_start, depth). BLIP: text_depth = depth, fusion_start = 0, so the fused pass begins anew at the
    embeddings. ALBEF: text_depth = fusion_start, so it goes on from where the text ended.
    """

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    token_types: bool
    text_depth: int
    fusion_start: int
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True)
class TextRules:
    """How a sentence is cleaned and cut before WordPiece (official `data/utils.py`, `dataset/utils.py`)."""

    max_words: int
    max_tokens: int  # [CLS] and [SEP] included
    sep: bool  # whether [SEP] ends the sentence
    to_space: str = ""  # characters that become a space
    remove: str = ""  # characters that go
    replace: tuple[tuple[str, str], ...] = ()  # substrings, in order, after the characters


@dataclass(frozen=True)
class Source:
    """Where the official weights live: a hub repository or a URL."""

    hub: str | None = None
    revision: str | None = None
    url: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """One model: its towers, its text rules, and where its weights are."""

    name: str
    family: str  # "blip" | "albef"
    summary: str
    license: str
    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    captions: TextRules
    tokenizer: str  # hub id of the WordPiece vocabulary
    source: Source


@dataclass(frozen=True)
class Limits:
    """What a picture handed in may cost. Pictures and URLs are strangers' until checked.

    Attributes:
        max_pixels: width x height above which a picture is refused from its header alone.
        max_bytes: encoded size above which a download or a data: URI is refused.
        connect_timeout: seconds for one connection to open.
        total_timeout: seconds for one URL in all, redirects included.
        max_redirects: how many redirects are followed, each checked like the first address.
        allow_private: whether loopback, private and link-local addresses may be asked.
    """

    max_pixels: int = 178_956_970
    max_bytes: int = 64 * 2**20
    connect_timeout: float = 10.0
    total_timeout: float = 60.0
    max_redirects: int = 5
    allow_private: bool = False


FAMILIES = ("blip", "albef")


def config_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside it in a checkout or an editable install."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"no configs/ in {package} or beside it: the installation is incomplete; install the package again"
    )


def list_models() -> list[str]:
    """The names that `load` and the operators know, sorted."""
    return sorted(path.stem for path in config_dir().glob("*.yaml"))


def model_config(name: str) -> ModelConfig:
    """The configuration of a named model.

    Args:
        name: one of `list_models()`; `-` and `_` are equal.

    Raises:
        UnknownModelError: no such name.
        ConfigError: its YAML file is malformed.
    """
    names = list_models()
    wanted = str(name).replace("-", "_")
    if wanted not in names:
        raise UnknownModelError(f"unknown model {name!r}{guess(wanted, names)}. Known models: {', '.join(names)}.")
    return read_config(config_dir() / f"{wanted}.yaml")


@functools.lru_cache(maxsize=64)
def read_config(path: Path) -> ModelConfig:
    """Read one YAML file. Its stem is the model's name."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the model file {path}: {error}") from error
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path}: expected a mapping of keys to values, came {type(raw).__name__}")
    return from_mapping({"name": path.stem, **raw}, where=str(path))


def from_mapping(raw: Mapping[str, Any], where: str) -> ModelConfig:
    """Build and check a configuration. `where` names its origin in errors."""
    config: ModelConfig = _build(ModelConfig, raw, where)
    vision, text = config.vision, config.text
    problems = [
        (config.family not in FAMILIES, f"family: expected one of {', '.join(FAMILIES)}, came {config.family!r}"),
        (vision.width % vision.num_heads != 0, "vision: width must be a multiple of num_heads"),
        (vision.image_size % vision.patch_size != 0, "vision: image_size must be a multiple of patch_size"),
        (text.width % text.num_heads != 0, "text: width must be a multiple of num_heads"),
        (not 0 < text.text_depth <= text.depth, "text: text_depth must lie in 1..depth"),
        (not 0 <= text.fusion_start < text.depth, "text: fusion_start must lie in 0..depth-1"),
        (text.fusion_start not in (0, text.text_depth), "text: fusion_start must be 0 or text_depth"),
        (config.captions.max_tokens > text.max_positions, "captions: max_tokens is more than text.max_positions"),
    ]
    for wrong, message in problems:
        if wrong:
            raise ConfigError(f"{where}: {message}")
    return config


def guess(wrong: str, names: Iterable[str]) -> str:
    """ " — did you mean 'x'?" or nothing."""
    close = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.6)
    return f" — did you mean {close[0]!r}?" if close else ""


def _build(cls: Any, raw: Any, where: str) -> Any:
    """A dataclass from a mapping; types are checked, unknown and missing keys are errors."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a mapping for {cls.__name__}, came {raw!r}")
    hints = typing.get_type_hints(cls)
    for key in raw:
        if key not in hints:
            raise ConfigError(f"{where}: unknown key {key!r}{guess(str(key), hints)} Known keys: {', '.join(hints)}.")
    missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in raw]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    return cls(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in raw.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, came {value!r}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise ConfigError(f"{where}: expected {len(items)} values, came {value!r}")
        return tuple(_value(item, v, where) for item, v in zip(items, value))
    if origin is not None:  # the only other form used above is `X | None`
        return None if value is None else _value(args[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{where}: expected {hint.__name__}, came {value!r}")
    if hint in (int, float) and value <= 0 and not where.endswith("fusion_start"):
        raise ConfigError(f"{where}: expected a positive number, came {value!r}")
    return value
