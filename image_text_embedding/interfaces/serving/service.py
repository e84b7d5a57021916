"""The service behind the routes: models with their queues, pictures, back-pressure, and whether all of it works."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np

from image_text_embedding.foundation.errors import EmbeddingError, TextError, as_item_error
from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.interfaces.serving.computing.admission import Admission
from image_text_embedding.interfaces.serving.computing.answer_cache import AnswerCache
from image_text_embedding.interfaces.serving.computing.compute_queue import ComputeQueue, Operation
from image_text_embedding.interfaces.serving.computing.operations import embed_operation
from image_text_embedding.interfaces.serving.computing.pace import Pace
from image_text_embedding.interfaces.serving.errors import ServingError, serving_error
from image_text_embedding.interfaces.serving.metrics import Metrics
from image_text_embedding.interfaces.serving.model_registry import ModelRegistry, ServedModel
from image_text_embedding.interfaces.serving.picture_sources import PictureSources
from image_text_embedding.interfaces.serving.settings import ServingSettings
from image_text_embedding.retrieval.gallery import Gallery

DECODE = "decode"

# The share of the deadline that a batch may take.
BATCH_SHARE = 1 / 16

# Seconds that a batch which is computed has to end when the service does.
GRACE = 5.0

LOG = logging.getLogger("image_text_embedding.serving")

# Seconds: how often the workers are looked at, for how long a computed vector proves that a worker works, and the age at
# which a new one is asked for.
WATCH_INTERVAL = 1.0
PROOF_SECONDS = 30.0
PROBE_AGE = 10.0

# Texts up to this many characters together are split into tokens by the event loop's thread: it takes less time than
# handing them to another.
INLINE_CHARACTERS = 2000


class Service:
    """What the routes use. It is created before the server starts, and started in its event loop."""

    def __init__(
        self,
        settings: ServingSettings,
        encoders: Sequence[tuple[str, Encoder]],
        gallery: Gallery | None = None,
        gallery_model: str = "",
    ) -> None:
        """
        Args:
            encoders: models by name.
            gallery_model: the name of the gallery's model among them.
        """
        self.settings = settings
        self.gallery, self.gallery_model = gallery, gallery_model
        self._gallery_problem = "it was not asked yet"
        self.metrics = Metrics()
        self._pace = Pace()
        self._admission = Admission(settings.queue, settings.timeout, self._pace)
        seconds = BATCH_SHARE * settings.timeout
        cache = AnswerCache(settings.cache) if settings.cache else None
        self.models = ModelRegistry(
            [
                ServedModel(
                    name, encoder, ComputeQueue(name, settings.max_batch, seconds, self.metrics, self._pace, cache)
                )
                for name, encoder in encoders
            ]
        )
        self.sources = PictureSources(settings)
        self._watcher: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def running(self, _: Any = None) -> AsyncIterator[None]:
        """Start the workers, and end them at the end of the block."""
        for model in self.models:
            model.queue.start()
        self._watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self._watcher.cancel()
            for model in self.models:
                model.queue.close()
            self.sources.close()
            for model in self.models:
                await asyncio.to_thread(model.queue.join, GRACE)
            if self.gallery is not None:
                self.gallery.close()

    # --- Work ---

    @contextlib.asynccontextmanager
    async def admitted(
        self,
        kind: str,
        count: int,
        model: ServedModel,
        pictures: list[Any],
        decode: Callable[[Any], Any] | None = None,
    ) -> AsyncIterator[list[Any]]:
        """Fetch pictures, enter the queue with `count` items, and decode; yields the result or an error for each picture.

        Args:
            decode: a picture's content -> what is needed of it. None = pixels at the model's size, uint8 (S, S, 3).

        Raises:
            ServingError: 429, too much is waiting.
        """
        fetched = await self.sources.fetch(pictures)
        work = {f"{model.name} {kind}": count, DECODE: len(fetched)}
        with self._admission.admit(count, work):
            if not fetched:
                yield []
                return
            decoded = await self.sources.decode(fetched, decode or model.encoder.runtime.pixels)
            if self.sources.seconds_per_picture is not None:
                self._pace.learn(DECODE, self.sources.seconds_per_picture)
            yield decoded

    async def encode_texts(self, model: ServedModel, texts: list[str]) -> list[list[int] | EmbeddingError]:
        """Token ids, or an error, for each text."""
        runtime = model.encoder.runtime
        rules = runtime.config.captions
        assert rules is not None

        def encode_all() -> list[Any]:
            return [_attempt(lambda text: runtime.tokenizer(text, rules), text) for text in texts]

        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return encode_all()
        return await asyncio.get_running_loop().run_in_executor(self.sources.decoders, encode_all)

    async def embed(self, model: ServedModel, modality: str, prepared: list[Any]) -> list[Any]:
        """Pixels or token ids -> a unit vector (D,), or an error, for each. An error among them is its own result."""
        return await model.queue.run(embed_operation(model.encoder, modality, self.settings.max_batch), prepared)

    async def compute_one(self, model: ServedModel, kind: str, compute: Callable[[], Any], count: int = 1) -> Any:
        """What `compute()` returns in the model's thread.

        Args:
            count: how many items of the kind it computes.

        Raises:
            ServingError: it failed.
        """

        def compute_all(_: list[Any]) -> list[Any]:
            try:
                return [compute()]
            except (EmbeddingError, ServingError) as error:
                return [error]

        (result,) = await model.queue.run(Operation(kind, None, compute_all, weight=count), [None])
        if isinstance(result, Exception):
            raise serving_error(result)
        return result

    # --- Limits ---

    def check_count(self, count: int, param: str) -> None:
        """Check the number of items of a request.

        Raises:
            ServingError: 413, there are too many; 422, there are none.
        """
        if count > self.settings.max_items:
            raise ServingError(413, f"{param}: expected at most {self.settings.max_items} items, got {count}", param)
        if count == 0:
            raise ServingError(422, f"{param}: expected at least one item, got none", param)

    def check_text(self, text: Any, param: str) -> str:
        """The text, after a check of its type and length.

        Raises:
            ServingError: 413, it is too long; 422, it is no string.
        """
        if not isinstance(text, str):
            raise ServingError(422, f"{param}: expected a string, got {type(text).__name__}", param)
        if len(text) > self.settings.max_text:
            raise ServingError(
                413, f"{param}: expected at most {self.settings.max_text} characters, got {len(text)}", param
            )
        return text

    # --- Health ---

    def problems(self) -> list[str]:
        """Why the service is not ready; empty if it is."""
        found = []
        for model in self.models:
            last = model.queue.last_success
            if not model.queue.is_alive():
                found.append(f"{model.name}: its worker stopped")
            elif last is None:
                found.append(f"{model.name}: its worker has not computed anything yet")
            elif time.monotonic() - last > PROOF_SECONDS:
                found.append(f"{model.name}: its worker computed nothing for {PROOF_SECONDS:.0f} s")
        if self.gallery is not None and self._gallery_problem:
            found.append(f"the gallery: {self._gallery_problem}")
        return found

    async def _watch(self) -> None:
        """Ask every worker that had nothing to compute for a vector now and then, and the gallery for its size."""
        probes: dict[str, asyncio.Task[None]] = {}
        gallery: asyncio.Task[None] | None = None
        asked = 0.0
        while True:
            now = time.monotonic()
            for model in self.models:
                last = model.queue.last_success
                probe = probes.get(model.name)
                if (last is None or now - last > PROBE_AGE) and (probe is None or probe.done()):
                    probes[model.name] = asyncio.create_task(_probe(model))
            if self.gallery is not None and now - asked > PROBE_AGE and (gallery is None or gallery.done()):
                asked, gallery = now, asyncio.create_task(self._ask(self.gallery))
            elif self.gallery is not None and now - asked > PROOF_SECONDS:
                self._gallery_problem = f"it did not answer for {PROOF_SECONDS:.0f} s"
            await asyncio.sleep(WATCH_INTERVAL)

    async def _ask(self, gallery: Gallery) -> None:
        try:
            await asyncio.to_thread(len, gallery)
            self._gallery_problem = ""
        except Exception:
            LOG.exception("the gallery does not answer")
            self._gallery_problem = "it does not answer"


async def _probe(model: ServedModel) -> None:
    """Compute a real result."""
    # The first is slower than those after it, by which the service judges how long an item takes.
    repetitions = 1 if model.queue.last_success else 2
    runtime = model.encoder.runtime
    pixels = np.full((runtime.config.vision.image_size,) * 2 + (3,), 128, dtype=np.uint8)
    embeds = "embed" in runtime.config.tasks
    operation = embed_operation(model.encoder, "image", 1) if embeds else _states_operation(model.encoder)
    # A remembered vector proves nothing.
    operation = dataclasses.replace(operation, can_be_cached=False)
    for _ in range(repetitions):
        (result,) = await model.queue.run(operation, [pixels])
        if isinstance(result, Exception):
            LOG.error("%s cannot compute a vector: %s", model.name, result)


def _states_operation(encoder: Encoder) -> Operation:
    """For a model that makes no vectors: the states that its heads read."""
    import torch

    def compute(items: list[Any]) -> list[Any]:
        with torch.inference_mode():
            return list(encoder.runtime.require_finite(encoder.runtime.states(items)))

    return Operation("states", "states", compute)


def _attempt(function: Callable[[str], Any], text: str) -> Any:
    try:
        return function(text)
    except Exception as error:
        return as_item_error(error, TextError)
