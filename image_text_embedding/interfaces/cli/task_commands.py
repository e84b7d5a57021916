"""The commands of one task on a few pictures: `match`, `classify`, `caption`, `ask`, `reason`, `entail`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.interfaces.cli.options import AsJson, Device, RequiredModel
from image_text_embedding.interfaces.cli.output import print_json, print_result, print_skipped

Pictures = Annotated[list[str], typer.Argument(metavar="PICTURE...", help="Paths or URLs.", show_default=False)]


def match(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to compare with each picture.")],
    pictures: Pictures,
    video: Annotated[bool, typer.Option("--video", help="They are videos: eight frames stand for each.")] = False,
    model: RequiredModel = "blip_demo",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score how well a text matches pictures, or videos (ITM probability).

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """
    from image_text_embedding.inference.loading import load

    encoder = load(model, device=device)
    probabilities, errors = (encoder.match_video if video else encoder.match)(pictures, text, on_error="skip")
    _print_results(pictures, [float(each) for each in probabilities], errors, "probability", as_json)


def classify(
    pictures: Pictures,
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
    from image_text_embedding.inference.loading import load

    found, errors = load(model, device=device).classify(pictures, label, method=method, prompt=prompt, on_error="skip")
    _print_results(pictures, found if as_json else _format_choices(found), errors, "labels", as_json)


def _format_choices(found: list[Any]) -> list[Any]:
    """(choice, probability) pairs as a line for each picture."""
    return [each and ", ".join(f"{choice} ({p:.3f})" for choice, p in each) for each in found]


def caption(
    pictures: Pictures,
    model: RequiredModel = "blip_demo",
    prompt: Annotated[str | None, typer.Option(help="The start of the sentence.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Describe each picture in a sentence.

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """
    from image_text_embedding.inference.loading import load

    captions, errors = load(model, device=device).caption(pictures, prompt, on_error="skip")
    _print_results(pictures, captions, errors, "caption", as_json)


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question to ask about each picture.")],
    pictures: Pictures,
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
    from image_text_embedding.inference.loading import load

    answers, errors = load(model, device=device).answer(pictures, question, choice or None, on_error="skip")
    if choice and not as_json:
        answers = _format_choices(answers)
    _print_results(pictures, answers, errors, "answer", as_json)


def reason(
    statement: Annotated[str, typer.Argument(metavar="STATEMENT", help="What to judge, such as 'both show a dog'.")],
    left: Annotated[str, typer.Argument(metavar="LEFT", help="The left picture: a path or URL.")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="The right picture: a path or URL.")],
    model: RequiredModel = "blip_nlvr",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compute the probability that a statement about two pictures is true (NLVR2)."""
    from image_text_embedding.inference.loading import load

    probability = load(model, device=device).reason((left, right), statement)
    row = {"left": left, "right": right, "statement": statement, "probability": probability}
    if as_json:
        print_json(row)
    else:
        print_result(f"{probability:.3f}")


def entail(
    hypothesis: Annotated[str, typer.Argument(metavar="HYPOTHESIS", help="The sentence to judge by each picture.")],
    pictures: Pictures,
    model: RequiredModel = "albef_ve",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compute the probabilities that pictures entail a sentence, contradict it, or neither (SNLI-VE).

    Pictures that cannot be read are named on stderr; the exit code is then 1.
    """
    from image_text_embedding.inference.loading import load

    found, errors = load(model, device=device).entail(pictures, hypothesis, on_error="skip")
    if not as_json:
        found = [each and ", ".join(f"{name} {chance:.3f}" for name, chance in each.items()) for each in found]
    _print_results(pictures, found, errors, "probabilities", as_json)


def _print_results(
    pictures: list[str], results: list[Any], errors: list[tuple[int, EmbeddingError]], key: str, as_json: bool
) -> None:
    failed = {index: str(error) for index, error in errors}
    if as_json:
        rows = [
            {
                "picture": picture,
                key: None if i in failed else results[i],
                **({"error": failed[i]} if i in failed else {}),
            }
            for i, picture in enumerate(pictures)
        ]
        print_json(rows)
    else:
        for i, picture in enumerate(pictures):
            if i not in failed:
                value = f"{results[i]:.3f}" if isinstance(results[i], float) else results[i]
                print_result(value if len(pictures) == 1 else f"{picture}: {value}")
    for message in failed.values():
        print_skipped(message)
    if failed:
        raise typer.Exit(1)
