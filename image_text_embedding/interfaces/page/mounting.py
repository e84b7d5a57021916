"""Adds the page to the service's application."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from image_text_embedding.interfaces.page.door import PATH, PageDoor
from image_text_embedding.interfaces.page.look import CSS, theme
from image_text_embedding.interfaces.page.page import build_page
from image_text_embedding.interfaces.page.quiet_gradio import gr
from image_text_embedding.interfaces.page.service_client import ServiceClient
from image_text_embedding.interfaces.serving.service import Service


def add_page(app: FastAPI, service: Service) -> None:
    """Mount the page at /page, where / leads to.

    Its pictures, those that browsers upload and those that it draws, are in a folder of their own, which is removed when the
    application ends.
    """
    folder = Path(tempfile.mkdtemp(prefix="image-text-embedding-page-"))
    # The folder that Gradio writes to.
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    settings = service.settings
    blocks = build_page(service, ServiceClient(app, settings, folder))
    # What waits, and for how long, is up to the service.
    blocks.queue(max_size=settings.queue, default_concurrency_limit=None)
    gr.mount_gradio_app(
        app,
        blocks,
        PATH,
        footer_links=[],
        run_history=False,
        max_file_size=settings.max_body,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=CSS,
    )
    app.add_middleware(PageDoor, settings=settings, folder=str(folder))
    running = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def with_folder(of: Any) -> AsyncIterator[Any]:
        try:
            async with running(of) as state:
                yield state
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    app.router.lifespan_context = with_folder
