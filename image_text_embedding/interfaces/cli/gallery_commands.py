"""The commands `index`, `search` and `evaluate`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.terminal_text import printable_text
from image_text_embedding.inputs.url_fetch import display_url, is_url
from image_text_embedding.interfaces.cli.options import AsJson, BatchSize, Device
from image_text_embedding.interfaces.cli.output import console
from image_text_embedding.models.config_files import list_models

if TYPE_CHECKING:
    from PIL.Image import Image

    from image_text_embedding.retrieval.gallery import SearchResult


Uri = Annotated[
    str,
    typer.Option(metavar="URI", help="The index: a file that ends in .db, or a Milvus server (http://host:19530)."),
]

Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A name that `models` lists, a hub id or a file; the default is the index's own, of a new one blip_demo.",
        autocompletion=list_models,
        show_default=False,
    ),
]

CollectionName = Annotated[str, typer.Option(metavar="NAME", help="The collection in it.")]

Token = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", envvar="MILVUS_TOKEN", help="user:password or an API key of the server."),
]

Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="How long a call of the server may take.")]


def index(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of pictures (and those below), a folder that `embed` wrote, or a .txt file, a text in each line.",
        ),
    ],
    uri: Uri = "gallery.db",
    model: Model = None,
    collection: CollectionName = "gallery",
    token: Token = None,
    timeout: Timeout = 30.0,
    batch_size: BatchSize = 32,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Put pictures or texts into an index that `search` searches. Again, it goes on where it stopped: nothing is there twice.

    What cannot be read is named on stderr and left out; the exit code is then 1.
    """
    from image_text_embedding.retrieval.gallery import Gallery
    from image_text_embedding.retrieval.gallery_indexing import index_collection as run

    with Gallery.open(uri, model, collection=collection, token=token, timeout=timeout, device=device) as gallery:
        done = run(gallery, source, batch_size)
        size, made_with = len(gallery), (gallery.manifest or {}).get("model")
    for _, error in done.errors:
        print(f"left out: {printable_text(str(error))}", file=sys.stderr)
    if as_json:
        counts = {"total": done.total, "new": done.new, "failed": len(done.errors), "size": size, "model": made_with}
        print(json.dumps(counts))
    else:
        there, shown = done.total - done.new - len(done.errors), display_url(uri) if is_url(uri) else uri
        print(f"{done.new} new, {there} there already, {len(done.errors)} left out; {shown} holds {size} ({made_with})")
    if done.errors:
        raise typer.Exit(1)


