"""The page as a client of its own service: the same routes, limits, queue and sentences, without a socket."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from image_text_embedding.interfaces.serving.settings import ServingSettings


class PageError(Exception):
    """What the page shows instead of a result; its text is a sentence for the user."""


class ServiceClient:
    """Asks the routes of the service.

    Args:
        app: the service's application, which runs in this event loop.
        folder: where the pictures are that the browser uploaded.
    """

    def __init__(self, app: ASGIApp, settings: ServingSettings, folder: Path) -> None:
        self.settings = settings
        self._folder = folder.resolve()
        headers = {} if settings.api_key is None else {"Authorization": f"Bearer {settings.api_key}"}
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        # The service has a deadline of its own.
        self._http = httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers, timeout=None)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer of a route.

        Raises:
            PageError: it refused, or failed.
        """
        response = await self._http.post(path, json=body)
        answer = response.json()
        if response.status_code == 200:
            return answer
        # The page has one picture, and calls it so.
        message = re.sub(r"^(item \d+: )?(the bytes: )?", "", answer["error"]["message"])
        raise PageError(message[:1].upper() + message[1:])

    def picture(self, value: Any, expected: str = "Choose a picture first.") -> str:
        """A picture that the browser uploaded, as base64. The value is what the browser says of it, and is not trusted.

        Raises:
            PageError: there is none, or it is too large.
        """
        return base64.b64encode(self.picture_bytes(value, expected)).decode("ascii")

    def picture_bytes(self, value: Any, expected: str = "Choose a picture first.") -> bytes:
        """The same as bytes."""
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, str) or not path or "\0" in path:
            raise PageError(expected)
        real = Path(path).resolve()
        if not real.is_relative_to(self._folder) or not real.is_file():
            raise PageError("The picture is not there any more: choose it again.")
        # In JSON it is a third larger.
        limit = self.settings.max_body * 3 // 4 - 4096
        with real.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise PageError(f"Expected a picture of at most {limit / 1e6:.0f} MB, got a larger one.")
        return content


def required_text(value: Any, expected: str) -> str:
    """A text that the user typed, without white space around it.

    Raises:
        PageError: there is none.
    """
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise PageError(expected)
    return text
