"""The command as a whole: help, version, wrong usage, shell completions and the installed entry point."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer
from support.environment import Run

from image_text_embedding.interfaces.cli.app import COMMANDS, app


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


def test_python_m(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "image_text_embedding", "rank", "-k", "none"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and done.stderr.startswith("Usage: image-text-embedding rank ")


def test_flags_are_listed_without_a_type(run: Run) -> None:
    for words in ([], *([command.__name__] for command in COMMANDS)):
        code, out, _ = run(*words, "--help")
        assert code == 0 and "<bool>" not in out and re.search(r"--help +Show this", out), words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_show_completion_is_a_script_that_completes(shell: str, tmp_path: Path) -> None:
    """In each shell that this machine has. typer asks `ps` for the shell that runs it."""
    if (path := shutil.which(shell)) is None or (shutil.which("ps") is None and not Path("/proc").is_dir()):
        pytest.skip(f"no {shell}")
    script = {
        "bash": "COMP_WORDS=(image-text-embedding search x --model blip_de); COMP_CWORD=4\n"
        '_image_text_embedding_completion image-text-embedding; echo "${COMPREPLY[@]}"',
        "zsh": "_TYPER_COMPLETE_ARGS='image-text-embedding search x --model blip_de' "
        "_IMAGE_TEXT_EMBEDDING_COMPLETE=complete_zsh image-text-embedding",
        "fish": "complete -C 'image-text-embedding search x --model blip_de'",
    }[shell]
    load = "image-text-embedding --show-completion | source" if shell == "fish" else None
    load = load or ('eval "$(image-text-embedding --show-completion)"' if shell == "bash" else "true")
    (tmp_path / "script").write_text(f"{load}\n{script}\n")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [path, tmp_path / "script"], env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert "blip_demo" in done.stdout and "blip_base" not in done.stdout, done.stderr


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
