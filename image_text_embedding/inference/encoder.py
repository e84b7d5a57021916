"""`Encoder`, the public class that `load` returns: vectors, and every task that a checkpoint has heads for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.judging_encoder import JudgingEncoder, Labels
from image_text_embedding.inference.tasks.task_settings import (
    AnswerSettings,
    CaptionSettings,
    FirstToken,
)
from image_text_embedding.inference.tasks.video import VideoTasks
from image_text_embedding.inputs.item_lists import ItemErrorList, Many, OnError, Picture

if TYPE_CHECKING:
    from image_text_embedding.inference.visualization.grad_cam import Explanation


class Encoder(VideoTasks, JudgingEncoder):
    """A loaded model: vectors of pictures, videos and texts, and every task that its checkpoint has heads for.

    `config.tasks` lists what a model can do; other tasks raise an InputError that names the models that can. `VectorEncoder`
    describes what all methods share: the arguments images, texts, questions, batch_size, show_progress_bar and on_error, and
    the errors of items.
    """

    # fmt: off
    @overload
    def caption(self, images: Picture, prompt: Any = ..., num_beams: int = ..., max_length: int = ...,
                min_length: int = ..., repetition_penalty: float | None = ..., *, sample: bool = ..., top_p: float = ...,
                seed: int | None = ..., num_return_sequences: Literal[1] = ..., batch_size: int = ...,
                show_progress_bar: bool | None = ..., on_error: Literal["raise"] = ...) -> str: ...
    @overload
    def caption(self, images: Many, prompt: Any = ..., num_beams: int = ..., max_length: int = ..., min_length: int = ...,
                repetition_penalty: float | None = ..., *, sample: bool = ..., top_p: float = ..., seed: int | None = ...,
                num_return_sequences: Literal[1] = ..., batch_size: int = ..., show_progress_bar: bool | None = ...,
                on_error: Literal["raise"] = ...) -> list[str]: ...
    @overload
    def caption(self, images: Any, prompt: Any = ..., num_beams: int = ..., max_length: int = ..., min_length: int = ...,
                repetition_penalty: float | None = ..., *, sample: bool = ..., top_p: float = ..., seed: int | None = ...,
                num_return_sequences: int = ..., batch_size: int = ..., show_progress_bar: bool | None = ...,
                on_error: Literal["skip"]) -> tuple[Any, ItemErrorList]: ...
    @overload
    def caption(self, images: Any, prompt: Any = ..., num_beams: int = ..., max_length: int = ..., min_length: int = ...,
                repetition_penalty: float | None = ..., *, sample: bool = ..., top_p: float = ..., seed: int | None = ...,
                num_return_sequences: int = ..., batch_size: int = ..., show_progress_bar: bool | None = ...,
                on_error: OnError = ...) -> Any: ...
    # fmt: on
    def caption(
        self,
        images: Any,
        prompt: Any = None,
        num_beams: int = 3,
        max_length: int = 20,
        min_length: int = 5,
        repetition_penalty: float | None = None,
        *,
        sample: bool = False,
        top_p: float = 0.9,
        seed: int | None = None,
        num_return_sequences: int = 1,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        on_error: str = "raise",
    ) -> Any:
        """Sentences that describe pictures (`BLIP_Decoder.generate` of the official `models/blip.py`).

        Args:
            prompt: the start of the sentence: one string for every picture, or a list with one for each; None = no prompt.
                The official code always uses "a picture of ", with which it was fine-tuned.
            num_beams: width of the search for the most likely sentence; 1 is greedy.
            max_length, min_length: in tokens, the prompt and its first token included, as in the official code.
            repetition_penalty: above 1 avoids repeated words. None is the official 1.0 in search, and 1.1 in sampling.
            sample: draw sentences (nucleus sampling among the 50 most likely words) instead of searching.
            top_p: the nucleus: the most likely words that together have this probability.
            seed: the same seed gives the same sentences, whatever else is in the batch or drawn by other threads. None
                draws different ones at every call.
            num_return_sequences: sentences per picture; in search at most num_beams, best first.

        Returns:
            A string, without the prompt; a list for many pictures. With num_return_sequences > 1, lists of strings instead.

        Raises:
            TextError: a prompt is empty, or leaves no room to write.
        """
        settings = CaptionSettings(
            num_beams, max_length, min_length, repetition_penalty, sample, top_p, seed, num_return_sequences
        )
        from image_text_embedding.inference.tasks.captioning import caption

        return caption(self.runtime, images, prompt, settings, batch_size, show_progress_bar, on_error)

    # fmt: off
    @overload
    def answer(self, images: Picture, questions: str, choices: None = ..., k: int = ..., num_beams: int = ...,
               max_length: int = ..., min_length: int = ..., *, question_token: FirstToken = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., on_error: Literal["raise"] = ...) -> str: ...
    @overload
    def answer(self, images: Picture, questions: str, choices: Sequence[str], k: int = ..., num_beams: int = ...,
               max_length: int = ..., min_length: int = ..., *, question_token: FirstToken = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., on_error: Literal["raise"] = ...) -> Labels: ...
    @overload
    def answer(self, images: Many, questions: Any, choices: None = ..., k: int = ..., num_beams: int = ...,
               max_length: int = ..., min_length: int = ..., *, question_token: FirstToken = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., on_error: Literal["raise"] = ...) -> list[str]: ...
    @overload
    def answer(self, images: Any, questions: Many, choices: None = ..., k: int = ..., num_beams: int = ...,
               max_length: int = ..., min_length: int = ..., *, question_token: FirstToken = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., on_error: Literal["raise"] = ...) -> list[str]: ...
    @overload
    def answer(self, images: Any, questions: Any, choices: Sequence[str] | None = ..., k: int = ..., num_beams: int = ...,
               max_length: int = ..., min_length: int = ..., *, question_token: FirstToken = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., on_error: Literal["skip"]) -> tuple[Any, ItemErrorList]: ...
    @overload
    def answer(self, images: Any, questions: Any, choices: Sequence[str] | None = ..., k: int = ..., num_beams: int = ...,
               max_length: int = ..., min_length: int = ..., *, question_token: FirstToken = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., on_error: OnError = ...) -> Any: ...
    # fmt: on
    def answer(
        self,
        images: Any,
        questions: Any,
        choices: Sequence[str] | None = None,
        k: int = 128,
        num_beams: int = 3,
        max_length: int = 10,
        min_length: int = 1,
        *,
        question_token: str = "enc",
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        on_error: str = "raise",
    ) -> Any:
        """Answers to questions about pictures (official `models/blip_vqa.py`, ALBEF's `models/model_vqa.py`).

        Args:
            choices: answers to choose from, for all questions. None writes an answer. (ALBEF's official code always chooses;
                its decoder can write too.) The published results of both families choose from 3,128 answers.
            k: how many of the choices, those that start most likely, are scored in full.
            num_beams, max_length, min_length: as in `caption`, for a written answer; lengths include its first token.
            question_token: the first token of BLIP's questions: "enc" is [ENC], as in training; "cls" is [CLS], which the
                Hugging Face port uses. ALBEF has only [CLS].

        Returns:
            A string. With choices, a list of (answer, probability among the k), best first. For many pairs a list of these.

        Raises:
            TextError: an empty question; an answer appears twice.
        """
        settings = AnswerSettings(choices, k, num_beams, max_length, min_length, question_token)
        from image_text_embedding.inference.tasks.answering import answer

        return answer(self.runtime, images, questions, settings, batch_size, show_progress_bar, on_error)

    def analyze(
        self,
        images: Any,
        tasks: Sequence[str] | None = None,
        *,
        texts: Any = None,
        questions: Any = None,
        prompt: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        on_error: str = "raise",
        **settings: Any,
    ) -> Any:
        """Several tasks on a picture in one pass: the vision transformer, most of the work, runs once for all of them.

        Args:
            tasks: some of "embed", "match", "caption", "answer", "entail". None is all that the checkpoint can do
                with what is given.
            texts, questions, prompt: for "match" and "entail", "answer", and "caption": one for all pictures, or one for
                each.
            settings: keywords of `match`, `caption` and `answer` (`itm_token`, `num_beams`, `sample`, `choices`, ...); each
                applies to every requested task that has it.

        Returns:
            A dictionary, task -> what the task's own method returns for one picture (`encode_image` for "embed"); a list of
            dictionaries for many pictures.

        Raises:
            InputError: the checkpoint cannot do a task, its texts are missing, or a task or setting is unknown.
        """
        given = {"texts": texts, "questions": questions, "prompt": prompt}
        from image_text_embedding.inference.tasks.multi_task import analyze

        return analyze(self.runtime, images, tasks, given, settings, batch_size, show_progress_bar, on_error)

    def explain(
        self, image: Any, text: str, *, layers: int | Sequence[int] | None = None, steps: int | None = None
    ) -> Explanation:
        """Where in a picture each word of a text is seen: Grad-CAM over cross-attention, as in the ALBEF paper (§6.4).

        Args:
            layers: the text layers, counted from 0, whose cross-attention is read: one, or several for their mean. None is
                the model's default: ALBEF's official 8, and LAVIS' 7 for BLIP, at the official sizes.
            steps: 1 is Grad-CAM as published. A larger number averages it over that many strengths of the picture, from
                faint to full, as integrated gradients do: a confident match hardly changes with one more word, and its
                gradient is mostly noise. None is the model's default: 1 for official models.

        Returns:
            `words`, `maps` (float32 (words, grid, grid)), `peaks`, `match` (the probability), and `draw(path)`, which writes
            a panel per word.
        """
        from image_text_embedding.inference.visualization.grad_cam import explain

        return explain(self.runtime, image, text, layers, steps)

    def embed_batch(
        self, batch: Mapping[str, Any], image: str = "image", text: str = "text", *, on_error: str = "raise"
    ) -> dict[str, np.ndarray]:
        """Vectors of the columns of a batch, for `datasets.Dataset.map(model.embed_batch, batched=True)` and its like.

        Args:
            batch: columns by name: lists, or arrays as Ray Data has them.
            image, text: the names of the columns with pictures and texts; one of them may be absent.
            on_error: "skip" fills the vector of an item that cannot be used with NaN.

        Returns:
            The new columns only: `image_embedding` and `text_embedding`, float32 (N, D).

        Raises:
            InputError: the batch has neither column.
        """
        if image not in batch and text not in batch:
            raise InputError(f"expected a column {image!r} or {text!r}, got {', '.join(map(repr, batch)) or 'none'}")
        found = {}
        encoders: dict[str, tuple[str, Any]] = {
            "image_embedding": (image, self.encode_image),
            "text_embedding": (text, self.encode_text),
        }
        for name, (column, encode) in encoders.items():
            if column in batch:
                result = encode(list(batch[column]), show_progress_bar=False, on_error=on_error)
                found[name] = result[0] if on_error == "skip" else result
        return found

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from image_text_embedding.inference.visualization.model_card import model_card

        return model_card(self.info, self.config.summary)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the parts in memory as safetensors that `load(path)` opens; the vocabulary is the only other file it needs.

        Towers are in memory from the start, heads once they were used; the file has the tasks of these parts.
        """
        return self.runtime.save(path)

    def export_transformers(self, folder: str | os.PathLike[str], task: str | None = None) -> Path:
        """Write a folder that transformers' `from_pretrained` opens, with equal outputs; for BLIP only.

        Args:
            folder: created if it does not exist.
            task: "match" (or "embed") for `BlipForImageTextRetrieval`, "caption" for `BlipForConditionalGeneration`,
                "answer" for `BlipForQuestionAnswering`. None is the first that the checkpoint can do.

        Returns:
            The folder, with config.json, model.safetensors, and what `BlipProcessor` needs. transformers keeps [CLS] where
            we put [ENC]: its scores are those of `match(..., itm_token="cls")`, its answers those of
            `answer(..., question_token="cls")`. Its processor does not clean texts.

        Raises:
            InputError: the model is no BLIP, cannot do the task, or was loaded with one modality.
            CheckpointError: the folder cannot be written.
        """
        from image_text_embedding.inference.backends.transformers_export import export_transformers

        return export_transformers(self.runtime, Path(folder), task)

    def save_mlflow(self, folder: str | os.PathLike[str], task: str | None = None) -> Path:
        """Write a folder that MLflow serves (`mlflow models serve`, AzureML, Databricks, SageMaker): a pyfunc model.

        Args:
            folder: new or empty.
            task: "caption", "answer", "embed", "classify" or "match", or the AzureML registry's name of it. None is all that
                the checkpoint can do; the `task` of a request's params then says which.

        Returns:
            The folder, with the weights, a signature, an example, the pinned requirements, and a wheel of this package, which
            these name. Rows and records are those of the server's `/score`; settings stand in params.

        Raises:
            InputError: the checkpoint cannot do the task, was loaded with one modality, or the folder has content.
            CheckpointError: the folder cannot be written.
            SetupError: MLflow is not installed.
        """
        from image_text_embedding.inference.backends.mlflow_export import save_mlflow

        return save_mlflow(self.runtime, Path(folder), task)
