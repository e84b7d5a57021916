"""The commands of one task on a few pictures: `match`, `classify`, `caption`, `ask`, `reason`, `entail`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from image_text_embedding.interfaces.cli.options import AsJson, Device, RequiredModel, load_model
from image_text_embedding.interfaces.cli.output import print_json, print_result
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
    model: RequiredModel = "blip_demo",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score how well a text matches pictures (ITM probability).

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """

    given, text = pictures_and_text(words, "TEXT")
    pictures = find_pictures(given)
    found, failed = run_on_pictures(
        pictures, lambda items: load_model(model, device).match(items, text, on_error="skip")
    )
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
