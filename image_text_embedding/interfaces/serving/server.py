"""Running the service: loading the models, and uvicorn until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from typing import Any

import uvicorn

from image_text_embedding.inference.encoder import Encoder
from image_text_embedding.inference.loading import load
from image_text_embedding.inputs.text_encoder import TruncatedTextWarning
from image_text_embedding.interfaces.serving.app import create_app
from image_text_embedding.interfaces.serving.service import Service
from image_text_embedding.interfaces.serving.settings import ServingSettings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Seconds beyond the deadline of requests that accepted ones have when the server ends.
GRACE = 5


def build_service(settings: ServingSettings) -> Service:
    """The service with its models loaded.

    Raises:
        As `load`.
    """
    return Service(settings, [(_public_name(model, encoder), encoder) for model, encoder in _load(settings)])


def serve(settings: ServingSettings, host: str, port: int) -> int:
    """Serve until SIGTERM or Ctrl-C: then accept nothing more, finish what was accepted, and return.

    Returns:
        The exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 if the address cannot be used.
    """
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.WARNING)
    # Texts of requests are cut as in the official code; a line in the log for each would only fill it.
    warnings.filterwarnings("ignore", category=TruncatedTextWarning)
    stopped_by: list[int] = []
    handlers = {each: signal.signal(each, lambda number, _: stopped_by.append(number)) for each in _SIGNALS}
    try:
        service = build_service(settings)
        server = _Server(
            uvicorn.Config(
                create_app(service),
                host=host,
                port=port,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=int(settings.timeout) + GRACE,
            )
        )
        if stopped_by:
            return _exit_code(stopped_by)
        # uvicorn has its own handlers while it runs, and afterwards calls ours, so that we know what stopped it.
        server.run()
    except SystemExit:
        # The address cannot be used; uvicorn has logged why.
        return 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return _exit_code(stopped_by)


class _Server(uvicorn.Server):
    """uvicorn's server, which says where it listens."""

    async def startup(self, sockets: Any = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        for listener in self.servers:
            host, port = listener.sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"image-text-embedding: serving at http://{shown}:{port}", file=sys.stderr, flush=True)


def _exit_code(stopped_by: list[int]) -> int:
    return 130 if signal.SIGINT in stopped_by else 0


def _load(settings: ServingSettings) -> list[tuple[str, Encoder]]:
    return [(model, load(model, device=settings.device, limits=settings.limits())) for model in settings.models]


def _public_name(model: str, encoder: Encoder) -> str:
    """What requests call a model: as it was asked for, or the model's own name if that was a path."""
    return encoder.config.name if os.path.exists(model) else model
