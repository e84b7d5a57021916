"""The commands `index`, `search` and `evaluate`: a searchable index of pictures and texts, and retrieval benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from image_text_embedding.foundation.errors import ImageError, InputError
from image_text_embedding.foundation.terminal_text import print_line
from image_text_embedding.inputs.url_fetch import display_url, is_url
from image_text_embedding.interfaces.cli.options import AsJson, BatchSize, Device, ListedModel
from image_text_embedding.interfaces.cli.output import (
    print_json,
    print_passed_over,
    print_result,
    print_skipped,
    print_table,
)
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
    from image_text_embedding.retrieval.gallery import Gallery
    from image_text_embedding.retrieval.gallery_indexing import index_collection as run

    with Gallery.open(uri, model, collection=collection, token=token, timeout=timeout, device=device) as gallery:
        summary = run(gallery, source, batch_size, modality=modality, column=column)
        size, model_name = len(gallery), (gallery.manifest or {}).get("model")
    print_passed_over(summary.passed_over)
    for _, error in summary.errors:
        print_skipped(error)
    if as_json:
        row = {"total": summary.total, "new": summary.new, "failed": len(summary.errors)}
        print_json({**row, "size": size, "model": model_name}, indent=None)
    else:
        already = summary.total - summary.new - len(summary.errors)
        counts = f"{summary.new} new, {already} already there, {len(summary.errors)} left out"
        print_result(f"{counts}; {display_url(uri) if is_url(uri) else uri} holds {size} ({model_name})")
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
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find the pictures, videos or texts in an index that best fit a text or a picture.

    ITC is the cosine of the vectors, ITM the matching logit of re-ranked results; results are sorted by the score.
    """
    if (text is None) == (image is None):
        raise typer.BadParameter("expected either a TEXT or --image PICTURE")
    if find not in ("image", "video", "text"):
        raise typer.BadParameter(f"--find: expected image, video or text, got {find!r}")
    from image_text_embedding.retrieval.gallery import Gallery

    with Gallery.open(uri, model, collection=collection, token=token, timeout=timeout, device=device) as gallery:
        query, modality = (text, "text") if image is None else (image, "image")
        results = gallery.search(query, count, rerank, modality=modality, find=find)
        model_name = (gallery.manifest or {}).get("model", "")
        size = len(gallery)
    if as_json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        _print_results(results)
    about = f"{len(results)} of {size}, {model_name}" + (f", the best {rerank} re-ranked" if rerank else "")
    try:
        _draw(text, image, results, sheet, page, about)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or sheet or page}: {error.strerror or error}") from error


def evaluate(
    images: Annotated[Path, typer.Option(metavar="DIR", help="The folder of pictures, or of videos.")],
    captions: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="The Karpathy split: dataset_coco.json or dataset_flickr30k.json."),
    ] = None,
    nlvr2: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Instead: statements of NLVR2 about two pictures each.")
    ] = None,
    refcoco: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Instead: phrases of RefCOCO+ for things in pictures.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(metavar="JSONL", help="Instead: captions of videos, as MSRVTT's msrvtt_test.jsonl.")
    ] = None,
    model: ListedModel = "blip_demo",
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    rerank: Annotated[
        int,
        typer.Option(
            metavar="K", min=0, help="How many candidates to re-rank: the papers use 256 on COCO, 128 on Flickr30k."
        ),
    ] = 128,
    batch_size: BatchSize = 32,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model as in the papers.

    --captions: R@1, R@5 and R@10 in both directions, by vectors (ITC) and re-ranked (ITM). --nlvr2: accuracy with the
    pictures in the given order, exchanged, and the mean, which BLIP's paper reports. --refcoco: accuracy of the boxes.
    --videos: as --captions, with the median rank, by eight frames of each video.
    """
    given = {"--captions": captions, "--nlvr2": nlvr2, "--refcoco": refcoco, "--videos": videos}
    if sum(path is not None for path in given.values()) != 1:
        raise typer.BadParameter(f"expected one of {', '.join(given)}")
    if nlvr2 is not None:
        _print_nlvr2(model, nlvr2, images, batch_size, device, as_json)
        return
    if refcoco is not None:
        _print_refcoco(model, refcoco, images, batch_size, device, as_json)
        return
    if videos is not None:
        _print_videos(model, videos, images, rerank, device, as_json)
        return
    assert captions is not None
    from image_text_embedding.inference.loading import load
    from image_text_embedding.retrieval.evaluation.karpathy_benchmark import evaluate as run
    from image_text_embedding.retrieval.evaluation.karpathy_benchmark import read_karpathy

    data = read_karpathy(captions, images, split)
    result = run(load(model, device=device), data, rerank, batch_size)
    recalls = {"ITC": result.itc} | ({f"ITM on the best {rerank}": result.reranked} if result.reranked else {})
    if as_json:
        rows = {"itc": result.itc._asdict(), "reranked": result.reranked and result.reranked._asdict()}
        sizes = {"pictures": len(data.pictures), "captions": len(data.captions)}
        print_json({"model": model, "split": split, "rerank": rerank, **sizes, **rows})
        return
    lines = []
    for name, recall in recalls.items():
        to_pictures, to_texts = ([f"{100 * shares[k]:.1f}" for k in (1, 5, 10)] for shares in reversed(recall))
        lines.append((name, "", *to_pictures, "", *to_texts))
    header = ("", "text → picture", "R@1", "R@5", "R@10", "picture → text", "R@1", "R@5", "R@10")
    title = f"{model}: {len(data.pictures)} pictures, {len(data.captions)} captions ({split})"
    print_table(lines, header, right=(2, 3, 4, 6, 7, 8), title=title)


def _print_results(results: Sequence[SearchResult]) -> None:
    reranked = any(result.itm is not None for result in results)
    rows = []
    for number, result in enumerate(results, 1):
        itm = [] if not reranked else ["-" if result.itm is None else f"{result.itm:.3f}"]
        shown = result.path or result.text or result.id
        rows.append((number, f"{result.score:.3f}", f"{result.itc:.3f}", *itm, shown))
    header = ("", "score", "ITC", *(["ITM"] if reranked else []), "found")
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
        print_line(results_page(query, results, pictures, about, page), error=True)


def _print_nlvr2(model: str, file: Path, images: Path, batch_size: int, device: str | None, as_json: bool) -> None:
    """Print a model's accuracy on NLVR2."""
    from image_text_embedding.inference.loading import load
    from image_text_embedding.retrieval.evaluation.nlvr2_benchmark import evaluate_nlvr2, read_nlvr2

    encoder = load(model, device=device)
    encoder.runtime.require("reason")
    statements = read_nlvr2(file, images)
    found = evaluate_nlvr2(encoder, statements, batch_size)
    figures = {"given": found.given, "swapped": found.swapped, "mean": found.mean}
    if as_json:
        print_json({"model": model, "statements": len(statements), "accuracy": figures})
        return
    print_result(f"{model}: accuracy on {len(statements)} statements")
    for order, accuracy in figures.items():
        print_result(f"{order:8} {100 * accuracy:.2f}")


