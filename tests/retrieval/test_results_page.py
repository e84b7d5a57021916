"""The page of results: one file that downloads and runs nothing, with all text escaped."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("pymilvus")

from image_text_embedding.retrieval.gallery import SearchResult
from image_text_embedding.retrieval.results_page import PAGE_THUMBNAIL_SIDE, results_page

HOSTILE = "<script>alert('1')</script> \"x\" onerror=y & \x1b[31m\ud800"


class PageReader(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> PageReader:
    reader = PageReader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_a_page_is_self_contained_and_runs_nothing(tmp_path: Path) -> None:
    results = [
        SearchResult("image:1", "image", f"/photos/{HOSTILE}.jpg", HOSTILE, 1.5, 0.25, 1.25),
        SearchResult("image:2", "image", "/photos/gone.jpg", None, 0.125, 0.125),
        SearchResult("text:3", "text", None, HOSTILE, 0.1, 0.1),
    ]
    pictures = [Image.new("RGBA", (900, 300), "red"), None, None]
    path = results_page(HOSTILE, results, pictures, HOSTILE, tmp_path / "r.html")
    page = read(path)
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "p", "ol", "li", "div", "img"}
    assert {tag for tag, _ in page.tags} == allowed
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name == "href" for name in attributes)
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 1 and "://" not in path.read_text()
    thumbnail = Image.open(io.BytesIO(base64.b64decode(sources[0].removeprefix("data:image/jpeg;base64,"))))
    assert thumbnail.size == (PAGE_THUMBNAIL_SIDE, round(PAGE_THUMBNAIL_SIDE / 3))
    # Title, h1, about, two texts.
    assert page.text.count("<script>alert('1')</script>") == 5 and "\x1b" not in page.text
    for line in ("1 · score 1.500", "ITC 0.250, ITM 1.250", "gone.jpg: cannot be shown", "3 · score 0.100"):
        assert line in page.text
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script" not in policy


def test_a_picture_may_be_the_query(tmp_path: Path) -> None:
    page = read(results_page(Image.new("RGB", (10, 10)), [], [], "none of 0", tmp_path / "r.html"))
    assert [tag for tag, _ in page.tags].count("img") == 1 and "Pictures like this one" in page.text


def test_a_page_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.html"
    path.write_text("before")

    def full(self: Path, content: bytes) -> None:
        with open(self, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        results_page("x", [], [], "", path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
