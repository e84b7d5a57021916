"""Accuracy on VQA v2, OK-VQA and A-OKVQA, and the file of answers for their evaluation servers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import abbreviate, abbreviated_names
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.answering import make_answerer
from image_text_embedding.inference.tasks.image_text_batches import PictureTextBatches, TokenIds, text_encoder_for
from image_text_embedding.inference.tasks.task_settings import AnswerSettings
from image_text_embedding.inputs.collections.annotation_files import coco_names, find_picture, read_annotations
from image_text_embedding.inputs.item_lists import ItemErrors, batches
from image_text_embedding.retrieval.evaluation.vqa_accuracy import aokvqa_accuracy, vqa_accuracy

QUESTIONS = (
    "questions of VQA v2 or OK-VQA ({'questions': [{'question_id', 'image_id', 'question'}], 'data_subtype'}), of A-OKVQA "
    "([{'question_id', 'image_id', 'question', 'direct_answers'}]), or of BLIP and ALBEF ([{'question_id', 'image', "
    "'question'}])"
)
ANNOTATIONS = "annotations of VQA v2 or OK-VQA ({'annotations': [{'question_id', 'answers': [{'answer'}]}]})"
ANSWERS = 'a JSON list of answers (["yes", "no", ...])'


@dataclass(frozen=True)
class VqaQuestion:
    """A question about a picture.

    Attributes:
        answers: of each annotator; None = unknown, as for a test set.
        answer_type: "yes/no", "number" or "other"; None = the data set has no types.
        is_aokvqa: whether it is one of A-OKVQA, which counts matches in its own way.
        is_left_out: A-OKVQA leaves out questions that are hard to answer without choices.
    """

    id: int | str
    picture: Path
    text: str
    answers: tuple[str, ...] | None = None
    answer_type: str | None = None
    is_aokvqa: bool = False
    is_left_out: bool = False


@dataclass(frozen=True)
class VqaResult:
    """Answers, and how good they are.

    Attributes:
        answers: to each question.
        accuracy: the mean over the questions; None = their answers are unknown.
        by_type: the same for each type of answer.
        count: questions that the accuracy is about.
    """

    answers: list[str]
    accuracy: float | None
    by_type: dict[str, float]
    count: int


def read_vqa(
    path: str | os.PathLike[str], images: str | os.PathLike[str], annotations: str | os.PathLike[str] | None = None
) -> list[VqaQuestion]:
    """Read questions, and what annotators answered.

    Args:
        path: `v2_OpenEnded_mscoco_val2014_questions.json` and the like of VQA v2 and OK-VQA; `aokvqa_v1p0_val.json`, which
            has the answers, too; or `vqa_test.json` and the like of BLIP and ALBEF.
        images: the folder with the pictures, in COCO's own folders (`val2014`) or without them.
        annotations: `v2_mscoco_val2014_annotations.json` and the like; None for a test set.

    Raises:
        InputError: a file has another format, a picture is missing, two questions have one id, or one has no annotations.
    """
    content = read_annotations(path, QUESTIONS)
    subset = str(content.get("data_subtype", "")) if isinstance(content, dict) else ""
    rows = content.get("questions") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows:
        raise InputError(f"expected {QUESTIONS}, got {path} with {abbreviate(rows)} as questions")
    known = {} if annotations is None else _read_answers(annotations)
    # Five questions are about one picture of COCO, which is searched once.
    find = functools.cache(lambda names: find_picture(images, names))
    questions: dict[int | str, VqaQuestion] = {}
    unknown = []
    for number, row in enumerate(rows):
        try:
            question = _question(row, find, subset)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise InputError(f"expected {QUESTIONS}, got {path} with question {number}: {error!r}") from error
        if question.id in questions:
            raise InputError(f"{path}: expected every question_id once, got {question.id!r} twice")
        if annotations is not None:
            if question.id not in known:
                unknown.append(str(question.id))
                continue
            answers, kind = known[question.id]
            question = VqaQuestion(question.id, question.picture, question.text, answers, kind)
        questions[question.id] = question
    if unknown:
        raise InputError(
            f"{annotations}: expected the answers to every question of {path}, but {len(unknown)} of {len(rows)} are not in "
            f"it: {abbreviated_names(unknown, 5)}. Do both files belong to the same split?"
        )
    return list(questions.values())


def read_answer_list(path: str | os.PathLike[str]) -> list[str]:
    """The answers to choose from, such as BLIP's and ALBEF's `answer_list.json` of 3,128 answers.

    Raises:
        InputError: it is no list of strings.
    """
    found = read_annotations(path, ANSWERS)
    if not isinstance(found, list) or not found or not all(isinstance(each, str) and each for each in found):
        raise InputError(f"expected {ANSWERS}, got {path} with {abbreviate(found)}")
    return found


def evaluate_vqa(
    model: Encoder,
    questions: Sequence[VqaQuestion],
    settings: AnswerSettings | None = None,
    batch_size: int = 32,
    show: bool | None = None,
) -> VqaResult:
    """The accuracy of a model's answers to the questions of `read_vqa`. Each picture is computed once for all its questions.

    Args:
        settings: with `choices`, answers are chosen from these, as in the published results; None = they are written.
        batch_size: pictures, or questions, computed at once.
        show: a progress bar; None = on a terminal.

    Raises:
        InputError: the model cannot answer.
        ImageError, TextError: a picture or a question cannot be used; `.index` is its index.
    """
    answers = _answers(model, questions, settings or AnswerSettings(), batch_size, show)
    scores: dict[str, list[float]] = {}
    for question, answer in zip(questions, answers):
        if question.answers is not None and not question.is_left_out:
            measure = aokvqa_accuracy if question.is_aokvqa else vqa_accuracy
            scores.setdefault(question.answer_type or "", []).append(measure(answer, question.answers))
    every = [score for group in scores.values() for score in group]
    by_type = {kind: sum(group) / len(group) for kind, group in sorted(scores.items()) if kind}
    return VqaResult(answers, sum(every) / len(every) if every else None, by_type, len(every))


def vqa_results(questions: Sequence[VqaQuestion], answers: Iterable[str]) -> Any:
    """What the evaluation server takes: `[{"question_id", "answer"}]`, for A-OKVQA `{question_id: {"direct_answer"}}`."""
    pairs = list(zip(questions, answers))
    if questions[0].is_aokvqa:
        return {str(question.id): {"direct_answer": answer} for question, answer in pairs}
    return [{"question_id": question.id, "answer": answer} for question, answer in pairs]


def _answers(
    model: Encoder, questions: Sequence[VqaQuestion], settings: AnswerSettings, batch_size: int, show: bool | None
) -> list[str]:
    runtime = model.runtime
    answer = make_answerer(runtime, settings)
    encode = text_encoder_for(runtime, questions=True)
    texts = ((index, question.text) for index, question in enumerate(questions))
    rows = dict(ItemErrors("raise", one=False).each(texts, encode))
    of_picture: dict[Path, list[int]] = {}
    for index, question in enumerate(questions):
        of_picture.setdefault(question.picture, []).append(index)
    pictures = PictureTextBatches(runtime, list(of_picture), "raise")

    def compute(states: torch.Tensor, batch: list[list[TokenIds]]) -> list[list[str]]:
        """The answers to all questions about each picture."""
        pairs = [(number, row) for number, rows in enumerate(batch) for row in rows]
        found: list[list[str]] = [[] for _ in batch]
        for group in batches(pairs, batch_size):
            numbers = [number for number, _ in group]
            for number, each in zip(numbers, answer(states[numbers], [row for _, row in group])):
                found[number].append(each if settings.choices is None else each[0][0])
        return found

    of_each = {number: [rows[index] for index in indices] for number, indices in enumerate(of_picture.values())}
    written = pictures.run(of_each, compute, None, batch_size, show)
    answers = [""] * len(questions)
    for indices, found in zip(of_picture.values(), written):
        for index, each in zip(indices, found):
            answers[index] = each
    return answers


def _question(row: Mapping[str, Any], find: Callable[[tuple[Any, ...]], Path], subset: str) -> VqaQuestion:
    identity, text = row["question_id"], row["question"]
    if not isinstance(identity, (int, str)) or not isinstance(text, str) or not text.strip():
        raise ValueError(f"question_id {abbreviate(identity)}, question {abbreviate(text)}")
    if isinstance(row.get("image"), str):
        name = row["image"]
        answers = _strings(row["answer"]) if isinstance(row.get("answer"), list) else None
        return VqaQuestion(identity, find((name, name.rpartition("/")[2])), text, answers)
    is_aokvqa = "choices" in row or "direct_answers" in row
    if is_aokvqa:
        subset = f"{row['split']}2017"
    # The test-dev questions are about pictures of the test set.
    picture = find(tuple(coco_names(int(row["image_id"]), subset.replace("test-dev", "test"))))
    answers = _strings(row["direct_answers"]) if "direct_answers" in row else None
    return VqaQuestion(
        identity, picture, text, answers, None, is_aokvqa, row.get("difficult_direct_answer", False) is True
    )


def _read_answers(path: str | os.PathLike[str]) -> dict[int | str, tuple[tuple[str, ...], str | None]]:
    """Question id -> the answers of each annotator, and the type of answer."""
    content = read_annotations(path, ANNOTATIONS)
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"expected {ANNOTATIONS}, got {path} with {abbreviate(rows)} as annotations")
    found = {}
    for number, row in enumerate(rows):
        try:
            kind = row.get("answer_type")
            answers = _strings([each["answer"] for each in row["answers"]])
            found[row["question_id"]] = (answers, kind if isinstance(kind, str) else None)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"expected {ANNOTATIONS}, got {path} with annotation {number}: {error!r}") from error
    return found


def _strings(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"answers: expected strings, at least one, got {abbreviate(values)}")
    return tuple(values)
