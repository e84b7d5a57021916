"""Captions of COCO and NoCaps: their scores as in BLIP's paper, and the file for the evaluation servers."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import abbreviate, abbreviated_names
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.tasks.captioning import caption
from image_text_embedding.inference.tasks.task_settings import CaptionSettings
from image_text_embedding.inputs.collections.annotation_files import coco_names, find_picture, read_annotations
from image_text_embedding.retrieval.evaluation.caption_scores import CaptionScores, caption_scores

FORMAT = (
    "captions of COCO or NoCaps ({'images': [{'id', 'file_name'}], 'annotations': [{'image_id', 'caption'}]}), a Karpathy "
    "split ({'images': [{'filename', 'split', 'sentences'}]}), or BLIP's form of either ([{'image', 'caption'}])"
)
PROMPT = "a picture of "  # BLIP's captioning models were fine-tuned and evaluated with it
DOMAINS = ("in-domain", "near-domain", "out-domain")  # of NoCaps: are its things among COCO's?
MAX_CAPTION_CHARACTERS = 10_000


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture and what people wrote about it.

    Attributes:
        references: their captions; () for a test set.
        domain: of NoCaps, where it is known.
        is_nocaps: whether it is one of NoCaps, for which the official settings differ.
    """

    id: int | str
    picture: Path
    references: tuple[str, ...] = ()
    domain: str | None = None
    is_nocaps: bool = False


def read_captioned_pictures(
    path: str | os.PathLike[str], images: str | os.PathLike[str], split: str = "test"
) -> list[CaptionedPicture]:
    """Read pictures and their captions.

    Args:
        path: `dataset_coco.json` (Karpathy), `coco_karpathy_test.json` or `coco_karpathy_test_gt.json` (BLIP),
            `captions_val2014.json` (COCO), `nocaps_val_4500_captions.json` (NoCaps), `nocaps_val.json` (BLIP), or a file in
            one of these forms.
        images: the folder with the pictures: at the paths in the file, or at their last parts.
        split: of a Karpathy file: "test", "val", "train", ...

    Raises:
        InputError: the file has another format, a picture is missing, two have one id, or only some have captions.
    """
    content = read_annotations(path, FORMAT)
    try:
        if isinstance(content, list):
            pictures = [_listed(row, Path(images)) for row in content]
        elif "annotations" not in content and any("sentences" in row for row in content["images"]):
            pictures = [_of_split(row, Path(images)) for row in content["images"] if row["split"] == split]
        else:
            pictures = _of_coco(content, Path(images))
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"expected {FORMAT}, got {path}: {error!r}") from error
    if not pictures:
        raise InputError(f"expected {FORMAT}, got {path}, which has no pictures (of the split {split!r})")
    _check(pictures, path)
    return pictures


def nocaps_settings() -> CaptionSettings:
    """BLIP's settings for NoCaps (official `eval_nocaps.py`): those for COCO, with a repetition penalty of 1.1."""
    return CaptionSettings(repetition_penalty=1.1)


def write_captions(
    model: Encoder,
    pictures: Sequence[CaptionedPicture],
    settings: CaptionSettings | None = None,
    prompt: str | None = PROMPT,
    batch_size: int = 32,
    show: bool | None = None,
) -> list[str]:
    """A model's captions of the pictures of `read_captioned_pictures`.

    Args:
        settings: None = the official ones: 3 beams, 5 to 20 tokens; for NoCaps with a repetition penalty.
        prompt: start of every caption, which is not part of it; None = no prompt.
        batch_size: pictures computed at once.
        show: a progress bar; None = on a terminal.

    Raises:
        InputError: the model writes no captions.
        ImageError: a picture cannot be used; `.index` is its index.
    """
    if settings is None:
        settings = nocaps_settings() if pictures[0].is_nocaps else CaptionSettings()
    paths = [each.picture for each in pictures]
    return caption(model.runtime, paths, prompt, settings, batch_size, show, on_error="raise")


