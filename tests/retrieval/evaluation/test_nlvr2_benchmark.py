"""Accuracy on NLVR2: reading the official files, and accuracy against a plain computation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.environment import Run
from support.packaged_pictures import PATHS

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.text_rules import swap_sides
from image_text_embedding.retrieval.evaluation.nlvr2_benchmark import evaluate_nlvr2, read_nlvr2

FOLDER = Path(PATHS[0]).parent
NAMES = [Path(path).name for path in PATHS]
TEXTS = ["The left image shows a dog.", "There are two cats in total.", "A cup is right of a ball, left of a hat."]
ROWS = [
    {"sentence": TEXTS[i % 3], "label": str(i % 2 == 0), "images": [NAMES[i], NAMES[i + 1]], "extra": i}
    for i in range(12)
]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """As BLIP and ALBEF publish it."""
    path = tmp_path / "nlvr_dev.json"
    path.write_text(json.dumps(ROWS))
    return path


@pytest.mark.parametrize("name", ["blip_nlvr", "albef_nlvr"])
def test_accuracy_equals_that_of_single_calls(small_encoder: Callable, official: Path, name: str) -> None:
    model, statements = small_encoder(name), read_nlvr2(official, FOLDER)
    found = evaluate_nlvr2(model, statements, batch_size=5)
    given = [(model.reason((each.left, each.right), each.text) > 0.5) is each.label for each in statements]
    swapped = [
        (model.reason((each.right, each.left), swap_sides(each.text)) > 0.5) is each.label for each in statements
    ]
    assert found.given == pytest.approx(sum(given) / 12) and found.swapped == pytest.approx(sum(swapped) / 12)
    assert found.mean == pytest.approx((found.given + found.swapped) / 2)


def test_the_authors_own_files(tmp_path: Path) -> None:
    """`dev.json` of the data set: a line per statement, pictures named by the pair."""
    for name, source in (("dev-850-0-img0.png", PATHS[1]), ("dev/dev-850-0-img1.png", PATHS[2])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(Path(source).read_bytes())
    rows = [{"sentence": TEXTS[i], "label": label, "identifier": f"dev-850-0-{i}"} for i, label in enumerate("TF")]
    rows[0]["label"], rows[1]["label"] = "True", False  # type: ignore[assignment]
    path = tmp_path / "dev.json"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    first, second = read_nlvr2(path, tmp_path)
    assert (first.left.name, first.right.name) == ("dev-850-0-img0.png", "dev-850-0-img1.png")
    assert (first.text, first.label, second.text, second.label) == (TEXTS[0], True, TEXTS[1], False)


def test_left_and_right_are_exchanged_as_in_the_original() -> None:
    assert swap_sides("The Left image, right of the left one") == "the right image, left of the right one"
    assert swap_sides("a bright dog") == "a bleft dog", "within words, too"
    assert swap_sides(swap_sides("leftright")) == "leftright" and swap_sides("Two cats") == "two cats"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no list of objects, or empty"),
        ("{", "the JSON of NLVR2"),
        ('{"data": []}', "record 0"),
        (json.dumps([{**ROWS[0], "label": "maybe"}]), "record 0"),
        (json.dumps([ROWS[0], {**ROWS[0], "sentence": " "}]), "record 1"),
        (json.dumps([{**ROWS[0], "images": NAMES[:3]}]), "record 0: expected two pictures under 'images'"),
        (json.dumps([{**ROWS[0], "images": ["a.png", "../../etc/passwd"]}]), "expected a picture at"),
        (json.dumps([{**ROWS[0], "images": [NAMES[0], "../../etc/passwd"]}]), "expected a picture within"),
        (json.dumps([{"sentence": "a", "label": "True", "identifier": "dev-1-0-0"}]), "dev-1-0-img0.png, found none"),
    ],
)
def test_other_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "nlvr.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_nlvr2(path, FOLDER)


def test_the_command(run: Run, official: Path, small_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_text_embedding.models.config_files.config_dir", lambda: small_models)
    arguments: list[Any] = ["evaluate", "--images", FOLDER, "--nlvr2", official]
    code, out, err = run(*arguments, "--model", "blip_nlvr", "--json")
    found = json.loads(out)
    assert code == 0 and found["statements"] == 12, err
    code, out, _ = run(*arguments, "--model", "blip_nlvr")
    assert code == 0 and f"given    {100 * found['accuracy']['given']:.2f}" in out.splitlines()
    code, _, err = run(*arguments, "--model", "blip_base")
    assert code == 1 and "Models that can reason: albef_nlvr, blip_nlvr" in err
    for wrong in (arguments[:3], [*arguments, "--captions", official]):
        code, _, err = run(*wrong)
        assert code == 2 and "expected one of --captions, --nlvr2, --refcoco" in " ".join(err.replace("│", " ").split())
