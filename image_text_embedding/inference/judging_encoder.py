"""The part of an `Encoder` that judges pictures with texts: matching, labels, statements, entailment and grounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.inference.tasks.image_text_batches import PictureTextBatches, require_texts
from image_text_embedding.inference.tasks.task_settings import ClassifySettings, FirstToken, MatchSettings
from image_text_embedding.inference.vector_encoder import VectorEncoder
from image_text_embedding.inputs.item_lists import ItemErrorList, Many, OnError, Picture

if TYPE_CHECKING:
    from image_text_embedding.inference.tasks.grounding import Grounding

Labels = list[tuple[str, float]]  # and their probabilities, best first
MatrixErrors = list[tuple[tuple[int | None, int | None], EmbeddingError]]  # by row or column


class JudgingEncoder(VectorEncoder):
    """Whether texts fit pictures: `VectorEncoder` describes what all methods share. `Encoder` adds those that write texts."""

    # fmt: off
    @overload
    def match(self, images: Picture, texts: str, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
              itm_token: FirstToken = ..., return_logits: Literal[False] = ...,
              on_error: Literal["raise"] = ...) -> float: ...
    @overload
    def match(self, images: Many, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
              itm_token: FirstToken = ..., return_logits: bool = ..., on_error: Literal["raise"] = ...) -> np.ndarray: ...
    @overload
    def match(self, images: Any, texts: Many, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
              itm_token: FirstToken = ..., return_logits: bool = ..., on_error: Literal["raise"] = ...) -> np.ndarray: ...
    @overload
    def match(self, images: Any, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
              itm_token: FirstToken = ..., return_logits: bool = ...,
              on_error: Literal["skip"]) -> tuple[Any, ItemErrorList]: ...
    @overload
    def match(self, images: Any, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
              itm_token: FirstToken = ..., return_logits: bool = ..., on_error: OnError = ...) -> Any: ...
    # fmt: on
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
        from image_text_embedding.inference.tasks.matching import match

        pairs = PictureTextBatches(self.runtime, images, on_error, texts=require_texts("texts", texts))
        return match(pairs, MatchSettings(itm_token, return_logits), batch_size, show_progress_bar)

    # fmt: off
    @overload
    def match_matrix(self, images: Any, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                     itm_token: FirstToken = ..., return_logits: bool = ...,
                     on_error: Literal["raise"] = ...) -> np.ndarray: ...
    @overload
    def match_matrix(self, images: Any, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                     itm_token: FirstToken = ..., return_logits: bool = ...,
                     on_error: Literal["skip"]) -> tuple[np.ndarray, MatrixErrors]: ...
    @overload
    def match_matrix(self, images: Any, texts: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                     itm_token: FirstToken = ..., return_logits: bool = ..., on_error: OnError = ...) -> Any: ...
    # fmt: on
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
        from image_text_embedding.inference.tasks.matching import match_matrix

        return match_matrix(self.runtime, images, texts, settings, batch_size, show_progress_bar, on_error)

    # fmt: off
    @overload
    def classify(self, images: Picture, labels: Sequence[str], batch_size: int = ...,
                 show_progress_bar: bool | None = ..., *, method: Literal["itc", "itm"] = ..., prompt: str | None = ...,
                 itm_token: FirstToken = ..., on_error: Literal["raise"] = ...) -> Labels: ...
    @overload
    def classify(self, images: Many, labels: Sequence[str], batch_size: int = ..., show_progress_bar: bool | None = ...,
                 *, method: Literal["itc", "itm"] = ..., prompt: str | None = ..., itm_token: FirstToken = ...,
                 on_error: Literal["raise"] = ...) -> list[Labels]: ...
    @overload
    def classify(self, images: Any, labels: Sequence[str], batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                 method: Literal["itc", "itm"] = ..., prompt: str | None = ..., itm_token: FirstToken = ...,
                 on_error: Literal["skip"]) -> tuple[Any, ItemErrorList]: ...
    @overload
    def classify(self, images: Any, labels: Sequence[str], batch_size: int = ..., show_progress_bar: bool | None = ..., *,
                 method: str = ..., prompt: str | None = ..., itm_token: FirstToken = ...,
                 on_error: OnError = ...) -> Any: ...
    # fmt: on
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
        from image_text_embedding.inference.tasks.classifying import classify

        return classify(self.runtime, images, labels, settings, batch_size, show_progress_bar, on_error)

    # fmt: off
    @overload
    def rerank(self, query: Any, candidates: Any, k: int = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., *, modality: Literal["image", "text"] | None = ...,
               itm_token: FirstToken = ..., on_error: Literal["raise"] = ...) -> list[tuple[int, float]]: ...
    @overload
    def rerank(self, query: Any, candidates: Any, k: int = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., *, modality: Literal["image", "text"] | None = ...,
               itm_token: FirstToken = ...,
               on_error: Literal["skip"]) -> tuple[list[tuple[int, float]], ItemErrorList]: ...
    @overload
    def rerank(self, query: Any, candidates: Any, k: int = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., *, modality: str | None = ..., itm_token: FirstToken = ...,
               on_error: OnError = ...) -> Any: ...
    # fmt: on
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
        from image_text_embedding.inference.tasks.reranking import rerank

        given = PictureTextBatches(self.runtime, candidates, on_error)
        return rerank(given, query, k, modality, MatchSettings(itm_token), batch_size, show_progress_bar)

    # fmt: off
    @overload
    def reason(self, pairs: tuple[Any, Any], statements: str, batch_size: int = ..., show_progress_bar: bool | None = ...,
               *, on_error: Literal["raise"] = ...) -> float: ...
    @overload
    def reason(self, pairs: list[Any], statements: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
               on_error: Literal["raise"] = ...) -> np.ndarray: ...
    @overload
    def reason(self, pairs: Any, statements: Many, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
               on_error: Literal["raise"] = ...) -> np.ndarray: ...
    @overload
    def reason(self, pairs: Any, statements: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
               on_error: Literal["skip"]) -> tuple[Any, ItemErrorList]: ...
    @overload
    def reason(self, pairs: Any, statements: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
               on_error: OnError = ...) -> Any: ...
    # fmt: on
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
        from image_text_embedding.inference.tasks.judging.reasoning import reason

        return reason(self.runtime, pairs, statements, batch_size, show_progress_bar, on_error)

    # fmt: off
    @overload
    def entail(self, images: Picture, hypotheses: str, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
               on_error: Literal["raise"] = ...) -> dict[str, float]: ...
    @overload
    def entail(self, images: Many, hypotheses: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
               on_error: Literal["raise"] = ...) -> list[dict[str, float]]: ...
    @overload
    def entail(self, images: Any, hypotheses: Many, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
               on_error: Literal["raise"] = ...) -> list[dict[str, float]]: ...
    @overload
    def entail(self, images: Any, hypotheses: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
               on_error: Literal["skip"]) -> tuple[Any, ItemErrorList]: ...
    @overload
    def entail(self, images: Any, hypotheses: Any, batch_size: int = ..., show_progress_bar: bool | None = ..., *,
               on_error: OnError = ...) -> Any: ...
    # fmt: on
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
        from image_text_embedding.inference.tasks.judging.entailment import entail

        return entail(self.runtime, images, hypotheses, batch_size, show_progress_bar, on_error)

    # fmt: off
    @overload
    def ground(self, images: Picture, phrases: str, boxes: Any = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., *, on_error: Literal["raise"] = ...) -> Grounding: ...
    @overload
    def ground(self, images: Many, phrases: Any, boxes: Any = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., *, on_error: Literal["raise"] = ...) -> list[Grounding]: ...
    @overload
    def ground(self, images: Any, phrases: Many, boxes: Any = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., *, on_error: Literal["raise"] = ...) -> list[Grounding]: ...
    @overload
    def ground(self, images: Any, phrases: Any, boxes: Any = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., *, on_error: Literal["skip"]) -> tuple[Any, ItemErrorList]: ...
    @overload
    def ground(self, images: Any, phrases: Any, boxes: Any = ..., batch_size: int = ...,
               show_progress_bar: bool | None = ..., *, on_error: OnError = ...) -> Any: ...
    # fmt: on
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
        from image_text_embedding.inference.tasks.grounding import ground

        return ground(self.runtime, images, phrases, boxes, batch_size, show_progress_bar, on_error)
