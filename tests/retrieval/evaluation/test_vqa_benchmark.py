"""Accuracy on VQA: the official files, answers against single calls, and the file for the evaluation server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.environment import Run
from support.packaged_pictures import PATHS

from image_text_embedding.foundation.errors import InputError, TextError
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.tasks.task_settings import AnswerSettings
from image_text_embedding.retrieval.evaluation.vqa_accuracy import vqa_accuracy
from image_text_embedding.retrieval.evaluation.vqa_benchmark import (
    evaluate_vqa,
    read_answer_list,
    read_vqa,
    vqa_results,
)

TEXTS = ["What is it?", "How many dogs are there in the picture?", "Is it red?"]
CHOICES = ["yes", "no", "a dog", "two", "red"]
QUESTIONS = [{"question_id": 10 * i + j, "image_id": i, "question": TEXTS[j]} for i in range(3) for j in (0, 1 + i % 2)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    for i in range(3):
        name = (f"val2014/COCO_val2014_{i:012d}.jpg", f"{i:012d}.jpg", f"test2015/COCO_test2015_{i:012d}.jpg")[i]
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(PATHS[i], folder / name)
    shutil.copy(PATHS[2], folder / "val2014" / f"COCO_val2014_{2:012d}.jpg")
    return folder


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def official(tmp_path: Path) -> tuple[Path, Path]:
    questions = {"info": {}, "data_subtype": "val2014", "questions": QUESTIONS}
    annotations = [
        {
            "question_id": row["question_id"],
            "answer_type": ["yes/no", "number"][row["question_id"] % 2],
            "answers": [{"answer": CHOICES[(i + row["question_id"]) % 5], "answer_id": i} for i in range(10)],
        }
        for row in reversed(QUESTIONS)
    ]
    return (
        write(tmp_path / "questions.json", questions),
        write(tmp_path / "annotations.json", {"annotations": annotations}),
    )


@pytest.mark.parametrize("name", ["blip_vqa_base", "albef_vqa"])
@pytest.mark.parametrize("choices", [None, CHOICES])
def test_accuracy_equals_that_of_single_calls(
    small_encoder: Callable, official: tuple[Path, Path], pictures: Path, name: str, choices: list[str] | None
) -> None:
    model, questions = small_encoder(name), read_vqa(official[0], pictures, official[1])
    found = evaluate_vqa(model, questions, AnswerSettings(choices), batch_size=2)
    expected = [model.answer(each.picture, each.text, choices) for each in questions]
    expected = expected if choices is None else [ranked[0][0] for ranked in expected]
    assert found.answers == expected
    scores = [vqa_accuracy(answer, each.answers or ()) for answer, each in zip(expected, questions)]
    assert found.accuracy == pytest.approx(sum(scores) / 6) and found.count == 6
    for kind, share in found.by_type.items():
        group = [score for score, each in zip(scores, questions) if each.answer_type == kind]
        assert share == pytest.approx(sum(group) / len(group))
    assert set(found.by_type) == {"yes/no", "number"}
    if choices:
        assert found.accuracy > 0  # each answer is one of the annotators'


def test_each_picture_is_computed_once(
    small_encoder: Callable, official: tuple[Path, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = ModelRuntime.states
    monkeypatch.setattr(ModelRuntime, "states", lambda self, read: (seen.append(len(read)), real(self, read))[1])
    result = evaluate_vqa(small_encoder("blip_vqa_base"), read_vqa(official[0], pictures))
    assert sum(seen) == 3 and len(result.answers) == 6
    assert (result.accuracy, result.by_type, result.count) == (None, {}, 0)


def test_pictures_of_each_data_set(tmp_path: Path, pictures: Path) -> None:
    def read(content: Any) -> list[Path]:
        return [each.picture.relative_to(pictures) for each in read_vqa(write(tmp_path / "q.json", content), pictures)]

    row = {"question_id": 1, "image_id": 1, "question": "What?"}
    assert read({"questions": [row], "data_subtype": "val2014"}) == [Path(f"{1:012d}.jpg")]
    test = {"questions": [row | {"image_id": 2}], "data_subtype": "test-dev2015"}
    assert read(test) == [Path("test2015", f"COCO_test2015_{2:012d}.jpg")]
    blip = [{"question_id": 1, "image": f"val2014/COCO_val2014_{0:012d}.jpg", "question": "What?", "dataset": "vqa"}]
    assert read(blip) == [Path("val2014", f"COCO_val2014_{0:012d}.jpg")]
    (pictures / "train2017").mkdir(exist_ok=True)
    shutil.copy(PATHS[0], pictures / "train2017" / f"{7:012d}.jpg")
    assert read([row | {"image_id": 7, "split": "train", "choices": ["a"]}]) == [Path("train2017", f"{7:012d}.jpg")]


def test_a_okvqa(tmp_path: Path, pictures: Path, small_encoder: Callable) -> None:
    row = {"image_id": 1, "split": "val", "question": "What is it?", "choices": ["a", "b"]}
    rows = [
        row | {"question_id": "x", "direct_answers": ["Red", "red", "red"], "difficult_direct_answer": False},
        row | {"question_id": "y", "direct_answers": ["no"], "difficult_direct_answer": True},
    ]
    questions = read_vqa(write(tmp_path / "aokvqa_v1p0_val.json", rows), pictures)
    found = evaluate_vqa(small_encoder("blip_vqa_base"), questions, AnswerSettings(["red"]))
    assert found.accuracy == pytest.approx(2 / 3) and found.count == 1
    assert vqa_results(questions, found.answers) == {"x": {"direct_answer": "red"}, "y": {"direct_answer": "red"}}


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ("{", "expected questions of VQA v2"),
        ("[]", "as questions"),
        ('{"questions": {}}', "as questions"),
        ('{"annotations": []}', "as questions"),
        ("[1]", "question 0"),
        (json.dumps([{**QUESTIONS[0], "question": ""}]), "question 0"),
        (json.dumps([{**QUESTIONS[0], "question_id": [1]}]), "question 0"),
        (json.dumps([{**QUESTIONS[0], "image_id": "x"}]), "question 0"),
        ('[{"question_id": 1, "image_id": 1e999, "question": "What?"}]', "question 0"),
        (json.dumps([{**QUESTIONS[0], "image_id": 99}]), "000000000099.jpg, found none"),
        (json.dumps([{**QUESTIONS[0], "image": "../../etc/passwd"}]), "expected a picture within"),
        (json.dumps([{**QUESTIONS[2], "direct_answers": [], "split": "val"}]), "at least one"),
        (json.dumps([QUESTIONS[2], QUESTIONS[2]]), "expected every question_id once, got 10 twice"),
    ],
)
def test_other_files_of_questions(tmp_path: Path, pictures: Path, questions: str, message: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(questions)
    with pytest.raises(InputError, match=message):
        read_vqa(path, pictures)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("[", "expected annotations of VQA v2"),
        ("[]", "as annotations"),
        ('{"questions": [1]}', "as annotations"),
        ('{"annotations": [1]}', "annotation 0"),
        ('{"annotations": [{"question_id": {}, "answers": [{"answer": "a"}]}]}', "annotation 0"),
        ('{"annotations": [{"question_id": 1, "answers": ["a"]}]}', "annotation 0"),
        ('{"annotations": [{"question_id": 1, "answers": [{"answer": 1}]}]}', "expected strings"),
        (
            '{"annotations": [{"question_id": 1, "answers": [{"answer": "a"}]}]}',
            "5 of 6 are not in it: 0, 10, 12, 20, 21. Do both files belong",
        ),
    ],
)
def test_other_files_of_annotations(
    tmp_path: Path, official: tuple[Path, Path], pictures: Path, annotations: str, message: str
) -> None:
    official[1].write_text(annotations)
    with pytest.raises(InputError, match=message):
        read_vqa(official[0], pictures, official[1])


def test_a_question_that_cannot_be_used(small_encoder: Callable, tmp_path: Path, pictures: Path) -> None:
    rows = [QUESTIONS[2], {**QUESTIONS[3], "question": "!"}]
    questions = read_vqa(write(tmp_path / "q.json", rows), pictures)
    with pytest.raises(TextError, match="item 1") as caught:
        evaluate_vqa(small_encoder("blip_vqa_base"), questions)
    assert caught.value.index == 1


@pytest.mark.parametrize("content", [[], {"yes": 1}, ["yes", 2], ["yes", ""], "yes"])
def test_other_files_of_choices(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match="a JSON list of answers"):
        read_answer_list(write(tmp_path / "answer_list.json", content))


def test_the_command(
    run: Run,
    official: tuple[Path, Path],
    pictures: Path,
    small_models: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    choices, out = write(tmp_path / "answer_list.json", CHOICES), tmp_path / "answers.json"
    arguments: list[Any] = ["evaluate", "--images", pictures, "--vqa", official[0], "--answers", choices]
    arguments += ["--annotations", official[1], "--out", out, "--model", "blip_vqa_base"]
    code, text, err = run(*arguments, "--json")
    found = json.loads(text)
    assert code == 0 and found["questions"] == found["evaluated"] == 6, err
    written = json.loads(out.read_text())
    assert [row["question_id"] for row in written] == [row["question_id"] for row in QUESTIONS]
    assert {row["answer"] for row in written} <= set(CHOICES) and all(len(row) == 2 for row in written)
    code, text, _ = run(*arguments)
    accuracy = found["accuracy"]
    assert code == 0 and f"overall  {100 * accuracy['overall']:.2f}" in text.splitlines()
    assert f"number   {100 * accuracy['by_type']['number']:.2f}" in text.splitlines()


def test_the_command_reports_what_is_wrong_before_it_computes(
    run: Run, official: tuple[Path, Path], pictures: Path, small_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    arguments: list[Any] = ["evaluate", "--images", pictures, "--vqa", official[0]]
    code, _, err = run(*arguments, "--model", "blip_caption_base")
    assert code == 1 and "Models that can answer: albef_vqa, blip_vqa_base" in err
    for out, message in ((pictures, "it is a folder"), (pictures / "missing" / "x.json", "no access to")):
        code, _, err = run(*arguments, "--model", "blip_vqa_base", "--out", out)
        assert code == 1 and "cannot write" in err and message in err


def test_options_of_other_benchmarks_are_refused(run: Run, official: tuple[Path, Path], pictures: Path) -> None:
    for benchmark, option, message in (
        ("--captioning", "--annotations", "belong to --vqa"),
        ("--captions", "--answers", "belong to --vqa"),
        ("--refcoco", "--out", "--out belongs to --captioning and --vqa"),
    ):
        code, _, err = run("evaluate", "--images", pictures, benchmark, official[0], option, official[1])
        assert code == 2 and message in " ".join(err.replace("│", " ").split())
