"""The command `image-text-embedding`: the table of its commands, and how errors and warnings are printed.

Exit codes: 0 = success; 1 = the command failed, or some items failed (stderr says why); 2 = wrong usage; 130 = Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from image_text_embedding.foundation.errors import EmbeddingError
from image_text_embedding.foundation.terminal_text import printable_text, replace_unencodable
from image_text_embedding.interfaces.cli.bulk_commands import BulkCommand, capfilt, embed
from image_text_embedding.interfaces.cli.model_commands import benchmark, cache, info, models
from image_text_embedding.interfaces.cli.options import Command, without_flag_types
from image_text_embedding.interfaces.cli.output import print_note, print_result
from image_text_embedding.interfaces.cli.picture_commands import explain, ground, rank, similarity
from image_text_embedding.interfaces.cli.retrieval.evaluate_command import evaluate
from image_text_embedding.interfaces.cli.retrieval.gallery_commands import index, search
from image_text_embedding.interfaces.cli.setup_commands import doctor, link, samples, unlink
from image_text_embedding.interfaces.cli.task_commands import ask, caption, classify, entail, match, reason, score
from image_text_embedding.interfaces.cli.train_command import train
from image_text_embedding.interfaces.serve_command import serve

# click's error of wrong usage. typer has its own copy of click since version 0.26.
UsageError: Any = typer.BadParameter.__base__


@contextlib.contextmanager
def _printable_usage_errors() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        # They quote arguments, which may be file names that a shell filled in for *.
        error.message = printable_text(error.message)
        raise


class CommandGroup(TyperGroup):
    """Wrong usage is printed by typer, from errors whose text is made printable here."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options before the command, `--help` among them."""
        return without_flag_types(super().get_params(ctx))

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Parse the options before the command."""
        with _printable_usage_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Find the command, parse its arguments and run it."""
        with _printable_usage_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=CommandGroup,
    help="Embed pictures and texts with BLIP and ALBEF, so that you can compare and search them.",
    epilog="Examples: `image-text-embedding rank` and `image-text-embedding models`",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(requested: bool) -> None:
    if requested:
        print_result(metadata.version("image-text-embedding"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


# Every command with its examples, in the order in which --help lists them.
COMMANDS: dict[Callable[..., None], list[str]] = {
    rank: ["rank", 'rank photos "a dog on a beach" --model blip_itm_base_coco'],
    samples: ["samples", "samples ~/examples"],
    embed: [
        "embed photos --model blip_itm_base_coco --out vectors",
        'embed "shards/*.tar" --model blip_base --out vectors --format npy',
        "embed captions.csv --modality text --model blip_base --out texts --json",
    ],
    capfilt: [
        "capfilt pairs.json --captioner blip_caption_base --filter blip_itm_base_coco --out filtered",
        'capfilt "shards/*.tar" --captioner blip_demo --filter blip_demo --out filtered --captions 2 --min-edge 336',
    ],
    link: ["link --towhee-home /srv/towhee"],
    unlink: ["unlink --towhee-home /srv/towhee"],
    models: ["models", "models --json"],
    train: [
        "train --config my.yaml --pairs pairs.jsonl --vocabulary vocab.txt --out run",
        "train --config my.yaml --pairs pairs.jsonl --out run --init-vision timm:deit_base_patch16_224 "
        "--init-text google-bert/bert-base-uncased",
        "train --model blip_base --pairs photos/ --out run --tasks lm",
        "train --model albef_14m --pairs snli_ve.jsonl --out run --tasks ve",
    ],
    index: [
        "index photos --uri gallery.db --model blip_itm_base_coco",
        "index clips --modality video --uri gallery.db --model blip_itm_base_coco",
    ],
    search: [
        'search "a teddy bear on a skateboard" --uri gallery.db -k 10 --rerank 64 --html results.html',
        "search --image q.jpg",
        "search --image q.jpg --find text",
    ],
    evaluate: [
        "evaluate --images flickr30k-images --captions dataset_flickr30k.json --model blip_itm_base_flickr --rerank 128",
        "evaluate --images nlvr2 --nlvr2 nlvr_test.json --model blip_nlvr",
        "evaluate --images train2014 --refcoco data/refcoco+_test.json --model albef_refcoco",
        "evaluate --images coco --captioning dataset_coco.json --out captions.json --model blip_caption_base",
        "evaluate --images test2015 --vqa questions.json --answers answer_list.json --out answers.json --model blip_vqa_base",
        "evaluate --images msrvtt --videos msrvtt_test.jsonl --model blip_itm_base_coco",
    ],
    match: [
        'match teddy.jpg "a teddy bear on a skateboard" --model blip_itm_base_coco',
        'match dog.mp4 "a dog runs on a beach" --video --model blip_itm_base_coco',
    ],
    classify: ['classify teddy.jpg --label "a teddy bear" --label "a dog" --model blip_itm_base_coco'],
    caption: ["caption teddy.jpg --model blip_caption_base", "caption photos --json"],
    ask: [
        'ask teddy.jpg "how many bears are there?" --model blip_vqa_base',
        'ask teddy.jpg "is it a dog?" --choice yes --choice no',
    ],
    reason: ['reason left.jpg right.jpg "both pictures show a dog" --model blip_nlvr'],
    entail: ['entail dog.jpg "two dogs play on a beach" --model albef_ve'],
    explain: [
        'explain teddy.jpg "a teddy bear on a skateboard"',
        'explain dog.jpg "a dog on a beach" --model blip_itm_base_coco --json',
    ],
    ground: [
        'ground teddy.jpg "a skateboard"',
        'ground dogs.jpg "the dog on the left" --box 10,20,150,200 --box 200,30,140,180 --model albef_refcoco',
    ],
    similarity: [
        'similarity photos/*.jpg --text "a dog" --text "a cat"',
        "similarity a.jpg b.jpg --texts texts.txt --match --out heat.png",
    ],
    score: [
        "score requests.json --model blip_caption_base --out answers.json",
        "score questions.jsonl --model blip_vqa_base --out answers.jsonl",
    ],
    serve: ["serve", "serve --model blip_itm_base_coco --model blip_caption_base --port 9000"],
    info: ["info blip_base"],
    benchmark: ["benchmark blip_base", "benchmark blip_demo --plot speeds.png"],
    doctor: ["doctor", "doctor --json"],
    cache: ["cache", "cache --remove blip_base"],
}


def _epilog(examples: list[str]) -> str:
    *others, last = [f"`image-text-embedding {example}`" for example in examples]
    return f"Examples: {', '.join(others)} and {last}" if others else f"Example: {last}"


for _command, _examples in COMMANDS.items():
    app.command(epilog=_epilog(_examples), cls=BulkCommand if _command in (embed, capfilt) else Command)(_command)


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print_note(message)


class _LogNotes(logging.Handler):
    """Prints what is logged at WARNING or above and handled by nobody else, which would otherwise go to stderr as it is."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print_note(record.getMessage())
        except Exception:
            self.handleError(record)


def main() -> None:
    """The entry point. Our errors and warnings, and what is logged, become one line each on stderr."""
    replace_unencodable()
    last_resort, logging.lastResort = logging.lastResort, _LogNotes(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            warnings.filterwarnings("always", module=r"image_text_embedding(\.|$)")
            app(prog_name="image-text-embedding")  # also as `python -m image_text_embedding`
    except EmbeddingError as error:
        print_note(error)
        sys.exit(1)
    finally:
        logging.lastResort = last_resort
