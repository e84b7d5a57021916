"""What a model is, in numbers: frozen dataclasses read from `configs/<model>.yaml`.

One file is one model. A key that is not a field here is an error that guesses the typo, so a YAML file can never say
something that nobody reads.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import reprlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from image_text_embedding.errors import ConfigError, UnknownModelError

MOST_LAYERS, MOST = 200, 2**20  # of any depth and of any other size: a file that says more would take hours to build
# Numbers that need not be above 0, here and in training's settings.
MAY_BE_0 = frozenset(
    [
        "fusion_start",
        "label_smoothing",
        "layers",
        "mean",
        "seed",
        "weight_decay",
        "warmup",
        "min_lr",
        "alpha",
        "alpha_warmup_steps",
        "mlm_probability",
        "max_skipped",
        "later",
    ]
)


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
    enc_id: int | None = None  # [ENC], which begins a text that is fused with a picture; None: [CLS] does


@dataclass(frozen=True)
class DecoderConfig:
    """A causal stack with a language-model head, of the text stack's sizes but for its depth.

    A captioning decoder attends to the picture (official `models/blip.py`), an answering one to the question as it was
    read while looking at the picture (`models/blip_vqa.py`, ALBEF's `models/model_vqa.py`). A model that does both has one
    for both, as both have learnt to write of what they attend to.
    """

    depth: int
    dec_id: int | None = None  # [DEC], which begins what is written; None: [CLS] does
    label_smoothing: float = 0.0  # of the loss that ranks given answers
    first_token_twice: bool = False  # ALBEF adds the first token's log-probability to the whole answer's


@dataclass(frozen=True)
class TextRules:
    """How a sentence is cleaned and cut before WordPiece (official `data/utils.py`, `dataset/utils.py`)."""

    max_words: int
    max_tokens: int  # [CLS] and [SEP] included
    sep: bool  # whether [SEP] ends the sentence
    to_space: str = ""  # characters that become a space
    remove: str = ""  # characters that go
    replace: tuple[tuple[str, str], ...] = ()  # substrings, in order, after the characters

    @classmethod
    def as_it_is(cls, max_tokens: int, sep: bool) -> TextRules:
        """Prompts and answers are not cleaned (official `models/blip.py`, `train_vqa.py`, ALBEF's `VQA.py`)."""
        return cls(max_words=2**31, max_tokens=max_tokens, sep=sep)


@dataclass(frozen=True)
class ExplainConfig:
    """How it is read off the attention where a word is seen (`explain.py`)."""

    layers: tuple[int, ...] | None = None  # None: the one that the family's official code reads
    steps: int = 1  # strengths of the picture to average over; 1 is the official code's


@dataclass(frozen=True)
class Source:
    """Where a model's weights live: in a hub repository, at a URL, or in a file of this package."""

    packaged: str | None = None  # path within the package
    hub: str | None = None
    revision: str | None = None
    url: str | None = None
    sha256: str | None = None

    @property
    def place(self) -> str | None:
        """The one of them that is set, as one writes it."""
        return self.packaged or self.hub or self.url


@dataclass(frozen=True)
class ModelConfig:
    """One model: its towers, its text rules, and where its weights are."""

    name: str
    family: str  # "blip" | "albef"
    summary: str
    license: str
    tasks: tuple[str, ...]  # of TASKS: what its checkpoint has a head for
    vision: VisionConfig
    text: TextConfig
    captions: TextRules
    tokenizer: str  # the WordPiece vocabulary: a hub id, or a file's path within the package
    source: Source
    embed_dim: int | None = None  # length of a vector; None: no projections, so no vectors
    rerank_adds_cosine: bool = False  # BLIP ranks by match logit + cosine, ALBEF by the match logit alone
    decoder: DecoderConfig | None = None  # what captions or answers
    questions: TextRules | None = None
    explain: ExplainConfig = ExplainConfig()


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
TASKS = ("embed", "match", "caption", "answer")


PACKAGE = Path(__file__).resolve().parent


def config_dir() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside it in a checkout or an editable install."""
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"no configs/ in {PACKAGE} or beside it: the installation is incomplete; install the package again"
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
        raise UnknownModelError(f"unknown model {name!r}{guess(wanted, names)} Known models: {', '.join(names)}.")
    return read_config(config_dir() / f"{wanted}.yaml")


@functools.lru_cache(maxsize=64)
def read_config(path: Path) -> ModelConfig:
    """Read one YAML file. Its stem is the model's name."""
    raw = {
        key: value for key, value in read_yaml(path).items() if key != "training"
    }  # `training.read_recipe` reads that
    return from_mapping({"name": path.stem, **raw}, where=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's keys and values.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: also dates that there are not
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, came {type(raw).__name__}")
    return raw


def from_mapping(raw: Mapping[str, Any], where: str) -> ModelConfig:
    """Build and check a configuration. `where` names its origin in errors."""
    config: ModelConfig = _build(ModelConfig, raw, where)
    vision, text = config.vision, config.text
    too_large = [name for name, size in _sizes(config) if size > (MOST_LAYERS if name.endswith("depth") else MOST)]
    problems = [
        (bool(too_large), f"{', '.join(too_large)}: larger than any model has"),
        (config.family not in FAMILIES, f"family: expected one of {', '.join(FAMILIES)}, came {config.family!r}"),
        (vision.width % vision.num_heads != 0, "vision: width must be a multiple of num_heads"),
        (vision.image_size % vision.patch_size != 0, "vision: image_size must be a multiple of patch_size"),
        (text.width % text.num_heads != 0, "text: width must be a multiple of num_heads"),
        (not 0 < text.text_depth <= text.depth, "text: text_depth must lie in 1..depth"),
        (not 0 <= text.fusion_start < text.depth, "text: fusion_start must lie in 0..depth-1"),
        (text.fusion_start not in (0, text.text_depth), "text: fusion_start must be 0 or text_depth"),
        (config.captions.max_tokens > text.max_positions, "captions: max_tokens is more than text.max_positions"),
        (
            sum(map(bool, (config.source.packaged, config.source.hub, config.source.url))) > 1,
            "source: expected one of packaged, hub and url",
        ),
        (
            bool(config.source.hub and config.source.sha256 and not config.source.revision),
            "source: a sha256 of a hub file goes with the revision that has it",
        ),
        (
            (config.questions or config.captions).max_tokens > text.max_positions,
            "questions: max_tokens is more than text.max_positions",
        ),
        (not set(config.tasks) <= set(TASKS), f"tasks: expected some of {', '.join(TASKS)}, came {list(config.tasks)}"),
        (("embed" in config.tasks) != (config.embed_dim is not None), "embed_dim goes with the task 'embed'"),
        (
            bool({"caption", "answer"} & set(config.tasks)) != (config.decoder is not None),
            "a decoder goes with the tasks 'caption' and 'answer'",
        ),
        (
            {"caption", "answer"} <= set(config.tasks) and vision.width != text.width,
            "one decoder for the tasks 'caption' and 'answer' needs vision and text of one width",
        ),
        (not 0 <= (config.decoder or DecoderConfig(1)).label_smoothing < 1, "label_smoothing must lie in [0, 1)"),
        (("answer" in config.tasks) != (config.questions is not None), "questions go with the task 'answer'"),
        (
            not all(text.fusion_start <= layer < text.depth - 1 for layer in config.explain.layers or ()),
            "explain: layers must be fusion layers but the last: fusion_start..depth-2",
        ),
    ]
    for wrong, message in problems:
        if wrong:
            raise ConfigError(f"{where}: {message}")
    return config


def _sizes(config: ModelConfig) -> Iterator[tuple[str, int]]:
    """Whole numbers of the stacks, by names such as "vision.depth"."""
    for name, part in (("vision", config.vision), ("text", config.text), ("decoder", config.decoder)):
        for key, value in (vars(part) if part else {}).items():
            if isinstance(value, int):
                yield f"{name}.{key}", value


def guess(wrong: str, names: Iterable[str]) -> str:
    """The end of a sentence that names something unknown: a likely typo, or just its full stop."""
    close = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.6)
    return f" — did you mean {close[0]!r}?" if close else "."


def _build(cls: Any, raw: Any, where: str) -> Any:
    """A dataclass from a mapping; types are checked, unknown and missing keys are errors."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a mapping for {cls.__name__}, came {brief(raw)}")
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
            raise ConfigError(f"{where}: expected a list, came {brief(value)}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise ConfigError(f"{where}: expected {len(items)} values, came {brief(value)}")
        return tuple(_value(item, v, where) for item, v in zip(items, value))
    if origin is not None:  # the only other form used above is `X | None`
        return None if value is None else _value(args[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        value = float(value)
    if isinstance(value, bool) is not (hint is bool) or not isinstance(value, hint):
        raise ConfigError(f"{where}: expected {hint.__name__}, came {brief(value)}")
    if hint in (int, float):
        zero = where.rpartition(" ")[2] in MAY_BE_0
        if not (0 < value < 2**63 or (zero and value == 0)):  # NaN is neither
            raise ConfigError(f"{where}: expected {'0 or ' * zero}a positive number, came {value!r}")
    return value


def brief(value: Any) -> str:
    """A value for an error: a few lines of YAML can stand for more than fits into memory."""
    return reprlib.repr(value)[:200]


# transformers' classes of BLIP, and which of our models has the same parts.
TRANSFORMERS_CLASSES = {
    "BlipForImageTextRetrieval": "blip_itm_base_coco",
    "BlipForConditionalGeneration": "blip_caption_base",
    "BlipForQuestionAnswering": "blip_vqa_base",
}


def from_transformers(folder: Path) -> ModelConfig:
    """The configuration of a folder that transformers' `save_pretrained` wrote for BLIP.

    Sizes and epsilons are the folder's own, so vectors equal what transformers computes from it; text rules are BLIP's.
    What the model can do is told by its class, which `save_pretrained` notes under "architectures".

    Raises:
        ConfigError: the folder holds another kind of model.
    """
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = raw["model_type"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{folder}: expected a config.json with a model_type, came {error!r}") from error
    if found != "blip":
        raise ConfigError(f"{folder}: expected a config.json with model_type 'blip', came {found!r}")
    try:
        return _from_transformers(raw, folder)
    except ConfigError:
        raise
    except Exception as error:  # transformers checks some values with errors of its own, and others not at all
        raise ConfigError(f"{folder}: expected the settings of a BLIP, came {str(error)[:300]}") from error


def _from_transformers(raw: dict[str, Any], folder: Path) -> ModelConfig:
    from transformers import BlipConfig  # late: it takes most of a second to import

    theirs = BlipConfig.from_dict(raw)
    (kind, *_) = raw.get("architectures") or ["BlipForImageTextRetrieval"]
    if kind not in TRANSFORMERS_CLASSES:
        raise ConfigError(
            f"{folder}: expected a model of the class {', '.join(TRANSFORMERS_CLASSES)}, came {kind!r}; the projections of "
            "a BlipModel are in no official checkpoint"
        )
    base = model_config(TRANSFORMERS_CLASSES[kind])
    embeds = "embed" in base.tasks
    vision, text = theirs.vision_config, theirs.text_config
    if vision.intermediate_size != 4 * vision.hidden_size or {vision.hidden_act, text.hidden_act} != {"gelu"}:
        raise ConfigError(f"{folder}: expected a ViT with a GELU MLP 4 times its width, as every official BLIP has")
    mean, std = base.vision.mean, base.vision.std
    for name in ("processor_config.json", "preprocessor_config.json"):  # of transformers 5, and before
        processor = folder / name
        if processor.is_file():
            try:
                rules = json.loads(processor.read_text(encoding="utf-8"))
                rules = rules.get("image_processor", rules)
            except (ValueError, AttributeError) as error:
                raise ConfigError(f"{processor}: {error}") from error
            mean, std = tuple(rules.get("image_mean", mean)), tuple(rules.get("image_std", std))

    def fitting(rules: TextRules | None) -> dict[str, Any] | None:
        most = text.max_position_embeddings
        return None if rules is None else {**dataclasses.asdict(rules), "max_tokens": min(rules.max_tokens, most)}

    changes = {
        "name": folder.name,
        "summary": f"BLIP, from {folder.name}",
        "captions": fitting(base.captions),
        "questions": fitting(base.questions),
        "license": "unknown",
        "embed_dim": theirs.image_text_hidden_size if embeds else None,
        "decoder": base.decoder
        and {**dataclasses.asdict(base.decoder), "depth": text.num_hidden_layers, "dec_id": text.bos_token_id},
        "vision": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "depth": vision.num_hidden_layers,
            "num_heads": vision.num_attention_heads,
            "layer_norm_eps": vision.layer_norm_eps,
            "mean": mean,
            "std": std,
        },
        "text": {
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "depth": text.num_hidden_layers,
            "num_heads": text.num_attention_heads,
            "intermediate_size": text.intermediate_size,
            "max_positions": text.max_position_embeddings,
            "layer_norm_eps": text.layer_norm_eps,
            "token_types": False,
            "text_depth": text.num_hidden_layers,
            "fusion_start": 0,
            "enc_id": text.bos_token_id + 1,  # theirs is [DEC]; the port keeps no note of [ENC], which follows it
        },
        "source": {},
    }
    return from_mapping({**dataclasses.asdict(base), **changes}, where=str(folder / "config.json"))