def score_captions(
    pictures: Sequence[CaptionedPicture], captions: Sequence[str]
) -> tuple[CaptionScores | None, dict[str, CaptionScores]]:
    """The scores of captions, from wherever they are: of all, and of each domain of NoCaps.

    Raises:
        InputError: there are not as many captions as pictures.
        SetupError: pycocoevalcap is missing.
    """
    if not pictures[0].references:
        return None, {}
    found = {}
    for domain in DOMAINS:
        if chosen := [number for number, each in enumerate(pictures) if each.domain == domain]:
            found[domain] = caption_scores(
                [captions[number] for number in chosen], [pictures[number].references for number in chosen]
            )
    return caption_scores(captions, [each.references for each in pictures]), found


def caption_results(pictures: Sequence[CaptionedPicture], captions: Sequence[str]) -> list[dict[str, Any]]:
    """What the evaluation servers take: `[{"image_id", "caption"}]`."""
    return [{"image_id": each.id, "caption": text} for each, text in zip(pictures, captions)]


def _listed(row: Mapping[str, Any], images: Path) -> CaptionedPicture:
    """A picture of BLIP's JSON: its number stands in it, or at the end of the picture's name."""
    name = row["image"]
    number = re.search(r"(\d+)\.\w+$", name)
    identity = row.get("img_id", row.get("image_id", int(number[1]) if number else name))
    texts = row.get("caption", [])
    found = find_picture(images, [name, name.rpartition("/")[2]])
    references = _texts([texts] if isinstance(texts, str) else texts)
    return CaptionedPicture(_identity(identity), found, references, row.get("domain"), _is_nocaps(row))


def _of_split(row: Mapping[str, Any], images: Path) -> CaptionedPicture:
    """A picture of Karpathy's JSON."""
    name, folder = str(row["filename"]), str(row.get("filepath", ""))
    identity = row.get("cocoid", row.get("imgid", name))
    found = find_picture(images, [(folder, name), name])
    return CaptionedPicture(_identity(identity), found, _texts([each["raw"] for each in row["sentences"]]))


def _of_coco(content: Mapping[str, Any], images: Path) -> list[CaptionedPicture]:
    """The pictures of COCO's JSON."""
    texts: dict[int | str, list[Any]] = {_identity(row["id"]): [] for row in content["images"]}
    for row in content.get("annotations", []):
        if row["image_id"] not in texts:
            raise ValueError(f"a caption of the image_id {abbreviate(row['image_id'])}, which is not among the images")
        texts[row["image_id"]].append(row["caption"])
    pictures = []
    for row in content["images"]:
        # BLIP's file of the Karpathy split has numbers only; its pictures are COCO's of 2014.
        names: list[Any] = coco_names(int(row["id"]), "val2014")
        if (name := row.get("file_name")) is not None:
            folder = str(row.get("coco_url", "")).split("/")[-2:-1]  # "val2014" of COCO, "val" of NoCaps
            names = [name, name.rpartition("/")[2], (*folder, name)]
        found, references = find_picture(images, names), _texts(texts[row["id"]])
        pictures.append(CaptionedPicture(row["id"], found, references, row.get("domain"), _is_nocaps(row)))
    return pictures


def _is_nocaps(row: Mapping[str, Any]) -> bool:
    return bool({"domain", "open_images_id", "img_id"} & row.keys())  # the last in BLIP's file


def _check(pictures: Sequence[CaptionedPicture], path: str | os.PathLike[str]) -> None:
    """
    Raises:
        InputError: an id twice, or only some pictures with captions.
    """
    counts = Counter(each.id for each in pictures)
    if repeated := [str(identity) for identity, count in counts.items() if count > 1]:
        raise InputError(f"{path}: expected every picture once, got twice: {abbreviated_names(repeated, 5)}")
    without = [str(each.id) for each in pictures if not each.references]
    if 0 < len(without) < len(pictures):
        raise InputError(
            f"{path}: expected captions of every picture, or of none; {len(without)} of {len(pictures)} have none: "
            f"{abbreviated_names(without, 5)}"
        )


def _identity(value: Any) -> int | str:
    if not isinstance(value, (int, str)):
        raise ValueError(f"expected a number or a string as id, got {abbreviate(value)}")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_CAPTION_CHARACTERS:
            raise ValueError(f"expected captions of up to {MAX_CAPTION_CHARACTERS} characters, got {abbreviate(value)}")
    return tuple(values)
