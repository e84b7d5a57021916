"""The commands of one task: `match`, `classify`, `caption`, `ask`, `reason`, `entail`, and `score` for files of requests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from image_text_embedding.foundation.errors import InputError
from image_text_embedding.interfaces.cli.options import AsJson, BatchSize, Device, RequiredModel, load_model
from image_text_embedding.interfaces.cli.output import print_json, print_note, print_result
from image_text_embedding.interfaces.cli.picture_arguments import (
    PICTURES_HELP,
    Pictures,
    find_pictures,
    pictures_and_text,
    print_results,
    require_found,
    run_on_pictures,
)


def match(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE... TEXT",
            help=f"{PICTURES_HELP} Then the text to compare with each picture.",
            show_default=False,
        ),
    ],
    video: Annotated[bool, typer.Option("--video", help="They are videos: eight frames stand for each.")] = False,
    model: RequiredModel = "blip_demo",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score how well a text matches pictures, or videos (ITM probability).

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """

    given, text = pictures_and_text(words, "TEXT")
    pictures = find_pictures(given)

    def compute(items: list[Any]) -> Any:
        encoder = load_model(model, device)
        return (encoder.match_video if video else encoder.match)(items, text, on_error="skip")

    found, failed = run_on_pictures(pictures, compute)
    print_results(pictures, [each if each is None else float(each) for each in found], failed, "probability", as_json)


def classify(
    images: Pictures,
    label: Annotated[list[str], typer.Option(metavar="LABEL", help="A possible label; repeat it to give several.")],
    model: RequiredModel = "blip_demo",
    method: Annotated[
        str, typer.Option(metavar="itc|itm", help="By cosines, or by matching, which is slower and more accurate.")
    ] = "itc",
    prompt: Annotated[str | None, typer.Option(help="Stands before each label, such as 'a picture of '.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Choose the label that fits each picture best, with the probability of each (zero-shot classification).

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """

    pictures = find_pictures(images)
    found, failed = run_on_pictures(
        pictures,
        lambda items: load_model(model, device).classify(items, label, method=method, prompt=prompt, on_error="skip"),
    )
    print_results(pictures, found if as_json else _format_choices(found), failed, "labels", as_json)


def _format_choices(found: list[Any]) -> list[Any]:
    """(choice, probability) pairs as a line for each picture."""
    return [each and ", ".join(f"{choice} ({p:.3f})" for choice, p in each) for each in found]


def caption(
    images: Pictures,
    model: RequiredModel = "blip_demo",
    prompt: Annotated[str | None, typer.Option(help="The start of the sentence.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Describe each picture in a sentence.

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """

    pictures = find_pictures(images)
    found, failed = run_on_pictures(
        pictures, lambda items: load_model(model, device).caption(items, prompt, on_error="skip")
    )
    print_results(pictures, found, failed, "caption", as_json)


def ask(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE... QUESTION",
            help=f"{PICTURES_HELP} Then the question about each picture.",
            show_default=False,
        ),
    ],
    model: RequiredModel = "blip_demo",
    choice: Annotated[
        list[str] | None, typer.Option(metavar="ANSWER", help="A possible answer; repeat it to give several.")
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question about pictures.

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """

    given, question = pictures_and_text(words, "QUESTION")
    pictures = find_pictures(given)
    answers, failed = run_on_pictures(
        pictures, lambda items: load_model(model, device).answer(items, question, choice or None, on_error="skip")
    )
    if choice and not as_json:
        answers = _format_choices(answers)
    print_results(pictures, answers, failed, "answer", as_json)


def reason(
    left: Annotated[str, typer.Argument(metavar="LEFT", help="The left picture: a path or URL.")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="The right picture: a path or URL.")],
    statement: Annotated[str, typer.Argument(metavar="STATEMENT", help="What to judge, such as 'both show a dog'.")],
    model: RequiredModel = "blip_nlvr",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compute the probability that a statement about two pictures is true (NLVR2)."""

    (left, right), statement = pictures_and_text((left, right, statement), "STATEMENT")
    require_found(left, "the left picture: ")
    require_found(right, "the right picture: ")
    probability = load_model(model, device).reason((left, right), statement)
    row = {"left": left, "right": right, "statement": statement, "probability": probability}
    if as_json:
        print_json(row)
    else:
        print_result(f"{probability:.3f}")


def entail(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE... HYPOTHESIS",
            help=f"{PICTURES_HELP} Then the sentence to judge by each picture.",
            show_default=False,
        ),
    ],
    model: RequiredModel = "albef_ve",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compute the probabilities that pictures entail a sentence, contradict it, or neither (SNLI-VE).

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """

    given, hypothesis = pictures_and_text(words, "HYPOTHESIS")
    pictures = find_pictures(given)
    found, failed = run_on_pictures(
        pictures, lambda items: load_model(model, device).entail(items, hypothesis, on_error="skip")
    )
    if not as_json:
        found = [each and ", ".join(f"{name} {chance:.3f}" for name, chance in each.items()) for each in found]
    print_results(pictures, found, failed, "probabilities", as_json)


def score(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A request (.json), JSON lines of requests or of {image, text} records (.jsonl), or a folder of .csv files.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the records.")],
    model: RequiredModel = "blip_demo",
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="caption, answer, embed, classify or match; the default is what the columns suggest.",
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score requests in the schema of the AzureML registry's models, as the server's /score does.

    After a stop, run the same command again to resume .jsonl and .csv. A row that cannot be used gets an error as its record;
    the exit code is then 1.
    """
    from image_text_embedding.interfaces.scoring.batch_scoring import BatchScorer

    if not source.exists():
        raise InputError(f"cannot read {source}: there is no such file or folder")
    scorer = BatchScorer(load_model(model, device), task, batch_size)
    try:
        summary = scorer.score_file(source, out)
    except KeyboardInterrupt as stopped:
        print_note("stopped; what is finished is saved, run the same command again to resume")
        raise typer.Exit(130) from stopped
    if as_json:
        print_json(dataclasses.asdict(summary), indent=None)
    else:
        already = f", {summary.already:,} lines already there" if summary.already else ""
        print_result(f"{summary.rows:,} rows, {summary.failed:,} failed{already}; {out}")
    if summary.failed:
        raise typer.Exit(1)
