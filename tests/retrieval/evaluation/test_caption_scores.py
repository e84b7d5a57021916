"""BLEU, ROUGE-L and CIDEr: equal to the official evaluation, which tokenizes with Java."""

from __future__ import annotations

import math
import sys

import pytest

from image_text_embedding.foundation.errors import InputError, SetupError
from image_text_embedding.retrieval.evaluation.caption_scores import caption_scores, require_scorers

REFERENCES = [
    [
        "A man riding a wave on top of a surfboard.",
        "A surfer rides a big wave.",
        "A man's surfboard is in the wave!",
    ],
    ["Two dogs, one black and one white, play in the snow", "Two dogs playing in the snow."],
    [
        'A "Stop" sign at the corner of 5th Ave. and Main St.',
        "A red stop-sign on a street corner",
        "There's a stop sign.",
    ],
    ["A black-and-white photo of a T-shirt (size XL) on a hanger", "A t-shirt hangs on the wall"],
    [
        "A bathroom with a toilet, sink, and shower/tub combo .",
        "The bathroom's toilet and sink",
        "A small bathroom",
    ],
]
CAPTIONS = [
    "a man riding a wave on a surfboard",
    "two dogs playing in the snow",
    "a stop sign on the corner of a street",
    "a black and white photo of a shirt",
    "a bathroom with a toilet and a sink",
]


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("pycocoevalcap")

    def test_scores_equal_those_of_the_official_evaluation(self) -> None:
        """The numbers are those of pycocoevalcap 1.2 with Stanford's tokenizer."""
        found = caption_scores(CAPTIONS, REFERENCES)
        expected = (0.8717948717725181, 0.7679476477671656, 0.6578563769765492, 0.5550319746891137)
        assert found.bleu == pytest.approx(expected, abs=1e-9)
        assert found.rouge_l == pytest.approx(0.712162468118038, abs=1e-9)
        assert found.cider == pytest.approx(2.887403105741863, abs=1e-9)

    def test_scores_by_hand(self) -> None:
        # 3 of 4 words, 2 of 3 pairs; as long as the reference, so no brevity penalty
        found = caption_scores(["a red dog sits", "two cats"], [["A red dog stands."], ["Two cats!"]])
        assert found.bleu[0] == pytest.approx(5 / 6) and found.bleu[1] == pytest.approx(math.sqrt(5 / 6 * 3 / 4))
        copies = caption_scores([texts[0] for texts in REFERENCES], [texts[:1] for texts in REFERENCES])
        assert copies.cider == pytest.approx(10) and copies.rouge_l == pytest.approx(1)
        assert caption_scores(["", ""], [["a dog"], ["a cat"]]).cider == 0


@pytest.mark.parametrize(
    ("captions", "references"), [([], []), (["a dog"], []), (["a dog"], [[]]), (["a", "b"], [["a"]])]
)
def test_captions_without_references(captions: list[str], references: list[list[str]]) -> None:
    with pytest.raises(InputError, match="expected a caption, and at least one reference, for each picture"):
        caption_scores(captions, references)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pycocoevalcap")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(SetupError, match=r"pip install .*\[evaluate\]'"):
        require_scorers()
