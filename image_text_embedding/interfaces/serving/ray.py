"""The service on a Ray cluster: `serve run image_text_embedding.interfaces.serving.ray:app models=blip_itm_base_coco`.

Two deployments. `Model` has the replicas: each holds the models and answers requests with the application of the command
`serve`. `Front` checks requests and hands them to a replica; if that dies, to another. (Ray's own proxy would answer 500.)
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from image_text_embedding.foundation.argument_checks import require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inputs.text_encoder import TruncatedTextWarning
from image_text_embedding.interfaces.serving.app import create_app
from image_text_embedding.interfaces.serving.errors import ServingError
from image_text_embedding.interfaces.serving.metrics import Metrics
from image_text_embedding.interfaces.serving.request_guard import RequestGuard
from image_text_embedding.interfaces.serving.server import GRACE, build_service
from image_text_embedding.interfaces.serving.settings import ServingSettings

LOG = logging.getLogger("image_text_embedding.serving")

MODEL, FRONT = "Model", "Front"

MAX_REPLICAS = 8

# One retry: a request that itself stops a process must not stop them all.
ATTEMPTS = 2

# What a replica needs to know of a request.
_SCOPE = (
    "type",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
)

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


def app(args: dict[str, Any]) -> Any:
    """The application for `serve run` and for Serve's configuration files, whose `deployments` may change all options.

    Args:
        args: fields of `ServingSettings`, where commas separate several models, hosts or folders; `replicas`, a number
            instead of 1 to 8 by the load.

    Raises:
        InputError: an unknown argument, or a wrong value.
    """
    serve = import_optional("ray.serve", "ray", "serving on a cluster")
    given = dict(args)
    replicas = given.pop("replicas", None)
    settings = _read_settings(given)
    scale: dict[str, Any] = {
        "autoscaling_config": {
            "min_replicas": 1,
            "max_replicas": MAX_REPLICAS,
            "target_ongoing_requests": settings.max_batch,
        }
    }
    if replicas is not None:
        scale = {"num_replicas": require_integer("replicas", int(replicas) if str(replicas).isdigit() else replicas)}
    on_gpu = (settings.device or "").startswith("cuda")
    model = serve.deployment(
        Replica,
        name=MODEL,
        # The service has a queue of its own, which computes waiting requests together and refuses too many.
        max_ongoing_requests=settings.queue,
        graceful_shutdown_timeout_s=settings.timeout + GRACE,
        ray_actor_options={"num_gpus": 1 if on_gpu else 0},
        **scale,
    )
    front = serve.deployment(
        serve.ingress(Front(settings))(_Ingress),
        name=FRONT,
        max_ongoing_requests=settings.queue * MAX_REPLICAS,
        graceful_shutdown_timeout_s=settings.timeout + GRACE,
        ray_actor_options={"num_cpus": 0},
    )
    return front.bind(model.bind(settings))


def _read_settings(given: Mapping[str, Any]) -> ServingSettings:
    """The settings in the arguments of an application, whose values may be strings.

    Raises:
        InputError: an unknown argument, or a wrong value.
    """
    pydantic = import_optional("pydantic", "serve", "serving on a cluster")
    names = [field.name for field in dataclasses.fields(ServingSettings)]
    values = {"api_key": os.environ.get("IMAGE_TEXT_EMBEDDING_API_KEY"), **given}
    for name, value in given.items():
        if name not in names:
            raise InputError(
                f"unknown argument {name!r}{did_you_mean(name, names)} Arguments: replicas, {', '.join(names)}."
            )
        if isinstance(value, str) and name in ("models", "allow_hosts", "allow_roots"):
            values[name] = value.split(",")
    try:
        return pydantic.TypeAdapter(ServingSettings).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = f"{first['loc'][0]}: " if first["loc"] else ""
        raise InputError(f"{where}{str(first['msg']).removeprefix('Value error, ')}") from error


class Replica:
    """A process that holds the models and answers requests with the application of the command `serve`."""

    async def __init__(self, settings: ServingSettings) -> None:  # type: ignore[misc]  # Serve awaits it
        # As in `serve`: a line for each such text would fill the log.
        warnings.filterwarnings("ignore", category=TruncatedTextWarning)
        self._service = await asyncio.to_thread(build_service, settings)
        self._app = create_app(self._service)
        self._running = contextlib.AsyncExitStack()
        await self._running.enter_async_context(self._service.running())

    async def __del__(self) -> None:
        # Called by Serve when the replica ends.
        if hasattr(self, "_running"):
            await self._running.aclose()

    async def answer(self, scope: Scope, body: bytes) -> Answer:
        """The status, headers and body that answer a request."""
        incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            # Serve cancels the call when the client is gone.
            return incoming.pop() if incoming else await asyncio.get_running_loop().create_future()

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            await self._app(scope, receive, send)
        except Exception:
            # Starlette raises what nobody foresaw again, after it has answered it.
            LOG.exception("a request failed")
            if not sent:
                raise
        head, *rest = sent
        return head["status"], list(head["headers"]), b"".join(message.get("body", b"") for message in rest)


class _Ingress:
    """The class of the deployment `Front`, which Serve requires; `Front` is what answers."""

    def __init__(self, model: Any) -> None:
        pass


class Front:
    """The ASGI application that checks requests and hands them to replicas."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._guard: RequestGuard | None = None
        self._model: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the process (ASGI)."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            if self._guard is None:
                self._guard = RequestGuard(self._forward, self._settings, Metrics())
            await self._guard(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        status, headers, content = await self._answer({name: scope[name] for name in _SCOPE if name in scope}, body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Scope, body: bytes) -> Answer:
        """The answer of a replica.

        Raises:
            ServingError: 503, two replicas died of it, or none can answer.
        """
        exceptions = import_optional("ray.exceptions", "ray", "serving on a cluster")
        serve = import_optional("ray.serve", "ray", "serving on a cluster")
        if self._model is None:
            self._model = serve.get_deployment_handle(MODEL)
        for _ in range(ATTEMPTS):
            try:
                # All routes only compute, so a request may be computed twice.
                return await self._model.answer.remote(scope, body)
            except (exceptions.ActorDiedError, exceptions.ActorUnavailableError):
                LOG.warning("a replica stopped while it computed an answer")
            except serve.exceptions.RayServeException as error:
                LOG.warning("no replica can answer: %s", error)
                raise ServingError(503, "no process can compute the answer now: try again", retry_after=5) from error
        raise ServingError(503, "the process that computed the answer stopped: try again", retry_after=5)


async def _live(receive: Receive, send: Send) -> None:
    """Answer the messages of a server's start and end (ASGI's lifespan)."""
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})
