"""Sphinx settings of the documentation: `python -m sphinx -W docs build/docs` builds it, with warnings as errors."""

from __future__ import annotations

from typing import Any

import typer.cli
import typer.main

import image_text_embedding
from image_text_embedding.interfaces.cli.app import app as command_line

project = "image-text-embedding"
author = "the image-text-embedding contributors"
version = release = image_text_embedding.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns: list[str] = []
default_role = "code"  # what docstrings have between single backticks

html_theme = "furo"
html_title = "image-text-embedding"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_sphinx = html_show_copyright = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def _add_commands(_: Any, page: str, source: list[str]) -> None:
    """The page of the command line contains what `--help` says, from typer's own writer of documentation."""
    if page == "reference/command-line":
        command: Any = typer.main.get_command(command_line)
        with command.make_context("image-text-embedding", [], resilient_parsing=True) as context:
            pages = typer.cli.get_docs_for_click(obj=command, ctx=context, name="image-text-embedding")
        source[0] = source[0].replace(
            "<!-- commands: written by conf.py -->", pages.partition("## ")[2].join(["## ", ""])
        )


def setup(app: Any) -> None:
    app.connect("source-read", _add_commands)
