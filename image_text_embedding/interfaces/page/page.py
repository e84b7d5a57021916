"""The page: five tabs, each with what it asks the service."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.interfaces.page import look
from image_text_embedding.interfaces.page.page_tasks import PageTasks
from image_text_embedding.interfaces.page.quiet_gradio import gr
from image_text_embedding.interfaces.page.service_client import PageError, ServiceClient
from image_text_embedding.interfaces.serving.service import Service

LOG = logging.getLogger("image_text_embedding.serving")

# Pictures of the page are deleted when they are an hour old.
CACHE = (600, 3600)

INSTANCES = ("a teddy bear", "a butterfly on a book", "two dogs")

# Without Gradio's preprocessing, which would decode pictures without our limits.
EVENT = {"preprocess": False, "api_visibility": "private", "show_progress": "minimal"}


def build_page(service: Service, client: ServiceClient) -> Any:
    """The page as Gradio's Blocks."""
    builder = _Builder(service, PageTasks(service, client))
    with gr.Blocks(title="image-text-embedding", analytics_enabled=False, delete_cache=CACHE) as blocks:
        _html(look.header([model.name for model in service.models]))
        with gr.Tabs():
            for label, task, build in (
                ("Search", "embed", builder.search),
                ("Match", "match", builder.match),
                ("Caption", "caption", builder.caption),
                ("Ask", "answer", builder.ask),
                ("Explain", "match", builder.explain),
            ):
                with gr.Tab(label):
                    names = [model.name for model in service.models if task in model.encoder.config.tasks]
                    if names:
                        build(names)
                    else:
                        _html(look.note(f"No model of this server can {task}: start it with --model of one that can."))
    return blocks


class _Builder:
    """Builds the tabs."""

    def __init__(self, service: Service, tasks: PageTasks) -> None:
        self._service, self._tasks = service, tasks

    def search(self, names: Sequence[str]) -> None:
        tasks = self._tasks
        can_match = "match" in tasks.search_model().encoder.config.tasks
        words = gr.Textbox(
            label="Words",
            placeholder="What does the picture show?",
            submit_btn="Search",
            max_lines=1,
            elem_id="search-words",
        )
        instances = []
        if not tasks.has_gallery:
            with gr.Row(elem_classes=["instances"]):
                instances = [gr.Button(text, size="sm") for text in INSTANCES]
        rerank = gr.Checkbox(
            False,
            label="Re-rank the best by matching (slower)",
            visible=can_match,
            container=False,
            elem_id="search-rerank",
        )
        with gr.Accordion("Search with a picture", open=False):
            picture = _picture(None, "search-picture")
        message, about = _message("search"), _html(look.note(tasks.about_search()))
        searched = gr.Textbox(visible=False)
        explained, panels = _html(visible=False, elem_id="search-explained"), _pictures("Word maps", "search-maps")
        results = _pictures("Results", "search-results")
        outputs = [message, about, results, searched, explained, panels]
        _on([words.submit], tasks.search_words, [words, rerank], outputs)
        for text, button in zip(INSTANCES, instances):
            _on([button.click], functools.partial(tasks.search_instance, text), [rerank], [*outputs, words])
        _on([picture.input], tasks.search_picture, [picture], outputs)
        if can_match:

            async def explain(found: Any, query: Any, event: gr.SelectData) -> Any:
                return await _attempt(outputs[-2:], tasks.explain_result(found, query, event.index))

            results.select(
                explain, [results, searched], [message, explained, panels], **EVENT, js=_scroll("search-explained")
            )

    def match(self, names: Sequence[str]) -> None:
        with gr.Row():
            with gr.Column():
                picture = _picture(_teddy(), "match-picture")
            with gr.Column():
                texts = gr.Textbox(
                    "a teddy bear on a skateboard\na dog on a skateboard\na red bus",
                    label="Texts, one in a line",
                    lines=4,
                    elem_id="match-texts",
                )
                model = _model(names)
                button = gr.Button("Match", variant="primary")
                message, result = _message("match"), _html(elem_id="match-result")
        _on([button.click], self._tasks.match, [picture, texts, model], [message, result])

    def caption(self, names: Sequence[str]) -> None:
        with gr.Row():
            with gr.Column():
                picture = _picture(_teddy(), "caption-picture")
            with gr.Column():
                prompt = gr.Textbox(label="The sentence begins with (optional)", elem_id="caption-prompt", max_lines=1)
                model = _model(names)
                button = gr.Button("Caption", variant="primary")
                message, result = _message("caption"), _html(elem_id="caption-result")
        _on([button.click, prompt.submit], self._tasks.caption, [picture, prompt, model], [message, result])

    def ask(self, names: Sequence[str]) -> None:
        with gr.Row():
            with gr.Column():
                picture = _picture(_teddy(), "ask-picture")
            with gr.Column():
                question = gr.Textbox(
                    "what is on the skateboard?", label="Question", elem_id="ask-question", max_lines=1
                )
                choices = gr.Textbox(label="Possible answers, one in a line (optional)", lines=2, elem_id="ask-choices")
                model = _model(names)
                button = gr.Button("Ask", variant="primary")
                message, result = _message("ask"), _html(elem_id="ask-result")
        _on([button.click, question.submit], self._tasks.ask, [picture, question, choices, model], [message, result])

    def explain(self, names: Sequence[str]) -> None:
        with gr.Row():
            with gr.Column():
                picture = _picture(_teddy(), "explain-picture")
            with gr.Column():
                text = gr.Textbox("a teddy bear on a skateboard", label="Text", elem_id="explain-text", max_lines=1)
                model = _model(names)
                button = gr.Button("Explain", variant="primary")
                message, result = _message("explain"), _html(elem_id="explain-result")
        panels = _pictures("Where the words are", "explain-maps")
        _on([button.click, text.submit], self._tasks.explain, [picture, text, model], [message, result, panels])