def _print_refcoco(model: str, file: Path, images: Path, batch_size: int, device: str | None, as_json: bool) -> None:
    """Print a model's grounding accuracy on RefCOCO."""
    from image_text_embedding.inference.loading import load
    from image_text_embedding.retrieval.evaluation.refcoco_benchmark import evaluate_refcoco, read_refcoco

    encoder = load(model, device=device)
    encoder.runtime.require("match")
    accuracies = evaluate_refcoco(encoder, read_refcoco(file, images), batch_size)
    if as_json:
        rows = {split: dataclasses.asdict(found) for split, found in accuracies.items()}
        print_json({"model": model, "accuracy": rows})
        return
    print_result(f"{model}: accuracy by the best of the detected boxes, and by the box found in the map")
    for split, found in accuracies.items():
        detections = "-" if found.detections is None else f"{100 * found.detections:.2f}"
        print_result(f"{split:8} {detections:>6} {100 * found.found:6.2f}  ({found.count} phrases)")


def _print_videos(model: str, file: Path, folder: Path, rerank: int, device: str | None, as_json: bool) -> None:
    """Print how well captions find videos, and videos captions."""
    from image_text_embedding.inference.loading import load
    from image_text_embedding.retrieval.evaluation.video_benchmark import evaluate_videos, read_msrvtt

    data = read_msrvtt(file, folder)
    result = evaluate_videos(load(model, device=device), data, rerank)
    rankings = {"itc": result.itc, "reranked": result.reranked}
    if as_json:
        rows = {
            name: ranking
            and {
                "video_to_text": ranking.recall.image_to_text,
                "text_to_video": ranking.recall.text_to_image,
                "median_rank": ranking.median_rank,
            }
            for name, ranking in rankings.items()
        }
        sizes = {"videos": len(data.videos), "captions": len(data.captions)}
        print_json({"model": model, "rerank": rerank, **sizes, **rows})
        return
    lines = []
    for name, ranking in (("ITC", result.itc), (f"ITM on the best {rerank}", result.reranked)):
        if ranking is not None:
            shares = ([f"{100 * each[k]:.1f}" for k in (1, 5, 10)] for each in reversed(ranking.recall))
            to_videos, to_texts = shares
            lines.append((name, "", *to_videos, f"{ranking.median_rank:g}", "", *to_texts))
    header = ("", "text → video", "R@1", "R@5", "R@10", "MdR", "video → text", "R@1", "R@5", "R@10")
    title = f"{model}: {len(data.videos)} videos, {len(data.captions)} captions"
    print_table(lines, header, right=(2, 3, 4, 5, 7, 8, 9), title=title)