def search(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to look for.", show_default=False)] = None,
    image: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="Look for what is like this picture: a path or a URL.")
    ] = None,
    uri: Uri = "gallery.db",
    count: Annotated[int, typer.Option("-k", min=1, help="How many to find.")] = 10,
    rerank: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Put the best N in the order of matching, which reads text and picture."),
    ] = 0,
    find: Annotated[str, typer.Option(metavar="KIND", help="What to find: image or text.")] = "image",
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the pictures as a contact sheet.")] = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="HTML", help="Write one page with pictures and scores.")
    ] = None,
    model: Model = None,
    collection: CollectionName = "gallery",
    token: Token = None,
    timeout: Timeout = 30.0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find pictures, or texts, that fit a text or a picture best.

    ITC is the cosine of the vectors; ITM the logit of matching, where re-ranked; the score is what they are ordered by.
    """
    if (text is None) == (image is None):
        raise typer.BadParameter("expected a TEXT or --image PICTURE, one of them")
    if find not in ("image", "text"):
        raise typer.BadParameter(f"--find: expected image or text, got {find!r}")
    from image_text_embedding.retrieval.gallery import Gallery

    with Gallery.open(uri, model, collection=collection, token=token, timeout=timeout, device=device) as gallery:
        query, modality = (text, "text") if image is None else (image, "image")
        found = gallery.search(query, count, rerank, modality=modality, find=find)
        made_with = (gallery.manifest or {}).get("model", "")
        size = len(gallery)
    if as_json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        console().print(_table(found))
    about = f"{len(found)} of {size}, {made_with}" + (f", the best {rerank} re-ranked" if rerank else "")
    try:
        _draw(text, image, found, sheet, page, about)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or sheet or page}: {error.strerror or error}") from error


def evaluate(
    images: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the pictures.")],
    captions: Annotated[
        Path, typer.Option(metavar="JSON", help="dataset_coco.json or dataset_flickr30k.json of the Karpathy splits.")
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A name that `models` lists.", autocompletion=list_models)
    ] = "blip_demo",
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    rerank: Annotated[
        int, typer.Option(metavar="K", min=0, help="How many of the best are re-ranked: 256 on COCO, 128 on Flickr30k.")
    ] = 128,
    batch_size: BatchSize = 32,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compute R@1, 5 and 10 of a model as the papers report them: both ways, by vectors alone (ITC) and re-ranked (ITM)."""
    from image_text_embedding.inference.loading import load
    from image_text_embedding.retrieval.evaluation.karpathy_benchmark import evaluate as run
    from image_text_embedding.retrieval.evaluation.karpathy_benchmark import read_karpathy

    data = read_karpathy(captions, images, split)
    figures = run(load(model, device=device), data, rerank, batch_size)
    ways = {"ITC": figures.itc} | ({f"ITM on the best {rerank}": figures.reranked} if figures.reranked else {})
    if as_json:
        kinds = {"itc": figures.itc, "reranked": figures.reranked}
        rows = {kind: each and each._asdict() for kind, each in kinds.items()}
        sizes = {"pictures": len(data.pictures), "captions": len(data.captions)}
        print(json.dumps({"model": model, "split": split, "rerank": rerank, **sizes, **rows}, indent=2))
        return
    table = Table(title=f"{model}: {len(data.pictures)} pictures, {len(data.captions)} captions ({split})", box=None)
    for column in ("", "text → picture", "R@1", "R@5", "R@10", "picture → text", "R@1", "R@5", "R@10"):
        if "→" not in column:
            table.add_column(column, justify="right" if column else "left")
        else:
            table.add_column(column)
    for name, each in ways.items():
        there, back = ([f"{100 * each[way][k]:.1f}" for k in (1, 5, 10)] for way in (1, 0))
        table.add_row(name, "", *there, "", *back)
    console().print(table)


def _table(found: Sequence[SearchResult]) -> Table:
    table = Table(box=None)
    matched = any(each.itm is not None for each in found)
    for column in ("", "score", "ITC", *(["ITM"] if matched else [])):
        table.add_column(column, justify="right")
    table.add_column("found", overflow="fold")
    for place, each in enumerate(found, 1):
        itm = [] if not matched else ["-" if each.itm is None else f"{each.itm:.3f}"]
        what = each.path or each.text or each.id
        table.add_row(str(place), f"{each.score:.3f}", f"{each.itc:.3f}", *itm, Text(printable_text(what)))
    return table


def _draw(
    text: str | None,
    image: str | None,
    found: Sequence[SearchResult],
    sheet: Path | None,
    page: Path | None,
    about: str,
) -> None:
    if sheet is None and page is None:
        return
    from image_text_embedding.inference.visualization.contact_sheet import contact_sheet
    from image_text_embedding.inputs.image_loading import load_picture
    from image_text_embedding.retrieval.results_page import PAGE_THUMBNAIL_SIDE, results_page

    pictures: list[Image | None] = []
    for each in found:
        try:
            picture = None if each.path is None else load_picture(each.path)
            if picture is not None:
                picture.thumbnail((PAGE_THUMBNAIL_SIDE, PAGE_THUMBNAIL_SIDE))  # at once: a hundred photos are gigabytes
            pictures.append(picture)
        except ImageError as error:
            print(f"not shown: {printable_text(str(error))}", file=sys.stderr)
            pictures.append(None)
    if sheet is not None:
        shown = [(picture, each) for picture, each in zip(pictures, found) if picture is not None]
        if not shown:
            raise InputError("--sheet: expected pictures to draw, got none that can be read (--html also shows texts)")
        captions = [f"{each.score:.3f}  {Path(each.path or '').name}" for _, each in shown]
        print(
            contact_sheet([picture for picture, _ in shown], captions, f"{text or image} ({about})", sheet),
            file=sys.stderr,
        )
    if page is not None:
        query: Any = text if image is None else load_picture(image)
        print(results_page(query, found, pictures, about, page), file=sys.stderr)
