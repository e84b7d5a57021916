"""What fused states are asked for: matching, captions, answers; one by one, in batches, or all of one picture.

Every function takes an `Engine`; `Encoder`'s methods of the same names say what goes in and comes out. All of them check
everything but the pictures before anything is computed, and every picture passes the ViT once.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from image_text_embedding.ahead import batches_ahead
from image_text_embedding.config import TASKS, TextRules, guess
from image_text_embedding.engine import Engine
from image_text_embedding.errors import InputError, TextError
from image_text_embedding.heads import rank_answers
from image_text_embedding.items import (
    Failures,
    Reader,
    batches,
    held,
    is_number,
    is_one_picture,
    is_one_text,
    many,
    progress,
    whole_number,
)
from image_text_embedding.pairs import Compute, Pairs, Row, finite

NEEDS = {"match": "texts", "answer": "questions"}  # what a task of analyze() takes beside pictures
# The settings of each task and their defaults, which are also those of Encoder's methods.
SETTINGS: dict[str, dict[str, Any]] = {
    "embed": {},
    "match": {"itm_token": "enc"},
    "caption": {
        "num_beams": 3,
        "max_length": 20,
        "min_length": 5,
        "repetition_penalty": None,
        "sample": False,
        "top_p": 0.9,
        "seed": None,
        "num_return_sequences": 1,
    },
    "answer": {
        "choices": None,
        "k": 128,
        "num_beams": 3,
        "max_length": 10,
        "min_length": 1,
        "question_token": "enc",
    },
}

# --- What each head makes of pictures' states and token ids -------------------------------------------------------------


def embedder(engine: Engine) -> Compute:
    """(B, D) unit vectors, a row each."""
    engine.require("embed", "image")

    def compute(states: torch.Tensor, rows: list[Any]) -> list[Any]:
        vectors = F.normalize(engine.part("image").project(states).float(), dim=-1)
        return list(finite(vectors, engine).repeat_interleave(len(rows) // len(states), dim=0).cpu().numpy())

    return compute


def matcher(engine: Engine, itm_token: str) -> Callable[[torch.Tensor, list[Row]], torch.Tensor]:
    """Logits (R, 2) float32; 1 = match."""
    engine.require("match")
    first = _first_token(engine, "itm_token", itm_token)

    def compute(states: torch.Tensor, rows: list[Row]) -> torch.Tensor:
        ids, mask = engine.padded([[first, *row[1:]] for row in rows])
        return finite(engine.part("match")(ids, mask, states).float(), engine)

    return compute


def match_probabilities(engine: Engine, itm_token: str) -> Compute:
    logits = matcher(engine, itm_token)
    return lambda states, rows: logits(states, rows).softmax(-1)[:, 1].tolist()


def captioner(
    engine: Engine,
    *,
    num_beams: int,
    max_length: int,
    min_length: int,
    repetition_penalty: float | None,
    sample: bool,
    top_p: float,
    seed: int | None,
    num_return_sequences: int,
) -> Compute:
    """Rows are prompts; a caption each, or a list of num_return_sequences."""
    engine.require("caption")
    manner = _manner(
        engine, num_beams, max_length, min_length, 1.1 if sample and repetition_penalty is None else repetition_penalty
    )
    count = whole_number("num_return_sequences", num_return_sequences)
    if sample:
        if not is_number(top_p) or not 0 < top_p <= 1:
            raise InputError(f"top_p: expected a number in (0, 1], came {top_p!r}")
        manner = dataclasses.replace(manner, num_beams=1, top_p=float(top_p))
    elif count > num_beams:
        raise InputError(
            f"num_return_sequences={count} needs as many beams, came num_beams={num_beams}; or sample=True draws any number"
        )
    if seed is not None:
        seed = whole_number("seed", seed, least=0)
    manner = dataclasses.replace(manner, num_return_sequences=count)

    def compute(states: torch.Tensor, rows: list[Row]) -> list[Any]:
        # One seed gives every picture the same draws, so that a picture gets alone what it gets in a batch.
        seeds = [_seed(seed, j) for _ in rows for j in range(count)] if sample else None
        texts = _write(engine, engine.part("caption").decoder, rows, states, None, manner, seeds)
        return texts if count == 1 else [texts[i : i + count] for i in range(0, len(texts), count)]

    return compute


def answerer(
    engine: Engine,
    *,
    choices: Sequence[str] | None,
    k: int,
    question_token: str,
    num_beams: int,
    max_length: int,
    min_length: int,
) -> Compute:
    """Rows are questions; an answer each, or the choices ranked: (answer, probability), best first."""
    engine.require("answer")
    first = _first_token(engine, "question_token", question_token)
    manner = _manner(engine, num_beams, max_length, min_length, 1.0)
    k = whole_number("k", k)
    listed = None if choices is None else list(many(choices, "answers") if not is_one_text(choices) else [choices])
    options = None if listed is None else _choices(engine, listed)

    def compute(states: torch.Tensor, rows: list[Row]) -> list[Any]:
        head = engine.part("answer")
        ids, mask = engine.padded([[first, *row[1:]] for row in rows])
        read = finite(head.text.fuse(ids, mask, states), engine)
        if options is None or listed is None:
            # The original attends to padded question positions here, as though they were words (all-ones
            # `question_atts` of `models/blip_vqa.py`), so that its answers depend on the batch. We use the real mask.
            return _write(engine, head.decoder, [[_start(engine)]] * len(rows), read, mask, manner, None)
        answers = engine.padded(options)
        found, probabilities = rank_answers(head, engine.config, read, mask, *answers, min(k, len(listed)))
        return [
            [(listed[i], p) for i, p in zip(best, chances)]
            for best, chances in zip(found.tolist(), probabilities.tolist())
        ]

    return compute


# --- The tasks ----------------------------------------------------------------------------------------------------------


def match(
    engine: Engine, images: Any, texts: Any, itm_token: str, batch_size: int, show: bool | None, on_error: str
) -> Any:
    compute = match_probabilities(engine, itm_token)
    pairs = Pairs(engine, images, on_error, texts=_needed("texts", texts))
    rows = pairs.rows("texts", reader := reader_of(engine))
    reader.warn(2)
    found = pairs.run(rows, compute, float("nan"), batch_size, show)
    return pairs.failures.result(found if pairs.one else np.array(found, dtype=np.float32))


@torch.inference_mode()
def match_matrix(
    engine: Engine, images: Any, texts: Any, itm_token: str, batch_size: int, show: bool | None, on_error: str
) -> Any:
    logits = matcher(engine, itm_token)
    batch_size = whole_number("batch_size", batch_size)
    pictures = [images] if is_one_picture(images) else held(images, "pictures")
    sentences = [texts] if is_one_text(texts) else list(many(texts, "texts"))
    rows = Failures(on_error, one=False)
    columns = Failures(on_error, one=False)
    tokens = list(columns.each(enumerate(sentences), reader := reader_of(engine)))
    reader.warn(3)
    tokens.sort(key=lambda pair: -len(pair[1]))  # texts of like length together, so that little is padded
    matrix = np.full((len(pictures), len(sentences)), np.nan, dtype=np.float32)
    with (
        progress(len(pictures), "image", show) as bar,
        closing(batches_ahead(enumerate(pictures), engine.pixels, batch_size, rows)) as groups,
    ):
        for group in groups:
            states = engine.states([pixels for _, pixels in group])
            for (i, _), state in zip(group, states.split(1)):
                for batch in batches(tokens, batch_size):
                    chances = logits(state, [row for _, row in batch]).softmax(-1)[:, 1]
                    matrix[i, [j for j, _ in batch]] = chances.cpu().numpy()
            bar.update(len(group))
    rows.errors = [((i, None), error) for i, error in rows.errors]
    rows.errors += [((None, j), error) for j, error in columns.errors]
    return (matrix, rows.errors) if rows.skip else matrix


def caption(
    engine: Engine, images: Any, prompt: Any, batch_size: int, show: bool | None, on_error: str, **manner: Any
) -> Any:
    compute = captioner(engine, **manner)
    pairs = Pairs(engine, images, on_error, prompts=prompt)
    found = pairs.run(_prompts(pairs, prompt, manner["max_length"]), compute, None, batch_size, show)
    return pairs.failures.result(found)


def answer(
    engine: Engine, images: Any, questions: Any, batch_size: int, show: bool | None, on_error: str, **manner: Any
) -> Any:
    compute = answerer(engine, **manner)
    pairs = Pairs(engine, images, on_error, questions=_needed("questions", questions))
    rows = pairs.rows("questions", reader := reader_of(engine, questions=True))
    reader.warn(2)
    return pairs.failures.result(pairs.run(rows, compute, None, batch_size, show))


def analyze(
    engine: Engine,
    images: Any,
    tasks: Sequence[str] | None,
    given: dict[str, Any],
    settings: dict[str, Any],
    batch_size: int,
    show: bool | None,
    on_error: str,
) -> Any:
    asked = _asked(engine, tasks, given)
    known = set().union(*(SETTINGS[task] for task in asked))
    for name in settings:
        if name not in known:
            raise InputError(f"unknown setting {name!r}{guess(name, known)} Settings of {asked}: {sorted(known)}.")
    chosen = {task: {name: settings.get(name, default) for name, default in SETTINGS[task].items()} for task in asked}
    computes: dict[str, Compute] = {}
    if "embed" in asked:
        computes["embed"] = embedder(engine)
    if "match" in asked:
        computes["match"] = match_probabilities(engine, **chosen["match"])
    if "caption" in asked:
        computes["caption"] = captioner(engine, **chosen["caption"])
    if "answer" in asked:
        computes["answer"] = answerer(engine, **chosen["answer"])

    pairs = Pairs(engine, images, on_error, texts=given["texts"], questions=given["questions"], prompts=given["prompt"])
    rows: dict[str, dict[int, Any]] = {"embed": dict.fromkeys(range(pairs.count))}
    if "match" in asked:
        rows["match"] = pairs.rows("texts", reader := reader_of(engine))
        reader.warn(2)
    if "caption" in asked:
        rows["caption"] = _prompts(pairs, given["prompt"], chosen["caption"]["max_length"])
    if "answer" in asked:
        rows["answer"] = pairs.rows("questions", reader := reader_of(engine, questions=True))
        reader.warn(2)
    whole = {
        i: {task: rows[task][i] for task in asked} for i in range(pairs.count) if all(i in rows[task] for task in asked)
    }

    def compute(states: torch.Tensor, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        results = {task: computes[task](states, [row[task] for row in batch]) for task in asked}
        return [{task: results[task][i] for task in asked} for i in range(len(batch))]

    return pairs.failures.result(pairs.run(whole, compute, None, batch_size, show))


def _asked(engine: Engine, tasks: Sequence[str] | None, given: dict[str, Any]) -> tuple[str, ...]:
    """The tasks, which the model can do and which have their texts."""
    if tasks is None:
        asked = tuple(task for task in engine.config.tasks if task not in NEEDS or given[NEEDS[task]] is not None)
    else:
        asked = tuple([tasks] if isinstance(tasks, str) else many(tasks, "tasks"))
    for task in asked:
        if task not in TASKS:
            raise InputError(f"unknown task {task!r}{guess(str(task), TASKS)} Tasks: {', '.join(TASKS)}.")
        engine.require(task)
        if task in NEEDS:
            _needed(NEEDS[task], given[NEEDS[task]])
    for task, name in (*NEEDS.items(), ("caption", "prompt")):
        if given[name] is not None and task not in asked:
            engine.require(task)
            raise InputError(f"{name}= goes with the task {task!r}, which is not among those asked for: {asked}")
    if not asked:
        raise InputError(f"tasks: expected some of {', '.join(engine.config.tasks)}, came none")
    return asked


# --- Small print --------------------------------------------------------------------------------------------------------


def _first_token(engine: Engine, name: str, token: str) -> int:
    """The id that begins a fused text: [ENC] as trained where the family has it, or [CLS]."""
    if token not in ("enc", "cls"):
        raise InputError(f"{name}: expected 'enc' or 'cls', came {token!r}")
    enc_id = engine.config.text.enc_id
    return enc_id if token == "enc" and enc_id is not None else engine.tokenizer.cls_id


def _start(engine: Engine) -> int:
    """The id that begins what a decoder writes."""
    assert engine.config.decoder is not None
    dec_id = engine.config.decoder.dec_id
    return engine.tokenizer.cls_id if dec_id is None else dec_id


def _manner(engine: Engine, num_beams: int, max_length: int, min_length: int, penalty: float | None) -> Any:
    from image_text_embedding.generate import Manner  # late: transformers' generation takes seconds to import

    num_beams = whole_number("num_beams", num_beams)
    max_length = whole_number("max_length", max_length, least=2)
    min_length = whole_number("min_length", min_length, least=0)
    penalty = 1.0 if penalty is None else penalty
    if not is_number(penalty) or not penalty > 0:
        raise InputError(f"repetition_penalty: expected a number above 0 (1.0 = none), came {penalty!r}")
    if max_length > engine.config.text.max_positions:
        raise InputError(
            f"max_length: expected at most {engine.config.text.max_positions} positions, came {max_length}"
        )
    if min_length > max_length:
        raise InputError(f"min_length: expected at most max_length={max_length}, came {min_length}")
    return Manner(max_length, min_length, num_beams, float(penalty))


def _prompts(pairs: Pairs, prompt: Any, max_length: int) -> dict[int, Row]:
    """Index -> the first token and the prompt's."""
    start = _start(pairs.engine)
    if prompt is None:
        return {index: [start] for index in range(pairs.count)}
    rules = TextRules.as_it_is(max_length - 1, sep=False)

    def encode(text: Any) -> Row:
        row, was_cut = pairs.engine.tokenizer.encode(text, rules)
        if was_cut:
            positions = pairs.engine.config.text.max_positions
            raise TextError(
                f"expected a prompt that leaves room to write: at most {max_length - 2} tokens with max_length="
                f"{max_length} (of at most {positions} positions), came {text[:100]!r}"
            )
        return [start, *row[1:]]

    return pairs.rows("prompts", encode)


