"""What the tabs of the page do: they ask the service, and turn its answers into what is shown."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from PIL import Image

from image_text_embedding.inference.visualization.contact_sheet import thumbnail
from image_text_embedding.inference.visualization.heat_maps import overlay
from image_text_embedding.inputs.image_loading import load_picture
from image_text_embedding.interfaces.page import look
from image_text_embedding.interfaces.page.picture_search import Found, PictureSearch
from image_text_embedding.interfaces.page.quiet_gradio import gr
from image_text_embedding.interfaces.page.service_client import PageError, ServiceClient, required_text
from image_text_embedding.interfaces.serving.model_registry import ServedModel
from image_text_embedding.interfaces.serving.service import Service

PANEL_SIDE = 320  # pixels

# A text that matches less than this is probably not in the picture.
LOW = 0.5


class PageTasks:
    """The functions behind the buttons. Each returns what its outputs show."""

    def __init__(self, service: Service, client: ServiceClient) -> None:
        self._service, self._client = service, client
        self._search = PictureSearch(service, client)

    # --- Search ---

    def search_model(self) -> ServedModel:
        """The model that searches."""
        models = self._service.models
        return models.named(self._service.gallery_model) if self._search.has_gallery else models.choose(None, "embed")

    @property
    def has_gallery(self) -> bool:
        """Whether the service has a gallery of its own."""
        return self._search.has_gallery

    def about_search(self) -> str:
        """What is searched."""
        if self._search.has_gallery:
            return f"Searches the gallery of this server with {self.search_model().name}."
        return f"Searches the 48 drawings that come with the package, with {self.search_model().name}."

    async def search_words(self, words: Any, rerank: Any) -> tuple[Any, ...]:
        """A search with a text."""
        query = required_text(words, "Type what the picture shows.")
        return self._shown(await self._search.search(query, None, rerank is True), query, rerank is True)

    async def search_instance(self, words: str, rerank: Any) -> tuple[Any, ...]:
        """A search with a text of ours, which the last output shows."""
        return (*await self.search_words(words, rerank), words)

    async def search_picture(self, picture: Any) -> tuple[Any, ...]:
        """A search with a picture."""
        content = self._client.picture(picture)
        return self._shown(await self._search.search(None, content, False), "", False)

    def _shown(self, results: list[Found], query: str, is_reranked: bool) -> tuple[Any, ...]:
        if not results:
            raise PageError("The gallery has no pictures.")
        score = "how well they match" if is_reranked else "cosine"
        can_match = "match" in self.search_model().encoder.config.tasks
        hint = " Choose one to see where its words are." if query and can_match else ""
        about = f"The best {len(results)}, by {score}.{hint}"
        pictures = [
            (found.picture or _blank(), f"{rank}.  {found.score:.2f}  {found.text}")
            for rank, found in enumerate(results, 1)
        ]
        hidden = gr.update(value="", visible=False), gr.update(value=[], visible=False)
        return look.note(about), gr.update(value=pictures, visible=True, selected_index=None), query, *hidden

    async def explain_result(self, results: Any, query: Any, index: Any) -> tuple[Any, ...]:
        """Where the words of the search are in one of its results."""
        text = required_text(query, "To see where words are, search with words.")
        if not isinstance(results, list) or not isinstance(index, int) or not 0 <= index < len(results):
            raise PageError("Search again, then choose a result.")
        item = results[index]
        return await self._explained(item.get("image") if isinstance(item, dict) else None, text, None, True)

    # --- The other tabs ---

    async def match(self, picture: Any, texts: Any, model: Any) -> tuple[Any, ...]:
        """Probabilities that texts describe a picture."""
        content = self._client.picture(picture)
        lines = _lines(texts)
        if not lines:
            raise PageError("Type one or more texts, one in a line.")
        answer = await self._client.post("/match", {"model": model, "images": content, "texts": lines})
        return (look.bars([(line, each["probability"]) for line, each in zip(lines, answer["results"])]),)

    async def caption(self, picture: Any, prompt: Any, model: Any) -> tuple[Any, ...]:
        """A sentence about a picture."""
        body = {"model": model, "images": self._client.picture(picture)}
        if isinstance(prompt, str) and prompt.strip():
            body["prompt"] = prompt.strip()
        answer = await self._client.post("/caption", body)
        return (look.sentence(answer["results"][0]["caption"]),)

    async def ask(self, picture: Any, question: Any, choices: Any, model: Any) -> tuple[Any, ...]:
        """An answer to a question about a picture."""
        body: dict[str, Any] = {"model": model, "images": self._client.picture(picture)}
        body["questions"] = required_text(question, "Type a question.")
        if lines := _lines(choices):
            body["choices"] = lines
        (answer,) = (await self._client.post("/answer", body))["results"]
        shares = [(each["answer"], each["probability"]) for each in answer.get("choices", ())]
        return (look.sentence(answer["answer"]) + (look.bars(shares) if shares else ""),)

    async def explain(self, picture: Any, text: Any, model: Any) -> tuple[Any, ...]:
        """Where each word of a text is in a picture."""
        return await self._explained(picture, required_text(text, "Type a text."), model, False)

    async def _explained(self, picture: Any, text: str, model: Any, with_picture: bool) -> tuple[Any, ...]:
        content = self._client.picture(picture)
        body = {"image": content, "text": text} | ({"model": model} if model else {})
        answer = await self._client.post("/explain", body)
        panels = await asyncio.to_thread(self._panels, picture, answer, with_picture)
        match = answer["match"]
        about = f"“{text}” matches the picture with probability {match:.3f}"
        about += ", so that the maps mean little." if match < LOW else "."
        return gr.update(value=look.note(about), visible=True), gr.update(value=panels, visible=True)

    def _panels(self, picture: Any, answer: dict[str, Any], with_picture: bool) -> list[tuple[Image.Image, str]]:
        """A panel for each word; the first may be the picture itself."""
        shown = thumbnail(load_picture(self._client.picture_bytes(picture), self._client.settings.limits()), PANEL_SIDE)
        panels = [(overlay(shown, np.asarray(each)), word) for word, each in zip(answer["words"], answer["maps"])]
        return [(shown, "the picture"), *panels] if with_picture else panels


def _lines(text: Any) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()] if isinstance(text, str) else []


def _blank() -> Image.Image:
    """Stands for a picture that was moved or changed."""
    return Image.new("RGB", (PANEL_SIDE, PANEL_SIDE), (222, 223, 226))