def _scroll(name: str) -> str:
    """JavaScript that shows, on a small screen, what appears there."""
    return f"""(...given) => {{
        setTimeout(() => document.getElementById('{name}')?.scrollIntoView({{behavior: 'smooth', block: 'nearest'}}), 900);
        return given; }}"""


def _picture(value: Any, name: str) -> Any:
    return gr.Image(
        value, label="Picture", type="filepath", sources=["upload", "clipboard"], height=280, elem_id=name, buttons=[]
    )


def _pictures(label: str, name: str) -> Any:
    return gr.Gallery(
        label=label,
        show_label=False,
        visible=False,
        allow_preview=False,
        object_fit="contain",
        height="auto",
        interactive=False,
        buttons=[],
        elem_id=name,
        elem_classes=["pictures"],
    )


def _html(value: str = "", **options: Any) -> Any:
    return gr.HTML(value, padding=False, **options)


def _model(names: Sequence[str]) -> Any:
    return gr.Dropdown(list(names), value=names[0], label="Model", visible=len(names) > 1)


def _message(name: str) -> Any:
    return _html(visible=False, elem_id=f"{name}-message")


def _teddy() -> str:
    return gallery()[0]["path"]


def _on(
    triggers: Sequence[Any],
    function: Callable[..., Awaitable[tuple[Any, ...]]],
    inputs: list[Any],
    outputs: list[Any],
) -> None:
    """Call an asynchronous function for an event. Its results go to all outputs but the first, which shows an error."""

    async def handle(*given: Any) -> Any:
        return await _attempt(outputs[1:], function(*given))

    gr.on(triggers, handle, inputs, outputs, **EVENT)


async def _attempt(outputs: Sequence[Any], results: Awaitable[tuple[Any, ...]]) -> list[Any]:
    """The error, or none, and the results, or nothing."""
    try:
        return [gr.update(value="", visible=False), *await results]
    except PageError as error:
        message = str(error)
    except Exception:
        LOG.exception("the page failed")
        message = "The server failed; its log says why."
    return [gr.update(value=look.problem(message), visible=True), *_cleared(outputs)]


def _cleared(outputs: Sequence[Any]) -> list[Any]:
    return [
        gr.update(value=[], visible=False) if isinstance(each, gr.Gallery) else gr.update(value="") for each in outputs
    ]
