"""The commands `index` and `search`: a searchable index of pictures, videos and texts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.terminal_text import print_line
from image_text_embedding.inputs.url_fetch import display_url, is_url
from image_text_embedding.interfaces.cli.options import AsJson, Backend, BatchSize, Device, given
from image_text_embedding.interfaces.cli.output import (
    print_json,
    print_passed_over,
    print_result,
    print_skipped,
    print_table,
)
from image_text_embedding.interfaces.cli.picture_arguments import require_found, require_picture_file
from image_text_embedding.models.config_files import list_models

if TYPE_CHECKING:
    from PIL.Image import Image

    from image_text_embedding.retrieval.gallery import SearchResult


Uri = Annotated[
    str,
    typer.Option(metavar="URI", help="The index: a file ending in .db, or a Milvus server (http://host:19530)."),
]

Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A name that `models` lists, a Hugging Face id or a file; the default is the index's model (blip_demo if new).",
        autocompletion=list_models,
        show_default=False,
    ),
]

CollectionName = Annotated[str, typer.Option(metavar="NAME", help="The collection in the index.")]

Token = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", envvar="MILVUS_TOKEN", help="user:password or an API key for the server."),
]

Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0, max=86_400, help="How long to wait for the server.")]


def index(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder that `embed` wrote, or a folder of pictures, a glob, a list of texts (.txt), a table (.csv, .tsv, "
            ".jsonl, .parquet) or a tar.",
        ),
    ],
    uri: Uri = "gallery.db",
    model: Model = None,
    collection: CollectionName = "gallery",
    token: Token = None,
    timeout: Timeout = 30.0,
    modality: Annotated[
        str | None,
        typer.Option(
            metavar="image|video|text",
            help="The default is text for a .txt file and a table without pictures. With video: a folder, a glob or a file.",
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of a table to add, if its name is not a common one.")
    ] = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Add pictures, videos or texts to an index for `search`. Run it again to resume or update: nothing is added twice.

    Items that cannot be read are named on stderr and left out; the exit code is then 1.
    """
    from image_text_embedding.inputs.collections.source_paths import expand_paths
    from image_text_embedding.retrieval.gallery_indexing import find_videos
    from image_text_embedding.retrieval.gallery_indexing import index_collection as run

    # Raises if there is none, before a model is loaded.
    find_videos(source) if modality == "video" else expand_paths([str(source)])
    from image_text_embedding.retrieval.gallery import Gallery

    with Gallery.open(uri, model, collection=collection, token=token, timeout=timeout, device=device) as gallery:
        summary = run(gallery, source, batch_size, modality=modality, column=column)
        size, model_name = len(gallery), (gallery.manifest or {}).get("model")
    print_passed_over(summary.passed_over)
    for _, error in summary.errors:
        print_skipped(error)
    if as_json:
        row = {
            "total": summary.total,
            "new": summary.new,
            "duplicates": summary.repeated,
            "failed": len(summary.errors),
        }
        print_json({**row, "size": size, "model": model_name}, indent=None)
    else:
        already = summary.total - summary.new - summary.repeated - len(summary.errors)
        kind = {"image": "picture"}.get(summary.modality, summary.modality)
        noun = f"new {kind}{'s' * (summary.new != 1)}"
        duplicates = f"duplicate{'s' * (summary.repeated != 1)}"
        others = {"already there": already, duplicates: summary.repeated, "left out": len(summary.errors)}
        counts = [f"{summary.new} {noun}", *(f"{count} {what}" for what, count in others.items() if count)]
        print_result(f"{', '.join(counts)}; {display_url(uri) if is_url(uri) else uri} holds {size} ({model_name})")
    if summary.errors:
        raise typer.Exit(1)


