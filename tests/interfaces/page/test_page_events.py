"""What the page's buttons do, asked as the browser asks, hostile values included; and which tabs there are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.http_service import RunningService, service_with_page

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery

ENTRIES = gallery()
TEDDY = Path(ENTRIES[0]["path"])


class Page:
    """The page of a service, as its script sees it."""

    def __init__(self, service: RunningService) -> None:
        self.service = service
        self.config = service.get("/page/config").json()
        self._names = {
            each["id"]: each["props"].get("elem_id") or each["props"].get("value") for each in self.config["components"]
        }
        self._asked = 0

    def text(self) -> str:
        """All that the page says before anything is asked."""
        return json.dumps(self.config["components"])

    def upload(self, content: bytes) -> dict[str, Any]:
        """What the script says of a picture that it uploaded."""
        files = {"files": ("picture.png", content)}
        (path,) = self.service.client.post("/page/gradio_api/upload", files=files).json()
        return {"path": path, "orig_name": "picture.png", "meta": {"_type": "gradio.FileData"}}

    def ask(self, name: str, event: str, *data: Any, event_data: Any = None) -> list[Any]:
        """What an event of a component, called by its id or by a button's text, shows: the value of each output."""
        wanted = [key for key, value in self._names.items() if value == name]
        index = next(
            each["id"] for each in self.config["dependencies"] if [wanted[0], event] in map(list, each["targets"])
        )
        self._asked += 1
        session = f"session{self._asked}"
        body = {"data": list(data), "fn_index": index, "session_hash": session, "event_data": event_data}
        assert self.service.post("/page/gradio_api/queue/join", body).status_code == 200
        with self.service.client.stream("GET", f"/page/gradio_api/queue/data?session_hash={session}") as answer:
            for line in answer.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    return [
                        each.get("value") if isinstance(each, dict) and "__type__" in each else each
                        for each in message["output"]["data"]
                    ]
        raise AssertionError("no answer")

    def error(self, name: str, event: str, *data: Any, event_data: Any = None) -> str:
        """The error that an event shows; nothing else is shown then."""
        error, *others = self.ask(name, event, *data, event_data=event_data)
        assert not any(others) and error.startswith('<p class="problem" role="alert">'), (error, others)
        return error.partition(">")[2].removesuffix("</p>")


@pytest.fixture(scope="module")
def page(service: RunningService) -> Page:
    return Page(service)


@pytest.fixture(scope="module")
def teddy(page: Page) -> dict[str, Any]:
    return page.upload(TEDDY.read_bytes())


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    return ite.load("blip_demo")


def captions(results: list[dict[str, Any]]) -> list[str]:
    return [each["caption"] for each in results]


def test_a_search_with_words(page: Page, model: ite.Encoder) -> None:
    error, about, results, searched, *maps = page.ask("search-words", "submit", " a teddy bear ", False)
    assert (error, searched, maps) == ("", "a teddy bear", ["", []]) and "The best 12, by cosine" in about
    scores = model.encode_text("a teddy bear") @ model.encode_image([Path(each["path"]) for each in ENTRIES]).T
    best = scores.argsort()[::-1][:12]
    expected = [f"{rank}.  {scores[i]:.2f}  {ENTRIES[i]['caption']}" for rank, i in enumerate(best, 1)]
    assert captions(results) == expected and best[0] == 0  # the teddy bear is the first
    # A button with these words does the same.
    assert captions(page.ask("a teddy bear", "click", False)[2]) == expected


def test_a_search_that_re_ranks(page: Page, model: ite.Encoder) -> None:
    _, about, results, *_ = page.ask("search-words", "submit", "a teddy bear", True)
    assert "by how well they match" in about
    paths = [Path(each["path"]) for each in ENTRIES]
    best = (model.encode_text("a teddy bear") @ model.encode_image(paths).T).argsort()[::-1][:24]
    ranked = model.rerank("a teddy bear", [paths[i] for i in best])[:12]
    expected = [f"{rank}.  {score:.2f}  {ENTRIES[best[i]]['caption']}" for rank, (i, score) in enumerate(ranked, 1)]
    assert captions(results) == expected


def test_a_search_with_a_picture(page: Page) -> None:
    for path in (5, 11):
        _, _, results, searched, *_ = page.ask(
            "search-picture", "input", page.upload(Path(ENTRIES[path]["path"]).read_bytes())
        )
        assert captions(results)[0] == f"1.  1.00  {ENTRIES[path]['caption']}" and searched == ""


def test_the_words_of_a_result(page: Page) -> None:
    _, _, results, searched, *_ = page.ask("search-words", "submit", "a teddy bear", False)
    chosen = {"event_data": {"index": 1, "value": {}}}
    error, about, panels = page.ask("search-results", "select", results, searched, **chosen)
    assert error == "" and "“a teddy bear” matches the picture with probability 0." in about
    assert captions(panels) == ["the picture", "a", "teddy", "bear"]
    picture = page.service.get(f"/page/gradio_api/file={panels[0]['image']['path']}")
    assert picture.headers["content-type"] == "image/webp"
    assert "search with words" in page.error("search-results", "select", results, "", **chosen)
    for index in (12, -1, "1", None, [0, 1]):
        hostile = {"event_data": {"index": index, "value": {}}}
        assert "Search again" in page.error("search-results", "select", results, searched, **hostile)


