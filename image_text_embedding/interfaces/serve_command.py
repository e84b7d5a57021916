"""The command `serve`: the HTTP service."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.models.config_files import list_models


def serve(
    model: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL",
            help="A name that `models` lists, a Hugging Face id or a file; repeat it to serve several.",
            autocompletion=list_models,
        ),
    ] = ["blip_demo"],  # noqa: B006 - typer reads it
    gallery: Annotated[
        str | None,
        typer.Option(metavar="URI", help="The index for /search: a .db file that `index` made, or a Milvus server."),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Serve a page for the browser, too: search, match, caption, ask, explain.")
    ] = False,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 is every address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at.")] = 8000,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, …; the default is a GPU if there is one.")
    ] = None,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="What runs the models: torch, openvino, onnx or auto.")
    ] = "torch",
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="fp32, bf16, fp16 or int8, if the backend has it, or auto.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar="IMAGE_TEXT_EMBEDDING_API_KEY",
            help="What clients must send as `Authorization: Bearer KEY`.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="The only hosts that pictures are fetched from, private ones included; the default is every public host.",
        ),
    ] = None,
    allow_hostname: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name that clients call this server by, besides its address. The default is every name; only localhost, "
            "if only this machine can connect and there is no key.",
        ),
    ] = None,
    allow_root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="A folder whose pictures requests may name by path; the default is none.", exists=True
        ),
    ] = None,
    max_body: Annotated[int, typer.Option(metavar="BYTES", min=1, help="Size of a request's body.")] = 32 * 2**20,
    max_items: Annotated[int, typer.Option(min=1, help="Pictures or texts in a request.")] = 256,
    max_pixels: Annotated[int, typer.Option(min=1, help="Width x height of a picture.")] = 50_000_000,
    max_text: Annotated[int, typer.Option(min=1, help="Characters of a text.")] = 10_000,
    max_batch: Annotated[int, typer.Option(min=1, help="How many items to compute at once.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Items that may wait; beyond them the answer is 429.")] = 1024,
    cache: Annotated[
        int, typer.Option(min=0, help="Answers to remember, by the content of pictures and texts; 0 is none.")
    ] = 0,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="The deadline of a request.")] = 30.0,
) -> None:
    """Serve models over HTTP: OpenAI's /v1/embeddings, re-ranking, and the other tasks. /openapi.json describes it.

    SIGTERM stops it when the accepted requests are answered.
    """
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        import_optional(package, "serve", "the command serve")
    from image_text_embedding.interfaces.serving.server import serve as run
    from image_text_embedding.interfaces.serving.settings import ServingSettings

    extend = None
    if page:
        from image_text_embedding.interfaces.page.mounting import add_page

        extend = add_page
    settings = ServingSettings(
        models=tuple(model),
        gallery=gallery,
        device=device,
        backend=backend,
        precision=precision,
        api_key=api_key,
        allow_hosts=tuple(allow_host or ()),
        allow_hostnames=_hostnames(host, api_key, allow_hostname),
        allow_roots=tuple(allow_root or ()),
        max_body=max_body,
        max_items=max_items,
        max_pixels=max_pixels,
        max_text=max_text,
        max_batch=max_batch,
        queue=queue,
        cache=cache,
        timeout=timeout,
    )
    raise typer.Exit(run(settings, host, port, extend, "/page" if page else ""))


def _hostnames(host: str, api_key: str | None, allowed: list[str] | None) -> tuple[str, ...] | None:
    """The names that the server goes by; None = every name, where a key or another address than this machine's guards it."""
    own: tuple[str, ...] = ()
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local, own = host.lower() == "localhost", (host,) if host else ()
    if allowed:
        return (*own, *allowed)
    return own if is_local and api_key is None else None
