"""A model's configuration: frozen dataclasses read from `configs/<model>.yaml`.

One file describes one model. A key that is not a field here is an error that guesses the typo, so every key of a YAML file
has an effect.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from image_text_embedding.foundation.errors import ConfigError
from image_text_embedding.foundation.strict_dataclasses import MAY_BE_0, build_dataclass
from image_text_embedding.inputs.text_rules import QuestionRules, TextRules

# Limits of depths and of all other sizes. A model beyond them would take hours to build.
MAX_LAYERS, MAX_SIZE = 200, 2**20

# Limits of what is computed for one picture: pieces of the picture (128 x 128), and strengths that Grad-CAM averages over.
MAX_PATCHES, MAX_EXPLAIN_STEPS = 2**14, 100

# Limits of text rules, which run on every text.
MAX_RULE_CHARACTERS, MAX_REPLACEMENTS = 200, 50
FAMILIES = ("blip", "albef")
TASKS = ("embed", "match", "caption", "answer", "reason", "entail")
# Of ITC (BLIP's and ALBEF's official pre-training): what divides cosines, where its training starts and how far it may go.
INITIAL_TEMPERATURE = 0.07
TEMPERATURE_RANGE = (0.001, 0.5)


@dataclass(frozen=True)
class VisionConfig:
    """A ViT with a class token (BLIP paper §4.1, ALBEF paper §3.1; official `models/vit.py`)."""

    image_size: int  # pixels, square
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mean: tuple[float, float, float] = field(metadata=MAY_BE_0)  # of RGB in [0, 1]
    std: tuple[float, float, float]
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class PairConfig:
    """How the fusion layers read two pictures, for the task 'reason'.

    BLIP (official `models/nlvr_encoder.py`): twins. Each layer has a cross-attention for either picture; their outputs are
    averaged, or from layer `merge_from` on merged by a linear layer. ALBEF (`models/model_nlvr.py`): no twins. The layers
    look at the left and the right picture in turn, and each two share the keys and values of their cross-attention.
    """

    twins: bool
    merge_from: int = field(default=0, metadata=MAY_BE_0)


@dataclass(frozen=True)
class TextConfig:
    """A BERT stack (official `models/med.py` for BLIP, `models/xbert.py` for ALBEF).

    A text alone runs through layers [0, text_depth). A text fused with a picture runs through layers [fusion_start, depth)
    with cross-attention. BLIP: text_depth = depth and fusion_start = 0, so the fused pass starts at the embeddings. ALBEF:
    text_depth = fusion_start, so the fused pass continues from the states of the text.
    """

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    token_types: bool
    text_depth: int
    fusion_start: int = field(metadata=MAY_BE_0)
    layer_norm_eps: float = 1e-12
    enc_id: int | None = None  # [ENC], the first token of a text fused with a picture; None: [CLS]
    pair: PairConfig | None = None  # for the task 'reason', whose texts are about two pictures


@dataclass(frozen=True)
class DecoderConfig:
    """A causal stack with a language-model head. All sizes except its depth are those of the text stack.

    A captioning decoder attends to the picture (official `models/blip.py`). An answering decoder attends to the question
    fused with the picture (`models/blip_vqa.py`, ALBEF's `models/model_vqa.py`). A model with both tasks shares one decoder.
    """

    depth: int
    dec_id: int | None = None  # [DEC], the first token of a generated text; None: [CLS]
    label_smoothing: float = field(default=0.0, metadata=MAY_BE_0)  # of the loss that ranks candidate answers
    first_token_twice: bool = False  # ALBEF counts the first token's log-probability twice


@dataclass(frozen=True)
class ExplainConfig:
    """How Grad-CAM shows where the model sees a word (`inference/visualization/grad_cam.py`)."""

    # None: the layer that the family's official code uses.
    layers: tuple[int, ...] | None = field(default=None, metadata=MAY_BE_0)
    steps: int = 1  # number of picture strengths to average over; 1 as in the official code


@dataclass(frozen=True)
class WeightsSource:
    """Where a model's weights are: in a hub repository, at a URL, or in a file of this package. At most one is set."""

    packaged: str | None = None  # path within the package
    hub: str | None = None
    revision: str | None = None
    url: str | None = None
    sha256: str | None = None

    @property
    def location(self) -> str | None:
        """The packaged path, hub id or URL, whichever is set."""
        return self.packaged or self.hub or self.url


@dataclass(frozen=True)
class ModelConfig:
    """One model: its towers, its text rules, and where its weights are."""

    name: str
    family: str  # "blip" | "albef"
    summary: str
    license: str
    tasks: tuple[str, ...]  # of TASKS: those that its checkpoint has a head for
    vision: VisionConfig
    text: TextConfig
    captions: TextRules
    tokenizer: str  # the WordPiece vocabulary: a hub id, or a file's path within the package
    source: WeightsSource
    embed_dim: int | None = None  # length of a vector; None: no projections, so no vectors
    rerank_adds_cosine: bool = False  # BLIP ranks by match logit + cosine, ALBEF by the match logit
    decoder: DecoderConfig | None = None  # for the tasks 'caption' and 'answer'
    questions: QuestionRules | None = None
    explain: ExplainConfig = ExplainConfig()

    def __post_init__(self) -> None:
        if type(self.questions) is TextRules:  # version 0.1.0 had one class for both
            object.__setattr__(self, "questions", QuestionRules(**vars(self.questions)))


def config_from_mapping(raw: Mapping[str, Any], where: str) -> ModelConfig:
    """Build and check a configuration.

    Args:
        where: the origin of `raw`, for error messages.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or values that do not fit together.
    """
    config: ModelConfig = build_dataclass(ModelConfig, raw, where)
    vision, text, decoder = config.vision, config.text, config.decoder or DecoderConfig(1)
    layers = config.explain.layers or ()
    too_large = [name for name, size in _sizes(config) if size > (MAX_LAYERS if name.endswith("depth") else MAX_SIZE)]
    problems = [
        (bool(too_large), f"{', '.join(too_large)}: larger than any known model"),
        (config.family not in FAMILIES, f"family: expected one of {', '.join(FAMILIES)}, got {config.family!r}"),
        (vision.width % vision.num_heads != 0, "vision: width must be a multiple of num_heads"),
        (vision.image_size % vision.patch_size != 0, "vision: image_size must be a multiple of patch_size"),
        (
            (vision.image_size // vision.patch_size) ** 2 > MAX_PATCHES,
            f"vision: image_size and patch_size give more than {MAX_PATCHES} patches, more than any known model",
        ),
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
            "source: a sha256 of a hub file needs a revision",
        ),
        (
            (config.questions or config.captions).max_tokens > text.max_positions,
            "questions: max_tokens is more than text.max_positions",
        ),
        *(
            (not 0 <= (number or 0) < text.vocab_size, f"{name}: expected an id below text.vocab_size, got {number}")
            for name, number in (("text.enc_id", text.enc_id), ("decoder.dec_id", decoder.dec_id))
        ),
        *(
            (bool(problem), f"{name}: {problem}")
            for name, rules in (("captions", config.captions), ("questions", config.questions))
            if (problem := rules and _problem_of_rules(rules))
        ),
        (len(set(config.tasks)) < len(config.tasks), "tasks: expected each at most once"),
        (not set(config.tasks) <= set(TASKS), f"tasks: expected some of {', '.join(TASKS)}, got {list(config.tasks)}"),
        (
            ("embed" in config.tasks) != (config.embed_dim is not None),
            "embed_dim must be set exactly when tasks include 'embed'",
        ),
        (
            bool({"caption", "answer"} & set(config.tasks)) != (config.decoder is not None),
            "decoder must be set exactly when tasks include 'caption' or 'answer'",
        ),
        (
            {"caption", "answer"} <= set(config.tasks) and vision.width != text.width,
            "decoder: the tasks 'caption' and 'answer' together need equal widths of vision and text",
        ),
        (not 0 <= decoder.label_smoothing < 1, "label_smoothing must lie in [0, 1)"),
        (
            ("answer" in config.tasks) != (config.questions is not None),
            "questions must be set exactly when tasks include 'answer'",
        ),
        (
            ("reason" in config.tasks) != (text.pair is not None),
            "text: pair must be set exactly when tasks include 'reason'",
        ),
        ("reason" in config.tasks and len(config.tasks) > 1, "tasks: 'reason' must be a model's only task"),
        (
            text.pair is not None and not text.pair.twins and (text.depth - text.fusion_start) % 2 != 0,
            "text: two pictures in turn need an even number of fusion layers",
        ),
        (
            not all(text.fusion_start <= layer < text.depth - 1 for layer in layers),
            "explain: layers must be fusion layers except the last: fusion_start..depth-2",
        ),
        (len(set(layers)) < len(layers), "explain: layers: expected each at most once"),
        (config.explain.steps > MAX_EXPLAIN_STEPS, f"explain: steps: expected at most {MAX_EXPLAIN_STEPS}"),
    ]
    for wrong, message in problems:
        if wrong:
            raise ConfigError(f"{where}: {message}")
    return config


def _problem_of_rules(rules: TextRules) -> str | None:
    """What is wrong with text rules, which may come from a stranger and run on every text; None: nothing."""
    texts = (rules.to_space, rules.remove, *itertools.chain(*rules.replace))
    if len(rules.replace) > MAX_REPLACEMENTS or max(map(len, texts)) > MAX_RULE_CHARACTERS:
        return (
            f"expected at most {MAX_REPLACEMENTS} replacements, and texts of at most {MAX_RULE_CHARACTERS} characters"
        )
    return None if all(old for old, _ in rules.replace) else "replace: expected something to replace, got an empty text"


def _sizes(config: ModelConfig) -> Iterator[tuple[str, int]]:
    """The integers of the stacks, by names such as "vision.depth"."""
    for name, part in (("vision", config.vision), ("text", config.text), ("decoder", config.decoder)):
        for key, value in (vars(part) if part else {}).items():
            if isinstance(value, int):
                yield f"{name}.{key}", value