def prompt_length(engine: Engine, prompt: str | None) -> int:
    """How many tokens a caption begins with, its first included."""
    rules = TextRules.as_it_is(engine.config.text.max_positions, sep=False)
    return 1 if prompt is None else len(engine.tokenizer.encode(prompt, rules)[0])


def _choices(engine: Engine, choices: list[Any]) -> list[Row]:
    """Token ids of given answers."""
    if not choices:
        raise InputError("choices: expected at least one answer, came an empty list")
    rules = TextRules.as_it_is(engine.config.text.max_positions, sep=True)
    rows = dict(
        Failures("raise", one=False).each(enumerate(choices), lambda text: engine.tokenizer.encode(text, rules))
    )
    seen: dict[tuple[int, ...], int] = {}
    for index, (row, was_cut) in rows.items():
        if was_cut:
            raise TextError(f"choices: item {index} is longer than {rules.max_tokens} positions", index)
        other = seen.setdefault(tuple(row), index)
        if other != index:
            raise TextError(
                f"choices: expected every answer once, came {choices[other]!r} (item {other}) and {choices[index]!r} (item "
                f"{index}), which are the same tokens",
                index,
            )
    return [[_start(engine), *row[1:]] for row, _ in rows.values()]


def reader_of(engine: Engine, questions: bool = False) -> Reader:
    rules = engine.config.questions if questions else engine.config.captions
    assert rules is not None
    return Reader(engine.tokenizer, rules, engine.config.name)


