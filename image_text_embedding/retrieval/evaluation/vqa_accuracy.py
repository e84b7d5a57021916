"""The accuracy of answers by the rules of the VQA data sets: an answer counts as far as annotators gave it, too.

Official code: `vqaEvaluation/vqaEval.py` of the authors of VQA (also used for OK-VQA), with the correction of 2021; and
`evaluation/eval_predictions.py` of A-OKVQA.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from image_text_embedding.retrieval.evaluation.metrics import NUMBER_WORDS

ENOUGH = 3  # annotators who gave an answer that is entirely right

_ARTICLES = ("a", "an", "the")

_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBER_WORDS)}

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


# "dont" -> "don't". The official table has one entry that takes an apostrophe away.
_REPAIRED = {wrong: right for right in _CONTRACTIONS.split() for wrong in _without_one_apostrophe(right)}
_REPAIRED["somebody'd"] = "somebodyd"


def vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """The accuracy of an answer on VQA: the mean of min(matches / 3, 1) over all groups that leave one annotator out.

    Answers are normalised, unless all annotators agree to the letter.

    Args:
        annotators: the answer of each; usually ten.
    """
    answer, given = _one_line(answer), [_one_line(each) for each in annotators]
    if len(set(given)) > 1:
        answer, given = normalize_vqa_answer(answer), [normalize_vqa_answer(each) for each in given]
    matches = given.count(answer)
    others = [matches - (each == answer) for each in given]  # matches without this annotator
    return sum(min(1.0, count / ENOUGH) for count in others) / len(given)


def aokvqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """The accuracy of an answer on A-OKVQA: min(matches / 3, 1), with answers as they are."""
    return min(1.0, list(annotators).count(answer) / ENOUGH)


def normalize_vqa_answer(answer: str) -> str:
    """An answer as VQA compares it: "The 2 dogs, isnt it?" becomes "2 dogs isn't it".

    No punctuation, except for apostrophes, colons and the points of numbers; lower case; digits for number words; no
    articles; apostrophes put back.
    """
    text = answer
    # The official code glues the parts together if the mark stands beside a space anywhere, or for "1,000".
    has_thousands = re.search(r"\d,\d", answer) is not None
    for mark in _PUNCTUATION:
        glued = has_thousands or f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if glued else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_REPAIRED.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
