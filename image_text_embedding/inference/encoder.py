"""What `load` returns: batches of pictures and texts in; vectors, matches, captions and answers out."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.backends.backend import Backend, check_makes_vectors
from image_text_embedding.inference.backends.compiled_tower import RemoteTower
from image_text_embedding.inference.embedding import encode_pictures, encode_texts, stream_pictures, stream_texts
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.inference.request_batching import BatchingEncoder
from image_text_embedding.inference.tasks.answering import answer
from image_text_embedding.inference.tasks.captioning import caption
from image_text_embedding.inference.tasks.matching import match, match_matrix
from image_text_embedding.inference.tasks.multi_task import analyze
from image_text_embedding.inference.tasks.reranking import rerank
from image_text_embedding.inputs.limits import Limits
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint
from image_text_embedding.models.devices import DTYPES
from image_text_embedding.models.model_lookup import ResolvedModel, find_vocabulary, load_tokenizer

if TYPE_CHECKING:
    from image_text_embedding.inference.visualization.grad_cam import Explanation


class Encoder:
    """Pictures and texts -> comparable vectors of unit length, and what else the checkpoint has heads for.

    Safe to call from many threads at once. Which tasks a model can do says `config.tasks`; the others raise an InputError
    that names the models that can.

    Attributes:
        config: the model's configuration.
        backend, precision: what computes the towers, and in what.
        dim: length of a vector; None where the checkpoint makes none (captioning, question answering).
        info: where the vectors come from: name, family, revision, sha256 of the weights, preprocessing, versions. Two
            encoders' vectors may be compared when these agree on name, revision and sha256. Under "quality", of the towers
            that another backend than torch computes: the cosines of its vectors to torch's in fp32, measured on held-out
            pictures and texts when the tower was exported.
    """

    def __init__(
        self,
        resolved: ResolvedModel,
        tokenizer: str | os.PathLike[str] | None,
        device: torch.device,
        backend: Backend | RemoteTower,
        modality: str | None,
        limits: Limits,
    ) -> None:
        self.config = resolved.config
        self.dim = resolved.config.embed_dim
        self.device = device
        self.dtype = DTYPES[backend.precision] if backend.name == "torch" else torch.float32  # of what torch computes
        self.modality = modality
        self.backend, self.precision = backend.name, backend.precision
        self._resolved = resolved
        words = None
        if modality != "image":  # first: a missing vocabulary is found before a gigabyte is read
            words = load_tokenizer(self.config, find_vocabulary(resolved, tokenizer))
        self.runtime = ModelRuntime(resolved, words, device, self.dtype, modality, limits)
        if modality is not None:
            self.runtime.require("embed", modality)
        parts = self.runtime.first_parts
        if backend.name == "torch":
            read = functools.cache(read_checkpoint)  # a file is opened once for all of them
            for part in parts:
                self.runtime.part(part, read)
        else:
            check_makes_vectors(backend, self.config)
            self.runtime.compiled.update((part, backend.tower(self.runtime, part)) for part in parts)

    def __repr__(self) -> str:
        makes = f"-> {self.dim}, " if self.dim else ""
        by = "" if self.backend == "torch" else f" by {self.backend} in {self.precision}"
        parts = dict.fromkeys((*self.runtime.compiled, *self._parts))
        return f"<{self.config.name}: {' and '.join(parts)} {makes}on {self.device}{by}>"

    @property
    def _parts(self) -> dict[str, nn.Module]:
        """The parts in memory."""
        return self.runtime.parts

    @property
    def info(self) -> dict[str, Any]:
        vision = self.config.vision
        return {
            "name": self.config.name,
            "family": self.config.family,
            "tasks": list(self.config.tasks),
            "dim": self.dim,
            "modality": self.modality,
            "license": self.config.license,
            "source": self._resolved.source,
            "revision": self._resolved.revision,
            "sha256": self._resolved.sha256,
            "preprocessing": {
                "image": {
                    "size": vision.image_size,
                    "resize": "bicubic, no crop",
                    "mean": list(vision.mean),
                    "std": list(vision.std),
                },
                "text": json.loads(json.dumps(dataclasses.asdict(self.config.captions))),
            },
            "normalized": True,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "backend": self.backend,
            "precision": self.precision,
            "quality": {name: tower.quality for name, tower in self.runtime.compiled.items()},
            "version": metadata.version("image-text-embedding"),
        }

    def encode_image(
        self,
        images: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        on_error: str = "raise",
        decode: str = "exact",
    ) -> Any:
        """Vectors of pictures. They are decoded by threads of their own while the tower computes.

        Args:
            images: one picture or many (a list, an (N, H, W, 3) array, or any iterable). A picture is a path, an
                http(s) or data: URL, encoded bytes, a PIL image, a uint8 array in RGB, or a Towhee Image, whose mode
                is honoured. One that comes again is computed once.
            batch_size: pictures computed at once at most (a CPU takes fewer: more would not be faster). About twice as
                many, and 16, are in memory.
            show_progress_bar: None = on a terminal, when it takes more than a moment.
            convert_to_tensor: a torch tensor on the model's device instead of a numpy array.
            normalize_embeddings: False leaves the projection's length; such vectors are not comparable by dot product.
            on_error: "raise" stops at the first picture that cannot be used; "skip" goes on: its row is NaN.
            decode: "fast" decodes a JPEG that is at least four times as large as the model's pictures at a reduced scale:
                two to four times as fast, and the vectors' cosine to the exact ones stays above 0.99 (README). "device"
                does so, too, and lets the model's device resize pictures, those of one size together: for a GPU that waits
                for the processor.

        Returns:
            float32 (D,) for one picture, (N, D) for many, (0, D) for none. With on_error="skip" a pair: the vectors,
            and a list of (index, error).

        Raises:
            ImageError: a picture cannot be used; `.index` is its place in the list.
            ComputeError: the tower overflowed (half precision).
        """
        return encode_pictures(
            self.runtime,
            images,
            batch_size,
            show_progress_bar,
            convert_to_tensor,
            normalize_embeddings,
            on_error,
            decode,
        )

    def encode_text(
        self,
        texts: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        on_error: str = "raise",
    ) -> Any:
        """Vectors of texts, cleaned and cut as the family's official code does (warning when one is cut).

        Args:
            texts: one string or many. Computed in order of length, so that a batch is padded little, each different one
                once; order is kept for the caller.
            batch_size: texts computed at once at most; fewer where they are longer than 16 tokens.
            show_progress_bar, convert_to_tensor, normalize_embeddings, on_error: as in `encode_image`.

        Returns:
            As `encode_image`.

        Raises:
            TextError: not a string, or nothing is left of it after cleaning; `.index` is its place in the list.
            ComputeError: the tower overflowed (half precision).
        """
        return encode_texts(
            self.runtime, texts, batch_size, show_progress_bar, convert_to_tensor, normalize_embeddings, on_error
        )

    def stream_image(
        self,
        images: Iterable[Any],
        batch_size: int = 32,
        *,
        normalize_embeddings: bool = True,
        on_error: str = "raise",
        decode: str = "exact",
    ) -> Iterator[Any]:
        """Vectors of pictures as they come, however many: for iterables that are too long for a list of vectors.

        Pictures are taken only as fast as vectors are: about batch_size + 16 are in memory. They are decoded by threads of
        their own while the tower computes; closing the iterator, or dropping it, ends these.

        Args:
            images: any iterable of pictures as in `encode_image`; it is read in the caller's thread.
            batch_size, normalize_embeddings, decode: as in `encode_image`.
            on_error: "raise" stops at the first picture that cannot be used, after the vectors of those before it; "skip"
                goes on and gives pairs, (vector, None) or (None, error).

        Returns:
            An iterator over float32 (D,), one for each picture, in their order.

        Raises:
            InputError: one picture came, or an unknown argument; at once. And as `encode_image`, by the iterator.
        """
        return stream_pictures(self.runtime, images, batch_size, normalize_embeddings, on_error, decode)

    def stream_text(
        self,
        texts: Iterable[Any],
        batch_size: int = 32,
        *,
        normalize_embeddings: bool = True,
        on_error: str = "raise",
    ) -> Iterator[Any]:
        """Vectors of texts as they come, however many. 16 batches at a time are put in order of length.

        Args:
            texts: any iterable of strings.
            batch_size, normalize_embeddings: as in `encode_text`.
            on_error: as in `stream_image`.

        Returns:
            An iterator over float32 (D,), one for each text, in their order.

        Raises:
            InputError: one text came, or an unknown argument; at once. And as `encode_text`, by the iterator.
        """
        return stream_texts(self.runtime, texts, batch_size, normalize_embeddings, on_error)

    def coalesce(self, max_batch: int = 32, max_wait: float = 0.005) -> BatchingEncoder:
        """This model for many threads that each have one item: calls that come at the same time are computed together.

        Args:
            max_batch: items computed together at most.
            max_wait: seconds that a call waits for others. While a batch is computed the next one gathers anyway.

        Raises:
            InputError: a number is out of its range.
        """
        return BatchingEncoder(self.encode_image, self.encode_text, max_batch, max_wait)

    def similarity(self, a: Any, b: Any) -> Any:
        """Cosine of every vector in `a` with every one in `b`: (N, D), (M, D) -> (N, M) float32; two (D,) -> a float."""
        plain = (x.detach().float().cpu() if isinstance(x, torch.Tensor) else x for x in (a, b))
        try:
            left, right = (np.asarray(x, dtype=np.float32) for x in plain)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"expected vectors of length {self.dim}: (D,) or (N, D), got other things: {error}"
            ) from error
        for side in (left, right):
            if side.ndim not in (1, 2) or side.shape[-1] != self.dim:
                raise InputError(f"expected vectors of length {self.dim}: (D,) or (N, D), got shape {side.shape}")
        left, right = (side / np.linalg.norm(side, axis=-1, keepdims=True).clip(1e-12) for side in (left, right))
        result = left @ right.T
        return float(result) if result.ndim == 0 else result

    def match(
        self,
        images: Any,
        texts: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        itm_token: str = "enc",
        on_error: str = "raise",
    ) -> Any:
        """Probabilities that texts say what pictures show (ITM: BLIP paper §3.2, ALBEF paper §3.2).

        Args:
            images: one picture or many, as in `encode_image`.
            texts: one string or many. As many as pictures, in pairs; or one of either for all of the other.
            batch_size: pairs computed at once.
            show_progress_bar: as in `encode_image`.
            itm_token: what begins BLIP's texts. "enc" is [ENC], with which BLIP was trained; "cls" is [CLS], which the
                official matching demo and the Hugging Face port leave there, so that their published sample scores come
                from it. ALBEF knows [CLS] alone.
            on_error: "raise" stops at the first item that cannot be used; "skip" goes on: its probability is NaN.

        Returns:
            A float for one picture and one text, else (N,) float32. With on_error="skip" a pair: the probabilities, and a
            list of (index, error).

        Raises:
            InputError: the checkpoint cannot match; pictures and texts are of different number.
            ImageError, TextError: an item cannot be used; `.index` is its place in the list.
            ComputeError: the model overflowed (half precision).
        """
        return match(self.runtime, images, texts, itm_token, batch_size, show_progress_bar, on_error)

    def match_matrix(
        self,
        images: Any,
        texts: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        itm_token: str = "enc",
        on_error: str = "raise",
    ) -> Any:
        """The probability of a match of every picture with every text; each picture passes the ViT once.

        Args:
            images, texts, itm_token, show_progress_bar: as in `match`, but of any number.
            batch_size: pictures, and texts for one picture, computed at once.
            on_error: "raise" stops at the first item that cannot be used; "skip" goes on: its row or column is NaN.

        Returns:
            (N, M) float32. With on_error="skip" a pair: the matrix, and a list of ((row, None) or (None, column), error).

        Raises:
            As `match`.
        """
        return match_matrix(self.runtime, images, texts, itm_token, batch_size, show_progress_bar, on_error)

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
        """Search in two stages: cosines of all candidates (ITC), then ITM on the k best, as the papers' results were had.

        The score is the family's own: BLIP adds the cosine to the match logit (`evaluation` of the official
        `train_retrieval.py`), ALBEF takes the match logit alone (its `Retrieval.py`). The papers took k = 256 on COCO and
        128 on Flickr30k.

        Args:
            query: a text, to find pictures; or a picture, to find texts.
            candidates: the others, many of them. Pictures pass the ViT once; the states of the k best are kept for ITM.
            k: how many are re-ranked and returned.
            batch_size: candidates computed at once.
            show_progress_bar, itm_token: as in `match`.
            modality: what the query is, "text" or "image". None tells it by what is no string, or is the URL or an existing
                file of a picture.
            on_error: "raise" stops at the first candidate that cannot be used; "skip" leaves it out.

        Returns:
            A list of (index into candidates, score), best first, of at most k. With on_error="skip" a pair: the list, and
            a list of (index, error).

        Raises:
            InputError: the checkpoint cannot; it cannot be told what the query is.
            ImageError, TextError, ComputeError: as in `match`.
        """
        return rerank(self.runtime, query, candidates, k, modality, itm_token, batch_size, show_progress_bar, on_error)

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
        """Sentences that say what pictures show (`BLIP_Decoder.generate` of the official `models/blip.py`).

        Args:
            images: one picture or many, as in `encode_image`.
            prompt: None writes from nothing. A string is continued, for every picture; a list has one for each. The
                official code always continues "a picture of ", with which it was fine-tuned.
            num_beams: width of the search for the likeliest sentence; 1 is greedy.
            max_length, min_length: in tokens; they count the prompt and its first token, as in the official code.
            repetition_penalty: above 1 shuns words that are there already. None is the official 1.0 in search, and 1.1 in
                sampling.
            sample: draw sentences (nucleus sampling among the 50 likeliest words) instead of searching the likeliest.
            top_p: the nucleus: the likeliest words that make up this probability.
            seed: the same seed gives the same sentences, whatever else is in the batch or drawn by other threads. None
                draws anew every time.
            num_return_sequences: sentences for each picture; in search at most num_beams, best first.
            batch_size: pictures computed at once.
            show_progress_bar: as in `encode_image`.
            on_error: "raise" stops at the first item that cannot be used; "skip" goes on: its caption is None.

        Returns:
            A string, without the prompt; for many pictures a list. With num_return_sequences > 1, lists of strings in
            their place. With on_error="skip" a pair: that, and a list of (index, error).

        Raises:
            InputError: the checkpoint cannot caption; a number is out of its range; as many prompts as pictures lack.
            TextError: a prompt is empty, or leaves no room to write.
            ImageError, ComputeError: as in `match`.
        """
        return caption(
            self.runtime,
            images,
            prompt,
            batch_size,
            show_progress_bar,
            on_error,
            num_beams=num_beams,
            max_length=max_length,
            min_length=min_length,
            repetition_penalty=repetition_penalty,
            sample=sample,
            top_p=top_p,
            seed=seed,
            num_return_sequences=num_return_sequences,
        )

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
            images: one picture or many, as in `encode_image`.
            questions: one string or many. As many as pictures, in pairs; or one of either for all of the other.
            choices: answers to choose among, for all questions. None writes an answer. (ALBEF's official code always
                chooses; its decoder writes as well.) The published results of both families choose among 3,128 answers.
            k: how many of the choices, those that begin best, are weighed in full.
            num_beams, max_length, min_length: of a written answer, in tokens with its first, as in `caption`.
            question_token: what begins BLIP's questions: "enc" is [ENC], as trained; "cls" is [CLS], which the Hugging
                Face port leaves there. ALBEF knows [CLS] alone.
            batch_size: pairs computed at once.
            show_progress_bar: as in `encode_image`.
            on_error: "raise" stops at the first item that cannot be used; "skip" goes on: its answer is None.

        Returns:
            A string. With choices, a list of (answer, probability among the k), best first. For many pairs a list of
            these. With on_error="skip" a pair: that, and a list of (index, error).

        Raises:
            InputError: the checkpoint cannot answer; pictures and questions are of different number; a number is out of
                its range; there are no choices.
            TextError: an empty question; an answer is there twice.
            ImageError, ComputeError: as in `match`.
        """
        return answer(
            self.runtime,
            images,
            questions,
            batch_size,
            show_progress_bar,
            on_error,
            choices=choices,
            k=k,
            question_token=question_token,
            num_beams=num_beams,
            max_length=max_length,
            min_length=min_length,
        )

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
        """Several tasks of one picture in one pass: the ViT, most of the work, runs once for all of them.

        Args:
            images: one picture or many, as in `encode_image`.
            tasks: some of "embed", "match", "caption", "answer". None is all that the checkpoint can do with what is
                given.
            texts: for "match": one string for all pictures, or a list with one for each.
            questions: for "answer": likewise.
            prompt: for "caption": as in `caption`.
            batch_size, show_progress_bar: as in `encode_image`.
            on_error: "raise" stops at the first item that cannot be used; "skip" goes on: it gets None.
            settings: keywords of `match`, `caption` and `answer` (`itm_token`, `num_beams`, `sample`, `choices`, ...); each
                goes to every asked task that takes it.

        Returns:
            A dictionary, task -> what the task's own method gives for one picture (`encode_image` for "embed"); for many
            pictures a list. With on_error="skip" a pair: that, and a list of (index, error).

        Raises:
            InputError: the checkpoint cannot; a task lacks its texts; an unknown task or setting.
            And as the tasks' own methods.
        """
        given = {"texts": texts, "questions": questions, "prompt": prompt}
        return analyze(self.runtime, images, tasks, given, settings, batch_size, show_progress_bar, on_error)

    def explain(
        self, image: Any, text: str, *, layers: int | Sequence[int] | None = None, steps: int | None = None
    ) -> Explanation:
        """Where in a picture each word of a text is seen: Grad-CAM over cross-attention, as in the ALBEF paper (§6.4).

        Args:
            image: one picture, as in `encode_image`.
            text: one string.
            layers: whose cross-attention is read, one or several, counted from 0 through the text's layers; of several the
                mean is taken. None is the model's own choice: ALBEF's official 8 and LAVIS' 7 for BLIP at the official
                sizes.
            steps: 1 is Grad-CAM as published. More average it over so many strengths of the picture, from faint to full, as
                integrated gradients do: a sure match hardly changes with one word more, and its gradient is mostly noise.
                None is the model's own choice: 1 for official models.

        Returns:
            `words`, `maps` (float32 (words, grid, grid)), `peaks`, `match` (the probability), and `draw(path)`, which writes
            a panel a word.

        Raises:
            InputError: the checkpoint cannot match; not one picture and one text; no such layer; no whole number of steps.
            ImageError, TextError, ComputeError: as in `match`.
        """
        from image_text_embedding.inference.visualization.grad_cam import explain

        return explain(self.runtime, image, text, layers, steps)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the parts in memory as our own safetensors, which `load(path)` opens with no other file but the vocabulary.

        Towers are in memory from the start, heads once they were used; the file is for their tasks.
        """
        return self.runtime.save(path)

    def export_transformers(self, folder: str | os.PathLike[str], task: str | None = None) -> Path:
        """Write a folder that transformers' `from_pretrained` opens, with equal outputs; for BLIP alone.

        Args:
            folder: made if it is not there.
            task: "match" (or "embed") for `BlipForImageTextRetrieval`, "caption" for `BlipForConditionalGeneration`,
                "answer" for `BlipForQuestionAnswering`. None is the first that the checkpoint can do.

        Returns:
            The folder, with config.json, model.safetensors, and what `BlipProcessor` needs. transformers keeps [CLS] where
            we put [ENC]: its scores are those of `match(..., itm_token="cls")`, its answers those of
            `answer(..., question_token="cls")`. Its processor does not clean texts.

        Raises:
            InputError: the model is no BLIP, or cannot do the task, or was loaded with one modality.
            CheckpointError: the folder cannot be written.
        """
        from image_text_embedding.inference.backends.transformers_export import export_transformers

        return export_transformers(self.runtime, Path(folder), task)