def _needed(name: str, value: Any) -> Any:
    if value is None:
        raise InputError(f"{name}: expected one string, or one for each picture, came None")
    return value


def _write(
    engine: Engine,
    decoder: Any,
    prompts: list[Row],
    states: torch.Tensor,
    mask: torch.Tensor | None,
    manner: Any,
    seeds: list[int] | None,
) -> list[str]:
    """What the decoder writes after each prompt: prompts of one length at a time, as none may be padded."""
    from image_text_embedding.generate import write

    tokenizer, count = engine.tokenizer, manner.num_return_sequences
    states = states.expand(len(prompts), -1, -1) if len(states) != len(prompts) else states
    texts = [""] * (len(prompts) * count)
    for length in sorted({len(prompt) for prompt in prompts}):
        places = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        ids = torch.tensor([prompts[i] for i in places], device=engine.device)
        chosen = torch.tensor(places, device=engine.device)
        outputs = [i * count + j for i in places for j in range(count)]
        rows = write(
            decoder,
            ids,
            states[chosen],
            None if mask is None else mask[chosen],
            manner,
            tokenizer.sep_id,
            tokenizer.pad_id,
            None if seeds is None else [seeds[i] for i in outputs],
        )
        for place, row in zip(outputs, rows[:, length:].tolist()):
            # After the end generate pads, in beam search with the end token itself.
            texts[place] = tokenizer.decode(row[: row.index(tokenizer.sep_id)] if tokenizer.sep_id in row else row)
    return texts


def _seed(seed: int | None, number: int) -> int:
    return secrets.randbits(63) if seed is None else (seed * 1_000_003 + number) % 2**63
