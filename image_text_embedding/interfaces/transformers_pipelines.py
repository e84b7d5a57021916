"""The BLIP pipelines of transformers 4, with its calls and results: two that transformers 5 removed, and zero-shot labels.

vqa = ite.pipeline("visual-question-answering", "blip_vqa_base")
vqa(question="how many dogs are in the picture?", image="beach.jpg")      # [{"answer": "1"}]
caption = ite.pipeline("image-to-text", "blip_caption_base")
caption("beach.jpg")                                                      # [{"generated_text": "a woman ..."}]
classify = ite.pipeline("zero-shot-image-classification", "blip_itm_base_coco")
classify("beach.jpg", candidate_labels=["a beach", "a street"])           # [{"score": 0.9, "label": "a beach"}, ...]
match = ite.pipeline("image-text-matching", "blip_itm_base_coco")
match("beach.jpg", "a woman on a beach")                                  # [{"score": 0.99, "label": "match"}, ...]
"""

from __future__ import annotations

import os
from typing import Any

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.loading import load
from image_text_embedding.inference.tasks.captioning import caption, prompt_length
from image_text_embedding.inference.tasks.task_settings import build_settings, check_setting_names, setting_names
from image_text_embedding.inputs.item_lists import (
    is_single_picture,
    is_single_text,
    require_iterable,
    snapshot_pictures,
)
from image_text_embedding.models.config import ModelConfig


class VisualQuestionAnswering:
    """transformers 4's `VisualQuestionAnsweringPipeline` (`pipelines/visual_question_answering.py`), over an Encoder."""

    def __init__(self, model: Encoder) -> None:
        model.runtime.require("answer")
        self.model = model

    def __call__(
        self,
        image: Any = None,
        question: Any = None,
        *,
        choices: Any = None,
        top_k: int = 5,
        batch_size: int = 32,
        **settings: Any,
    ) -> Any:
        """Answers to questions about pictures.

        Args:
            image: one picture or many; or a dict {"image": ..., "question": ...}, or many of these.
            question: one string, or many. Many of both: every question of every picture, question by question.
            choices: answers to choose among; then an answer has a "score", its probability.
            top_k: how many of the choices are returned.
            settings: of `Encoder.answer`: num_beams, max_length, ...; not on_error, as the result has no field for errors.

        Returns:
            [{"answer": str}], or with choices [{"score": float, "answer": str}, ...], best first; for many a list of
            these.

        Raises:
            As `Encoder.answer`.
        """
        top_k = require_integer("top_k", top_k)
        check_setting_names(settings, [*setting_names("answer"), "show_progress_bar"])
        pictures: Any
        if question is None:
            one = isinstance(image, dict)
            given = [image] if one else list(require_iterable(image, "pictures with questions"))
            pictures, questions = ([_take(item, key) for item in given] for key in ("image", "question"))
        else:
            one = is_single_picture(image) and is_single_text(question)
            images = [image] if is_single_picture(image) else snapshot_pictures(image, "pictures")
            asked = [question] if is_single_text(question) else list(require_iterable(question, "questions"))
            questions = [q for q in asked for _ in images]
            pictures = images[0] if len(images) == 1 else [i for _ in asked for i in images]
        found = self.model.answer(pictures, questions, choices, batch_size=batch_size, **settings)
        results = [
            [{"answer": answer}]
            if choices is None
            else [{"score": score, "answer": text} for text, score in answer[:top_k]]
            for answer in found
        ]
        return results[0] if one else results


class ImageToText:
    """transformers 4's `ImageToTextPipeline` (`pipelines/image_to_text.py`), over an Encoder."""

    def __init__(self, model: Encoder) -> None:
        model.runtime.require("caption")
        self.model = model

    def __call__(
        self,
        inputs: Any = None,
        *,
        images: Any = None,
        prompt: str | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 32,
        **settings: Any,
    ) -> Any:
        """Captions of pictures.

        Args:
            inputs: one picture or many (`images` is its older name).
            prompt: as in `Encoder.caption`; the text then begins with it, as transformers' did.
            max_new_tokens: instead of max_length, which counts the prompt.
            settings: of `Encoder.caption`: num_beams, sample, seed, num_return_sequences, ...; not on_error.

        Returns:
            [{"generated_text": str}, ...], one for each returned sequence; for many pictures a list of these.

        Raises:
            As `Encoder.caption`.
        """
        check_setting_names(settings, [*setting_names("caption"), "show_progress_bar"])
        pictures = images if inputs is None else inputs
        if pictures is None:
            raise InputError("expected a picture, or a list of pictures, got None")
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(f"prompt: expected one string, got {type(prompt).__name__}")
        if max_new_tokens is not None:
            settings["max_length"] = require_integer("max_new_tokens", max_new_tokens) + prompt_length(
                self.model.runtime, prompt
            )
            settings.setdefault("min_length", 0)
        show = settings.pop("show_progress_bar", None)
        chosen = build_settings("caption", settings)
        found = caption(self.model.runtime, pictures, prompt, chosen, batch_size, show, "raise", spaced=True)
        one = is_single_picture(pictures)
        start, end = ("", "") if prompt is None else (prompt.strip(), " ")  # version 0.1.0 always wrote the space
        results = [
            [{"generated_text": start + (text or end)} for text in ([item] if isinstance(item, str) else item)]
            for item in ([found] if one else found)
        ]
        return results[0] if one else results