def search(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The text to search with.", show_default=False)
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="The picture to search with instead: a path or a URL.")
    ] = None,
    uri: Uri = "gallery.db",
    count: Annotated[int, typer.Option("-k", min=1, help="How many results to show.")] = 10,
    rerank: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Re-rank the best N by ITM, which reads text and picture together."),
    ] = 0,
    find: Annotated[str, typer.Option(metavar="KIND", help="What to search for: image, video or text.")] = "image",
    sheet: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Write the pictures found as a contact sheet.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="HTML", help="Write an HTML page with pictures and scores.")
    ] = None,
    model: Model = None,
    collection: CollectionName = "gallery",
    token: Token = None,
    timeout: Timeout = 30.0,
    backend: Backend = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find the pictures, videos or texts in an index that best fit a text or a picture.

    The score is the cosine of the vectors (ITC); where results were re-ranked, the matching logit (ITM) decides, too.
    """
    if (text is None) == (image is None):
        raise typer.BadParameter("expected either a TEXT or --image PICTURE")
    if find not in ("image", "video", "text"):
        raise typer.BadParameter(f"--find: expected image, video or text, got {find!r}")
    if image is not None:
        require_found(image)
    if sheet is not None:
        require_picture_file(sheet, "--sheet")
    if not is_url(uri) and not os.path.exists(uri):
        model = None  # the search says that there is no index; no model needs to be loaded for that
    from image_text_embedding.retrieval.gallery import Gallery

    query, modality = (text, "text") if image is None else (image, "image")
    # Without re-ranking, one tower computes all that is needed.
    options = {"device": device, **given(backend=backend, modality=None if rerank else modality)}
    with Gallery.open(uri, model, collection=collection, token=token, timeout=timeout, **options) as gallery:
        results = gallery.search(query, count, rerank, modality=modality, find=find)
        model_name = (gallery.manifest or {}).get("model", "")
        size = len(gallery)
    if as_json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        _print_results(results)
    about = f"{len(results)} of {size}, {model_name}" + (f", the best {rerank} re-ranked" if rerank else "")
    try:
        _draw(text, image, results, sheet, page, about, find)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or sheet or page}: {error.strerror or error}") from error


def _print_results(results: Sequence[SearchResult]) -> None:
    reranked = any(result.itm is not None for result in results)
    rows = []
    for number, result in enumerate(results, 1):
        # Without re-ranking, the score is the cosine.
        parts = [f"{result.itc:.3f}", "-" if result.itm is None else f"{result.itm:.3f}"] if reranked else []
        shown = result.path or result.text or result.id
        rows.append((number, f"{result.score:.3f}", *parts, shown))
    header = ("", "score", *(["ITC", "ITM"] if reranked else []), "found")
    print_table(rows, header, right=range(len(header) - 1))


def _shown(result: SearchResult) -> Image:
    """The picture of a result; of a video, its first frame."""
    from PIL import Image as PILImage

    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.inputs.video.video_loading import load_video

    if result.kind == "video":
        return PILImage.fromarray(load_video(result.path, 1)[0])
    return load_picture(result.path)


def _draw(
    text: str | None,
    image: str | None,
    results: Sequence[SearchResult],
    sheet: Path | None,
    page: Path | None,
    about: str,
    find: str,
) -> None:
    if sheet is None and page is None:
        return
    from image_text_embedding.inference.visualization.contact_sheet import contact_sheet
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.retrieval.results_page import PAGE_THUMBNAIL_SIDE, results_page

    pictures: list[Image | None] = []
    for result in results:
        try:
            picture = None if result.path is None else _shown(result)
            if picture is not None:
                # Shrunk one by one: a hundred full-size photos take gigabytes.
                picture.thumbnail((PAGE_THUMBNAIL_SIDE, PAGE_THUMBNAIL_SIDE))
            pictures.append(picture)
        except ImageError as error:
            print_line(f"not shown: {error}", error=True)
            pictures.append(None)
    if sheet is not None:
        shown = [(picture, result) for picture, result in zip(pictures, results) if picture is not None]
        if not shown:
            raise InputError("--sheet: expected pictures to draw, got none that can be read (--html also shows texts)")
        captions = [f"{result.score:.3f}  {Path(result.path or '').name}" for _, result in shown]
        title = f"{text or image} ({about})"
        print_line(contact_sheet([picture for picture, _ in shown], captions, title, sheet), error=True)
    if page is not None:
        query: Any = text if image is None else load_picture(image)
        print_line(results_page(query, results, pictures, about, page, find), error=True)
