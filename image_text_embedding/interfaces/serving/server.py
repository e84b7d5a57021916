"""Running the service: loading the models, and uvicorn until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from image_text_embedding.foundation.errors import InputError, StoreError
from image_text_embedding.foundation.terminal_text import print_line
from image_text_embedding.inference.loading import load
from image_text_embedding.inputs.text_encoder import TruncatedTextWarning
from image_text_embedding.interfaces.serving.app import create_app
from image_text_embedding.interfaces.serving.service import Service
from image_text_embedding.interfaces.serving.settings import ServingSettings
from image_text_embedding.retrieval.gallery import Gallery

Extend = Callable[[FastAPI, Service], None]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Seconds that the head of a request may take: of a connection's first from the start, of others from their first byte.
HEAD_SECONDS = 30.0

# Seconds beyond the deadline of requests that accepted ones have when the server ends.
GRACE = 5


def build_service(settings: ServingSettings) -> Service:
    """The service with its models loaded.

    Raises:
        InputError: the gallery is empty.
        And as `load` and `Gallery.open`.
    """
    options: dict[str, Any] = {"device": settings.device, "limits": settings.limits()}
    options |= {"backend": settings.backend, "precision": settings.precision}
    encoders = [(model, load(model, **options)) for model in settings.models]
    named = [(encoder.config.name if os.path.exists(model) else model, encoder) for model, encoder in encoders]
    if settings.gallery is None:
        return Service(settings, named)
    gallery = Gallery.open(settings.gallery, **options)
    try:
        gallery.require_content()
    except StoreError as error:
        gallery.close()
        raise InputError(f"gallery: {error}") from error
    for name, encoder in named:
        if encoder.info["sha256"] == (gallery.manifest or {})["sha256"]:
            # With the model that is served anyway. The file stays open meanwhile.
            shared = Gallery.open(settings.gallery, encoder)
            gallery.close()
            return Service(settings, named, shared, name)
    name = gallery.model.config.name
    return Service(settings, [*named, (name, gallery.model)], gallery, name)


def server_config(service: Service, host: str, port: int, extend: Extend | None = None) -> uvicorn.Config:
    """How uvicorn serves a service.

    Args:
        extend: adds something to the service's application, as the page does.
    """
    app = create_app(service)
    if extend is not None:
        extend(app, service)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_PunctualProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        # Longer than load balancers keep an idle connection, so that none sends into one that is being closed.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(service.settings.timeout) + GRACE,
    )


class _PunctualProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol with a time limit for the head of each request; without one a slow client keeps its connection."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Called by the event loop."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        super().data_received(data)
        if self._is_idle():
            self._expect_head()
        else:
            self._forget_limit()

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self._forget_limit()
        super().connection_lost(error)

    def _is_idle(self) -> bool:
        """Whether no request is being answered: what arrives now belongs to the head of the next one."""
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._limit is None:
            self._limit = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._close_if_idle)

    def _forget_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _close_if_idle(self) -> None:
        self._limit = None
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()


def serve(settings: ServingSettings, host: str, port: int, extend: Extend | None = None, path: str = "") -> int:
    """Serve until SIGTERM or Ctrl-C: then accept nothing more, finish what was accepted, and return.

    Args:
        extend: as in `server_config`.
        path: what the announced address ends with.

    Returns:
        The exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 if the address cannot be used.
    """
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.WARNING)
    # Texts of requests are cut as in the official code, and results whose pictures have moved have no match: a line in the
    # log for each would only fill it.
    warnings.filterwarnings("ignore", category=TruncatedTextWarning)
    warnings.filterwarnings("ignore", message=".* pictures could not be re-ranked")
    service = build_service(settings)
    server = _Server(server_config(service, host, port, extend), path)
    stopped_by: list[int] = []
    # uvicorn has its own handlers while it runs, and afterwards calls ours, so that we know what stopped it.
    handlers = {each: signal.signal(each, lambda number, _: stopped_by.append(number)) for each in _SIGNALS}
    try:
        # What is loaded now stays: to look at its million objects in every full collection would hold up all requests.
        gc.collect()
        gc.freeze()
        if not stopped_by:
            server.run()
    except SystemExit:
        # The address cannot be used; uvicorn has logged why.
        return 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    code = _exit_code(stopped_by)
    if any(model.queue.is_alive() for model in service.models):
        # It still computes what nobody waits for any more. A thread in torch while Python ends would crash the process.
        sys.stderr.flush()
        os._exit(code)
    return code


class _Server(uvicorn.Server):
    """uvicorn's server, which says where it listens."""

    def __init__(self, config: uvicorn.Config, path: str) -> None:
        super().__init__(config)
        self._path = path

    async def startup(self, sockets: Any = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        for listener in self.servers:
            host, port = listener.sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print_line(f"image-text-embedding: serving at http://{shown}:{port}{self._path}", error=True)


def _exit_code(stopped_by: list[int]) -> int:
    return 130 if signal.SIGINT in stopped_by else 0