class ZeroShotImageClassification:
    """transformers' pipeline of this name (`pipelines/zero_shot_image_classification.py`), over an Encoder."""

    def __init__(self, model: Encoder) -> None:
        model.runtime.require("embed")
        self.model = model

    def __call__(
        self,
        image: Any = None,
        candidate_labels: Any = None,
        *,
        images: Any = None,
        hypothesis_template: str = "This is a photo of {}.",
        batch_size: int = 32,
        **settings: Any,
    ) -> Any:
        """The probability of each label for pictures.

        Args:
            image: one picture or many (`images` is its older name).
            candidate_labels: strings, or one string with commas between them.
            hypothesis_template: the sentence to put a label into, in the place of {}.
            settings: of `Encoder.classify`: method, itm_token, show_progress_bar; not prompt or on_error.

        Returns:
            [{"score": float, "label": str}, ...], best first; for many pictures a list of these.

        Raises:
            As `Encoder.classify`; InputError also for a template without {}.
        """
        check_setting_names(settings, ["method", "itm_token", "show_progress_bar"])
        pictures = images if image is None else image
        if pictures is None:
            raise InputError("expected a picture, or a list of pictures, got None")
        if candidate_labels is None:
            raise InputError("candidate_labels: expected a list of strings, got None")
        if isinstance(candidate_labels, str):
            candidate_labels = [label.strip() for label in candidate_labels.split(",") if label.strip()]
        labels = list(require_iterable(candidate_labels, "candidate_labels"))
        if not isinstance(hypothesis_template, str) or "{}" not in hypothesis_template:
            raise InputError(f"hypothesis_template: expected a sentence with {{}} in it, got {hypothesis_template!r}")
        # Not format(): a template may come from elsewhere, and a label may contain braces.
        sentences = {
            hypothesis_template.replace("{}", label) if isinstance(label, str) else label: label for label in labels
        }
        if len(sentences) < len(labels):
            raise InputError("candidate_labels: expected different labels, got one of them twice")
        found = self.model.classify(pictures, list(sentences), batch_size=batch_size, **settings)
        one = is_single_picture(pictures)
        results = [
            [{"score": float(score), "label": sentences[text]} for text, score in each]
            for each in ([found] if one else found)
        ]
        return results[0] if one else results


class ImageTextMatching:
    """Matching (ITM) in the shape of transformers' classification pipelines, which have none of their own for it."""

    def __init__(self, model: Encoder) -> None:
        model.runtime.require("match")
        self.model = model

    def __call__(self, image: Any = None, text: Any = None, *, batch_size: int = 32, **settings: Any) -> Any:
        """Whether texts describe pictures.

        Args:
            image: one picture or many; or a dict {"image": ..., "text": ...}, or many of these.
            text: one string, or as many as there are pictures.
            settings: of `Encoder.match`: itm_token, show_progress_bar.

        Returns:
            [{"score": float, "label": "match" or "no match"}, ...], the likelier first; for many a list of these.

        Raises:
            As `Encoder.match`.
        """
        check_setting_names(settings, ["itm_token", "show_progress_bar"])
        one = isinstance(image, dict) if text is None else is_single_picture(image) and is_single_text(text)
        pictures, texts = image, text
        if text is None:
            given = [image] if one else list(require_iterable(image, "pictures with texts"))
            pictures, texts = ([_take(item, key, "text") for item in given] for key in ("image", "text"))
        found = self.model.match(pictures, texts, batch_size=batch_size, **settings)
        results = []
        for probability in [found] if isinstance(found, float) else found.tolist():
            scores = {"match": probability, "no match": 1 - probability}
            ranked = sorted(scores.items(), key=lambda pair: -pair[1])
            results.append([{"score": score, "label": label} for label, score in ranked])
        return results[0] if one else results


PIPELINES: dict[str, tuple[type[Any], str]] = {
    "visual-question-answering": (VisualQuestionAnswering, "blip_vqa_base"),
    "vqa": (VisualQuestionAnswering, "blip_vqa_base"),
    "image-to-text": (ImageToText, "blip_caption_base"),
    "zero-shot-image-classification": (ZeroShotImageClassification, "blip_itm_base_coco"),
    "image-text-matching": (ImageTextMatching, "blip_itm_base_coco"),
}


def pipeline(task: str, model: str | os.PathLike[str] | ModelConfig | Encoder | None = None, **options: Any) -> Any:
    """What transformers 4's `pipeline(task, model)` returned for BLIP: a callable.

    Args:
        task: "visual-question-answering" (or "vqa"), "image-to-text", "zero-shot-image-classification", or
            "image-text-matching".
        model: what `load` takes, or a loaded Encoder; None = `blip_vqa_base`, `blip_caption_base`, or `blip_itm_base_coco`.
        options: of `load`: device, dtype, checkpoint, ...

    Raises:
        InputError: another task, or a model that cannot do it.
        And as `load`.
    """
    if task not in PIPELINES:
        raise InputError(f"unknown task {task!r}{did_you_mean(str(task), PIPELINES)} Tasks: {', '.join(PIPELINES)}.")
    kind, default = PIPELINES[task]
    return kind(model if isinstance(model, Encoder) else load(default if model is None else model, **options))


def _take(item: Any, key: str, text: str = "question") -> Any:
    if not isinstance(item, dict) or key not in item:
        raise InputError(f"expected {{'image': ..., '{text}': ...}}, or image= and {text}=, got {str(item)[:100]}")
    return item[key]
