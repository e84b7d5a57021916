"""The command `evaluate`: the benchmarks of the papers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from image_text_embedding.interfaces.cli.options import AsJson, BatchSize, Device, ListedModel
from image_text_embedding.interfaces.cli.output import print_json, print_result, print_table


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
    captioning: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Instead: pictures of COCO or NoCaps to caption, with references if known."),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(help="For --captioning: what captions start with in the model's training; '' = nothing."),
    ] = "a picture of ",
    vqa: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Instead: questions of VQA v2, OK-VQA or A-OKVQA.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(metavar="JSONL", help="Instead: captions of videos, as MSRVTT's msrvtt_test.jsonl.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="JSON", help="For --vqa: what the annotators answered; none for a test set.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON", help="For --vqa: a list of answers to choose from; without it, answers are written."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Write the captions or answers as evaluation servers take them.")
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
    --captioning: BLEU, ROUGE-L and CIDEr of the captions. --vqa: accuracy of the answers, by the rules of the data set.
    --videos: as --captions, with the median rank, by eight frames of each video.
    """
    given = {
        "--captions": captions,
        "--nlvr2": nlvr2,
        "--refcoco": refcoco,
        "--captioning": captioning,
        "--vqa": vqa,
        "--videos": videos,
    }
    if sum(path is not None for path in given.values()) != 1:
        raise typer.BadParameter(f"expected one of {', '.join(given)}")
    if vqa is None and (annotations is not None or answers is not None):
        raise typer.BadParameter("--annotations and --answers belong to --vqa")
    if out is not None and vqa is None and captioning is None:
        raise typer.BadParameter("--out belongs to --captioning and --vqa; --json prints other results as JSON")
    if nlvr2 is not None:
        _print_nlvr2(model, nlvr2, images, batch_size, device, as_json)
        return
    if refcoco is not None:
        _print_refcoco(model, refcoco, images, batch_size, device, as_json)
        return
    if captioning is not None:
        _print_captioning(model, captioning, images, split, prompt, out, batch_size, device, as_json)
        return
    if vqa is not None:
        _print_vqa(model, vqa, images, annotations, answers, out, batch_size, device, as_json)
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


def _print_nlvr2(model: str, file: Path, images: Path, batch_size: int, device: str | None, as_json: bool) -> None:
    """Print a model's accuracy on NLVR2."""
    from image_text_embedding.inference.loading import load
    from image_text_embedding.retrieval.evaluation.nlvr2_benchmark import evaluate_nlvr2, read_nlvr2

    statements = read_nlvr2(file, images)
    encoder = load(model, device=device)
    encoder.runtime.require("reason")
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

    phrases = read_refcoco(file, images)
    encoder = load(model, device=device)
    encoder.runtime.require("match")
    accuracies = evaluate_refcoco(encoder, phrases, batch_size)
    if as_json:
        rows = {split: dataclasses.asdict(found) for split, found in accuracies.items()}
        print_json({"model": model, "accuracy": rows})
        return
    print_result(f"{model}: accuracy by the best of the detected boxes, and by the box found in the map")
    for split, found in accuracies.items():
        detections = "-" if found.detections is None else f"{100 * found.detections:.2f}"
        print_result(f"{split:8} {detections:>6} {100 * found.found:6.2f}  ({found.count} phrases)")


def _print_captioning(
    model: str,
    file: Path,
    images: Path,
    split: str,
    prompt: str,
    out: Path | None,
    batch_size: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Print the scores of a model's captions, and write the captions."""
    from image_text_embedding.inference.loading import load
    from image_text_embedding.retrieval.evaluation.caption_benchmark import (
        caption_results,
        read_captioned_pictures,
        score_captions,
        write_captions,
    )
    from image_text_embedding.retrieval.evaluation.caption_scores import require_scorers
    from image_text_embedding.retrieval.evaluation.result_files import check_result_path, write_results

    pictures = read_captioned_pictures(file, images, split)
    if pictures[0].references:
        require_scorers()
    if out is not None:
        check_result_path(out)
    encoder = load(model, device=device)
    encoder.runtime.require("caption")
    captions = write_captions(encoder, pictures, prompt=prompt or None, batch_size=batch_size)
    if out is not None:
        write_results(out, caption_results(pictures, captions))
    scores, by_domain = score_captions(pictures, captions)
    found = {} if scores is None else {"all": scores, **by_domain}
    if as_json:
        rows = {name: dataclasses.asdict(each) for name, each in found.items()}
        print_json({"model": model, "pictures": len(pictures), "scores": rows})
        return
    title = f"{model}: captions of {len(pictures)} pictures" + ("" if found else ", which have no references")
    lines = [
        (name, *(f"{100 * share:.1f}" for share in (*each.bleu, each.rouge_l, each.cider)))
        for name, each in found.items()
    ]
    if lines:
        header = ("", *(f"BLEU-{n}" for n in range(1, 5)), "ROUGE-L", "CIDEr")
        print_table(lines, header, right=range(1, 7), title=title)
    else:
        print_result(title)


def _print_vqa(
    model: str,
    file: Path,
    images: Path,
    annotations: Path | None,
    choices: Path | None,
    out: Path | None,
    batch_size: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Print a model's accuracy on VQA, and write its answers."""
    from image_text_embedding.inference.loading import load
    from image_text_embedding.inference.tasks.task_settings import AnswerSettings
    from image_text_embedding.retrieval.evaluation.result_files import check_result_path, write_results
    from image_text_embedding.retrieval.evaluation.vqa_benchmark import (
        evaluate_vqa,
        read_answer_list,
        read_vqa,
        vqa_results,
    )

    if out is not None:
        check_result_path(out)
    settings = AnswerSettings(None if choices is None else read_answer_list(choices))
    questions = read_vqa(file, images, annotations)
    encoder = load(model, device=device)
    encoder.runtime.require("answer")
    found = evaluate_vqa(encoder, questions, settings, batch_size)
    if out is not None:
        write_results(out, vqa_results(questions, found.answers))
    if as_json:
        accuracy = {"overall": found.accuracy, "by_type": found.by_type}
        print_json({"model": model, "questions": len(questions), "evaluated": found.count, "accuracy": accuracy})
        return
    print_result(f"{model}: {len(questions)} questions" + ("" if found.count else ", whose answers are unknown"))
    if found.accuracy is not None:
        for kind, share in {"overall": found.accuracy, **found.by_type}.items():
            print_result(f"{kind:8} {100 * share:.2f}")


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
