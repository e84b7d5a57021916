"""Search results as one self-contained HTML file: thumbnails are embedded, nothing is downloaded, no script runs."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.terminal_text import printable_text

if TYPE_CHECKING:
    from image_text_embedding.retrieval.search_results import SearchResult

PAGE_THUMBNAIL_SIDE = 256  # pixels of a thumbnail's longer side

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c1c1e; }
h1 { font-size: 1.35rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
p.about { color: #666; margin: 0 0 1.4rem; }
ol { list-style: none; padding: 0; margin: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
li { border: 1px solid #ddd; border-radius: 8px; overflow: hidden; background: #fff; }
.picture { height: 12rem; display: flex; align-items: center; justify-content: center; background: #f4f4f6; color: #666;
  padding: .5rem; text-align: center; overflow: hidden; }
img { max-width: 100%; max-height: 100%; display: block; }
.query { max-height: 12rem; margin: 0 0 1rem; border-radius: 8px; }
.details { padding: .55rem .7rem .7rem; }
.score { font-weight: 600; font-variant-numeric: tabular-nums; }
.parts, .path { color: #666; font-size: .85rem; font-variant-numeric: tabular-nums; }
.path { overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { body { background: #1c1c1e; color: #eee; }
  li { background: #2a2a2d; border-color: #444; } .picture { background: #222225; }
  .parts, .path, p.about, .picture { color: #aaa; } }
"""


def results_page(
    query: str | Image.Image,
    results: Sequence[SearchResult],
    pictures: Sequence[Image.Image | None],
    about: str,
    path: str | os.PathLike[str],
    find: str = "image",
) -> Path:
    """Write a page of results, atomically. All text is escaped.

    Args:
        query: the text or picture of the search.
        results: best first.
        pictures: one per result; None for a text, and for a picture that cannot be shown.
        about: a line below the query.
        path: the HTML file.
        find: what was searched for, "image" or "text".

    Returns:
        `path`.

    Raises:
        OSError: it cannot be written.
    """
    title = query if isinstance(query, str) else f"{'Pictures like' if find == 'image' else 'Texts that fit'} this one"
    query_image = "" if isinstance(query, str) else f'<img class="query" alt="the query" src="{_thumbnail(query)}">\n'
    items = "\n".join(_item(rank, result, picture) for rank, (result, picture) in enumerate(zip(results, pictures), 1))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_safe(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{query_image}<h1>{_safe(title)}</h1>
<p class="about">{_safe(about)}</p>
<ol>
{items}
</ol>
</body>
</html>
"""
    return atomic_write(path, page.encode("utf-8", "replace"))


def _item(rank: int, result: SearchResult, picture: Image.Image | None) -> str:
    name = os.path.basename(result.path) if result.path else "no file"
    if picture is not None:
        content = f'<img alt="{_safe(result.text or name)}" src="{_thumbnail(picture)}">'
    else:
        content = _safe(result.text or "" if result.kind == "text" else f"{name}: cannot be shown")
    lines = [f'<div class="score">{rank} · score {result.score:.3f}</div>']
    if result.itm is not None:  # else the score is the cosine
        lines.append(f'<div class="parts">ITC {result.itc:.3f}, ITM {result.itm:.3f}</div>')
    if result.path:
        lines.append(f'<div class="path" title="{_safe(result.path)}">{_safe(name)}</div>')
    if result.text and result.kind == "image":
        lines.append(f"<div>{_safe(result.text)}</div>")
    return f'<li><div class="picture">{content}</div><div class="details">{"".join(lines)}</div></li>'


def _thumbnail(picture: Image.Image) -> str:
    encoded = io.BytesIO()
    small = picture.convert("RGB")
    small.thumbnail((PAGE_THUMBNAIL_SIDE, PAGE_THUMBNAIL_SIDE))
    small.save(encoded, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def _safe(text: str) -> str:
    return html.escape(printable_text(text, allowed="\n\t"))