def test_the_other_tabs(page: Page, teddy: dict[str, Any], model: ite.Encoder) -> None:
    texts = ["a teddy bear on a skateboard", "<b>two dogs</b>"]
    error, shown = page.ask("Match", "click", teddy, "\n \n".join(texts), "blip_demo")
    assert error == "" and "<b>two" not in shown  # what users type is shown as they typed it
    for text, probability in zip(
        ("a teddy bear on a skateboard", "&lt;b&gt;two dogs&lt;/b&gt;"), model.match([TEDDY] * 2, texts)
    ):
        assert f"<li><span>{text}<b>{probability:.3f}</b></span>" in shown
    assert page.ask("Caption", "click", teddy, "", "blip_demo")[1] == f'<p class="sentence">{model.caption(TEDDY)}</p>'
    prompted = page.ask("Caption", "click", teddy, "two", "blip_demo")[1]
    assert prompted == f'<p class="sentence">{model.caption(TEDDY, "two")}</p>'
    question = "what is on the skateboard?"
    answer = page.ask("Ask", "click", teddy, question, "", "blip_demo")[1]
    assert answer == f'<p class="sentence">{model.answer(TEDDY, question)}</p>'
    ranked = page.ask("Ask", "click", teddy, question, "dog\nteddy bear", "blip_demo")[1]
    (best, chance), _ = model.answer(TEDDY, question, choices=["dog", "teddy bear"])
    assert f'<p class="sentence">{best}</p>' in ranked and f"<b>{chance:.3f}</b>" in ranked
    _, about, panels = page.ask("Explain", "click", teddy, "a teddy bear", "blip_demo")
    assert captions(panels) == ["a", "teddy", "bear"]
    assert f"probability {model.match(TEDDY, 'a teddy bear'):.3f}" in about


def test_errors_are_sentences(page: Page, teddy: dict[str, Any]) -> None:
    assert page.error("search-words", "submit", "  ", False) == "Type what the picture shows."
    assert "nothing to encode" in page.error("search-words", "submit", "!!!", False).lower()
    assert "at most 10000 characters" in page.error("search-words", "submit", "x" * 10_001, False)
    assert page.error("Match", "click", None, "a", "blip_demo") == "Choose a picture first."
    assert page.error("Match", "click", teddy, "\n", "blip_demo") == "Type one or more texts, one in a line."
    assert page.error("Ask", "click", teddy, "", "", "blip_demo") == "Type a question."
    assert page.error("Explain", "click", teddy, None, "blip_demo") == "Type a text."
    broken = page.upload(b"this is no picture")
    assert page.error("Caption", "click", broken, "", "blip_demo").startswith("Expected a picture (JPEG, PNG")
    assert "Expected every answer once" in page.error("Ask", "click", teddy, "what?", "a\na", "blip_demo").replace(
        "Choices: e", "E"
    )
    assert page.error("Caption", "click", teddy, "", "<b>").startswith("Unknown model &#x27;&lt;b&gt;&#x27;")


def test_no_file_is_read_because_the_browser_names_it(page: Page, tmp_path: Path) -> None:
    copy = tmp_path / "teddy.jpg"
    copy.write_bytes(TEDDY.read_bytes())
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    (folder / "link.jpg").symlink_to(copy)
    gone = "The picture is not there any more: choose it again."
    for path in (copy, TEDDY, folder / "link.jpg", folder / ".." / tmp_path.name / "teddy.jpg", folder):
        assert page.error("Caption", "click", {"path": str(path)}, "", "blip_demo") == gone
    results = [{"image": {"path": str(copy)}, "caption": None}]
    assert page.error("search-results", "select", results, "a", event_data={"index": 0, "value": {}}) == gone
    for value in (
        {},
        {"path": None},
        {"path": ""},
        {"path": "a\0"},
        {"url": f"data:,{copy}"},
        {"url": f"file://{copy}"},
    ):
        assert page.error("Caption", "click", value, "", "blip_demo") == "Choose a picture first."


def test_unforeseen_failures_are_sentences(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_text_embedding.interfaces.page import page_tasks

    monkeypatch.setattr(page_tasks.look, "sentence", None)
    teddy = page.upload(TEDDY.read_bytes())
    assert page.error("Caption", "click", teddy, "", "blip_demo") == "The server failed; its log says why."


def test_the_gallery_and_the_models_of_the_server(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    uri, photo, moved = tmp_path / "gallery.db", tmp_path / "bear.jpg", tmp_path / "moved.png"
    photo.write_bytes(TEDDY.read_bytes())
    moved.write_bytes(Path(ENTRIES[5]["path"]).read_bytes())
    with ite.Gallery.open(uri, "albef_demo") as gallery:
        gallery.add([photo, moved])
    moved.write_bytes(Path(ENTRIES[7]["path"]).read_bytes())  # another picture has its name now
    with service_with_page(models=("albef_demo",), gallery=str(uri)) as service:
        page = Page(service)
        # This model has no captions.
        text = page.text()
        assert "No model of this server can caption" in text
        assert "No model of this server can match" not in text and "Searches the gallery of this server" in text
        _, about, results, *_ = page.ask("search-words", "submit", "a teddy bear", False)
        assert "The best 2" in about and sorted(each.split()[-1] for each in captions(results)) == [
            "bear.jpg",
            "moved.png",
        ]
        shown = [service.get(f"/page/gradio_api/file={each['image']['path']}").content for each in results]
        assert len(set(shown)) == 2
        assert (
            page.ask("search-results", "select", results, "a teddy bear", event_data={"index": 0, "value": {}})[0] == ""
        )


def test_what_it_writes_is_removed() -> None:
    with service_with_page() as service:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        page = Page(service)
        page.upload(b"x")
        assert list(folder.iterdir()) and folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
