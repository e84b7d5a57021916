"""The command as a whole: help, version, wrong usage, shell completions and the installed entry point."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer
from support.environment import Run

from image_text_embedding.interfaces.cli.app import app


def test_the_examples_in_the_help_can_be_typed() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        examples = re.findall(r"`image-text-embedding ([^`]+)`", command.epilog)
        assert examples, name
        for words in map(shlex.split, examples):
            assert words[0] in group.commands
            # Unknown or missing options are an error.
            group.commands[words[0]].make_context(words[0], words[1:])


def test_version_and_help(run: Run) -> None:
    assert run("--version") == (0, f"{metadata.version('image-text-embedding')}\n", "")
    for arguments, example in {
        (): "image-text-embedding models",
        ("link",): "image-text-embedding link --towhee-home /srv/towhee",
        ("unlink",): "image-text-embedding unlink --towhee-home /srv/towhee",
        ("models",): "image-text-embedding models --json",
        ("index",): "image-text-embedding index photos --uri gallery.db",
        ("search",): 'image-text-embedding search "a teddy bear on a skateboard" --uri gallery.db -k 10',
        ("evaluate",): "--captions dataset_flickr30k.json",
        ("match",): 'image-text-embedding match teddy.jpg "a teddy bear',
        ("caption",): "image-text-embedding caption teddy.jpg",
        ("ask",): "--choice yes --choice no",
        ("info",): "image-text-embedding info blip_base",
        ("cache",): "image-text-embedding cache --remove blip_base",
    }.items():
        code, out, _ = run(*arguments, "--help")
        assert code == 0 and example in " ".join(out.split())


@pytest.mark.parametrize("arguments", [["lnk"], ["link", "--home"], ["models", "extra"]])
def test_wrong_usage(arguments: list[str], run: Run) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and "Usage:" in err


def test_the_installed_command_runs(tmp_path: Path) -> None:
    """The entry point of the installed package prints one of our errors as one line, without a traceback."""
    (tmp_path / "file").write_text("")
    command = Path(sys.executable).with_name("image-text-embedding")
    done = subprocess.run(
        [command, "link", "--towhee-home", str(tmp_path / "file" / "below")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("image-text-embedding: cannot write the operator folder ")
    assert done.stderr.count("\n") == 1


def test_completions() -> None:
    code = (
        "import sys; sys.argv = ['image-text-embedding']; from image_text_embedding.interfaces.cli import main; main()"
    )
    environment = os.environ | {
        "_IMAGE_TEXT_EMBEDDING_COMPLETE": "complete_bash",
        "COMP_WORDS": "image-text-embedding search x --model blip_de",
        "COMP_CWORD": "4",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["blip_demo"]
