"""The commands that set things up: `doctor`, `samples`, and `link` and `unlink` for Towhee's local operator folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from image_text_embedding.foundation.terminal_text import print_line
from image_text_embedding.interfaces.cli.options import AsJson
from image_text_embedding.interfaces.cli.output import print_json, print_note, print_result, print_wrapped
from image_text_embedding.interfaces.towhee_operators.operator_folders import (
    Outcome,
    default_towhee_home,
    link_operators,
    unlink_operators,
)

OUTCOME_TEXTS = {
    "linked": "linked",
    "unchanged": "linked already",
    "removed": "removed",
    "theirs": "left alone, not written by this package:",
    "changed": "left alone, changed since it was written:",
}

Home = Annotated[
    Path | None,
    typer.Option(
        "--towhee-home",
        metavar="DIR",
        help="Towhee's home; the default is $TOWHEE_HOME, else ~/.towhee. Towhee 0.9.0 only looks in ~/.towhee.",
        show_default=False,
    ),
]


INDENT = 24  # of what doctor finds


def doctor(as_json: AsJson = False) -> None:
    """Check the installation: versions, devices, caches, extras, Towhee, and one vector computed; and say what to fix.

    The exit code is 1 if something is broken. An extra that is absent is no fault.
    """
    from image_text_embedding.interfaces.doctor import ABSENT, BROKEN, OK, examine

    marks = {OK: "ok", ABSENT: "-", BROKEN: "BROKEN"}
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            print_wrapped(f"{marks[finding.state]:6}  {finding.name:14}  {finding.text}", INDENT)
            if finding.fix:
                print_wrapped(f"{'':{INDENT}}{finding.fix}", INDENT)
    broken = sum(finding.state == BROKEN for finding in findings)
    if as_json:
        print_json({"ok": not broken, "findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        print_result(f"{broken} of {len(findings)} checks found a fault" if broken else "everything works")
    if broken:
        raise typer.Exit(1)


def samples(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where to write them; the default is here.", show_default=False)
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write the example pictures of the documentation: teddy.jpg, beach.jpg, dog.jpg, and photos/ with 48 pictures.

    The pictures in photos/ have their captions beside them, as `train` reads them. Nothing is overwritten.
    """
    from image_text_embedding.demo.example_pictures import write_samples

    written, left_alone = write_samples(folder)
    if as_json:
        print_json({"written": list(map(str, written)), "left_alone": list(map(str, left_alone))})
    else:
        for path in written:
            print_result(path)
    for path in left_alone:
        print_note(f"left alone, as it is something else: {path}")
    if left_alone:
        raise typer.Exit(1)


def link(towhee_home: Home = None) -> None:
    """Write Towhee's local operator folders, so that pipelines find our operators by name without an import.

    Works for Towhee 0.9 and 1.x. Writes image_text_embedding.blip and .albef, the operators of the other tasks, and
    image_decode, image_decode.cv2 and .cv2_rgb if you have none. Leaves folders alone that it did not write.
    """
    home = (towhee_home or default_towhee_home()).expanduser().absolute()
    _report(link_operators(home))
    if home != Path("~/.towhee").expanduser():
        print_result(
            f"towhee 0.9.0 does not look there by itself; call this first: towhee.add_cache_path({str(home)!r})"
        )


def unlink(towhee_home: Home = None) -> None:
    """Remove the folders that `link` wrote. Leaves other folders alone, and those changed since."""
    home = (towhee_home or default_towhee_home()).expanduser().absolute()
    outcomes = unlink_operators(home)
    if not outcomes:
        print_result(f"nothing to remove under {home}")
    _report(outcomes)


def _report(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        print_line(f"{OUTCOME_TEXTS[outcome.state]} {outcome.folder}", error=not outcome.ok)
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(1)
