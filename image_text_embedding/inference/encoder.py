"""`Encoder`, the public class that `load` returns: vectors, and every task that a checkpoint has heads for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_text_embedding.inference.tasks.answering import answer
from image_text_embedding.inference.tasks.captioning import caption
from image_text_embedding.inference.tasks.classifying import classify
from image_text_embedding.inference.tasks.grounding import ground
from image_text_embedding.inference.tasks.image_text_batches import PictureTextBatches, require_texts
from image_text_embedding.inference.tasks.judging.entailment import entail
from image_text_embedding.inference.tasks.judging.reasoning import reason
from image_text_embedding.inference.tasks.matching import match, match_matrix
from image_text_embedding.inference.tasks.multi_task import analyze
from image_text_embedding.inference.tasks.reranking import rerank
from image_text_embedding.inference.tasks.task_settings import (
    AnswerSettings,
    CaptionSettings,
    ClassifySettings,
    MatchSettings,
)
from image_text_embedding.inference.tasks.video import VideoTasks
from image_text_embedding.inference.vector_encoder import VectorEncoder

if TYPE_CHECKING:
    from image_text_embedding.inference.visualization.grad_cam import Explanation


class Encoder(VideoTasks, VectorEncoder):
    """A loaded model: vectors of pictures, videos and texts, and every task that its checkpoint has heads for.

    `config.tasks` lists what a model can do; other tasks raise an InputError that names the models that can. `VectorEncoder`
    describes what all methods share: the arguments images, texts, questions, batch_size, show_progress_bar and on_error, and
    the errors of items.
    """

    def match(
        self,
        images: Any,
        texts: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        itm_token: str = "enc",
        return_logits: bool = False,
        on_error: str = "raise",
    ) -> Any:
        """Probabilities that texts describe pictures (ITM: BLIP paper §3.2, ALBEF paper §3.2).

        Args:
            itm_token: the first token of BLIP's texts. "enc" is [ENC], with which BLIP was trained; "cls" is [CLS], with
                which the official matching demo and the Hugging Face port compute their published sample scores. ALBEF has
                only [CLS].
            return_logits: return the head's two outputs before the softmax, as the official model returns them: index 0 is
                "no match", index 1 "match".

        Returns:
            A float for one picture and one text, else float32 (N,). With return_logits float32 (2,), else (N, 2).
        """
        pairs = PictureTextBatches(self.runtime, images, on_error, texts=require_texts("texts", texts))
        return match(pairs, MatchSettings(itm_token, return_logits), batch_size, show_progress_bar)

    def match_matrix(
        self,
        images: Any,
        texts: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        itm_token: str = "enc",
        return_logits: bool = False,
        on_error: str = "raise",
    ) -> Any:
        """The match probability of every picture with every text; each picture passes the vision transformer once.

        Returns:
            float32 (N, M), or with return_logits (N, M, 2) as in `match`. With on_error="skip" the errors are ((row, None)
            or (None, column), error) pairs.
        """
        settings = MatchSettings(itm_token, return_logits)
        return match_matrix(self.runtime, images, texts, settings, batch_size, show_progress_bar, on_error)

    def classify(
        self,
        images: Any,
        labels: Sequence[str],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        method: str = "itc",
        prompt: str | None = None,
        itm_token: str = "enc",
        on_error: str = "raise",
    ) -> Any:
        """Which of a few labels fits a picture best, without training for them (zero-shot; as LAVIS does with these models).

        Args:
            labels: texts to choose from, for all pictures: "dog", or better "a photo of a dog".
            method: "itc" compares vectors: softmax(cosine / temperature), with the temperature that the model learned. "itm"
                reads each label together with the picture, which takes longer and is usually more accurate.
            prompt: stands before each label, such as LAVIS' "A picture of "; None = the labels as they are.
            itm_token: as in `match`.

        Returns:
            A list of (label, probability), best first, whose probabilities add up to 1; for many pictures a list of these.

        Raises:
            InputError: there are no labels, or the checkpoint cannot embed (itc) or match (itm).
            TextError: a label is empty, or appears twice.
        """
        settings = ClassifySettings(method, prompt, itm_token)
        return classify(self.runtime, images, labels, settings, batch_size, show_progress_bar, on_error)

    def rerank(
        self,
        query: Any,
        candidates: Any,
        k: int = 128,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        modality: str | None = None,
        itm_token: str = "enc",
        on_error: str = "raise",
    ) -> Any:
        """Search in two stages, as in the papers: cosines of all candidates (ITC), then ITM on the k best.

        The score follows the family's own rule: BLIP adds the cosine to the match logit (official `train_retrieval.py`),
        ALBEF uses only the match logit (`Retrieval.py`). The papers use k = 256 on COCO and 128 on Flickr30k.

        Args:
            query: a text, to find pictures; or a picture, to find texts.
            candidates: the pictures, or the texts. Every picture passes the vision transformer once.
            k: how many are re-ranked and returned.
            modality: what the query is, "text" or "image". None: whatever is no string, or is the URL or existing file of a
                picture, is a picture.

        Returns:
            A list of (index into candidates, score), best first, of at most k. on_error="skip" leaves candidates out.

        Raises:
            InputError: the checkpoint cannot match, or it is unclear what the query is.
        """
        settings = MatchSettings(itm_token)
        given = PictureTextBatches(self.runtime, candidates, on_error)
        return rerank(given, query, k, modality, settings, batch_size, show_progress_bar)

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
        return caption(self.runtime, images, prompt, settings, batch_size, show_progress_bar, on_error)

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
        return answer(self.runtime, images, questions, settings, batch_size, show_progress_bar, on_error)

    def reason(
        self,
        pairs: Any,
        statements: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        on_error: str = "raise",
    ) -> Any:
        """Probabilities that statements about two pictures are true (NLVR2: BLIP paper §5.4, ALBEF paper §5).

        Args:
            pairs: (left, right), or a list of such pairs; a pair for all statements, or as many as there are statements.
            statements: a string, or many. "The left image" and "the right image" are the pictures of the pair.

        Returns:
            A float for one pair and one statement, else float32 (N,).

        Raises:
            InputError: the checkpoint cannot reason, or there are not two pictures in each pair.
        """
        return reason(self.runtime, pairs, statements, batch_size, show_progress_bar, on_error)

    def entail(
        self,
        images: Any,
        hypotheses: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        on_error: str = "raise",
    ) -> Any:
        """Whether pictures entail hypotheses, contradict them, or neither (SNLI-VE: ALBEF paper §5).

        Returns:
            A dictionary of probabilities, {"entailment": ..., "neutral": ..., "contradiction": ...}, for one picture and one
            hypothesis, else a list of these.
        """
        return entail(self.runtime, images, hypotheses, batch_size, show_progress_bar, on_error)

    def ground(
        self,
        images: Any,
        phrases: Any,
        boxes: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        on_error: str = "raise",
    ) -> Any:
        """Where in pictures phrases are seen (ALBEF paper §6.4, official `Grounding.py`; BLIP's heads can do it, too).

        Args:
            boxes: candidates, (N, 4): left, top, width and height in pixels of the upright picture; one set for all phrases,
                or a list with a set for each. None: the box is found in the heat map.

        Returns:
            A `Grounding`, or a list of them: `box` (the best of the candidates by the official score, or the best of the
            map), `index` (of the best candidate), `scores`, `map` (float32 (grid, grid)), `match` (the probability), and
            `draw(image, path)`.

        Raises:
            InputError: the checkpoint cannot match; a box is not finite, empty, or outside of its picture.
        """
        return ground(self.runtime, images, phrases, boxes, batch_size, show_progress_bar, on_error)

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
