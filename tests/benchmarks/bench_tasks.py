"""How fast pictures are captioned, questions answered and pairs matched: `python tests/benchmarks/bench_tasks.py`.

Both libraries run in one process on the same made-up weights of the official base size (ViT-B/16 at 384 pixels) and take
turns: transformers' `BlipForConditionalGeneration.generate`, `BlipForQuestionAnswering` and `BlipForImageTextRetrieval` in
fp32, and ours in fp32, in bf16, and with OpenVINO's int8 picture states. Captions have as many tokens on both sides.
Pictures are decoded before the clock starts. `--json FILE` writes every figure; `--quick` checks that it runs.

Predictions (Zen 4 without AMX; a ViT takes 40% of transformers' time for captions, and fp32 is at the matrix peak there):
fp32 1.8 x, as before; bf16 4 x (linears 2.2 x as fast in the ViT, 2 to 3.4 x in a decoding step); int8 states with heads in
bf16 6 x. Pairs: 1.5 x in fp32 where the ViT counts, more than 10 x where the states are there.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from encode_bench.made_up_inputs import captions, crops
from encode_bench.measuring import Bench
from task_bench.made_up_models import Theirs, make_models
from task_bench.report import chart

SECTIONS = ("caption", "answer", "rerank", "matrix")

# Section -> figure and the least that the speed issue asks.
BARS = {
    "captions, 8 pictures": 6.0,
    "captions, 16 pictures": 6.0,
    "answers": 4.0,
    "re-ranking": 1.5,
    "re-ranking, states cached": 5.0,
    "match_matrix": 5.0,
}

WAYS = {
    "ours, fp32": {},
    "ours, bf16": {"precision": "bf16"},
    "ours, openvino int8": {"backend": "openvino", "precision": "int8"},
}


class Tasks:
    """The sections, over the same pictures for all."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        self.tokens = 5 if bench.quick else 20

    def models(self, kind: str, theirs: Theirs) -> dict[str, Any]:
        """Ours in each way, by name; one that is not installed is noted as missing."""
        import image_text_embedding as ite

        found = {}
        for name, options in WAYS.items():
            options = dict(options)
            if "backend" in options:
                options["calibration"] = {"image": [np.ascontiguousarray(each[:, ::-1]) for each in crops(11, 2)]}
            try:
                found[name] = ite.load(self.folder / kind, device="cpu", **options)
            except ite.EmbeddingError as error:
                self.bench.missing[name] = str(error)
        for name, model in found.items():
            if (quality := model.info["quality"].get("states")) is not None:
                self.bench.note(f"{kind}: {name}, lowest cosine of states", quality["cosine_min"], "")
        self.pictures = [np.asarray(each) for each in theirs.resized(crops(3, 3))]
        return found

    def compare(self, section: str, ways: dict[str, Callable[[], Any]], items: int) -> None:
        rates = self.bench.turns(ways, items, section)
        plain, *_ = rates.values()
        for name in list(rates)[1:]:
            self.bench.note(f"{section}: {name} / {next(iter(rates))}", rates[name] / plain, "x")

    def caption(self) -> None:
        theirs = Theirs(self.folder, "caption")
        models = self.models("caption", theirs)
        options: dict[str, Any] = {"num_beams": 3, "min_length": self.tokens, "max_length": self.tokens}
        for count in (2, 4) if self.bench.quick else (8, 16):
            pictures = self.pictures[:count]
            ways = {"transformers": functools.partial(theirs.captions, pictures, self.tokens)}
            options |= {"batch_size": count, "show_progress_bar": False}
            ways |= {name: functools.partial(model.caption, pictures, **options) for name, model in models.items()}
            self.compare(f"captions, {count} pictures", ways, count)
            exact = ways["ours, fp32"]()
            for name in list(models)[1:]:
                share = float(np.mean([one == other for one, other in zip(exact, ways[name]())]))
                self.bench.note(f"captions, {count} pictures: {name}, share equal to fp32's", share, "")

    def answer(self) -> None:
        theirs = Theirs(self.folder, "answer")
        models = self.models("answer", theirs)
        count = 2 if self.bench.quick else 8
        pictures, questions = self.pictures[:count], [f"what is {text}?" for text in captions(count)]
        ways: dict[str, Callable[[], Any]] = {"transformers": lambda: theirs.answers(pictures, questions)}
        for name, model in models.items():
            ways[name] = lambda model=model: model.answer(
                pictures, questions, batch_size=count, show_progress_bar=False
            )
        self.compare("answers", ways, count)

    def rerank(self) -> None:
        theirs = Theirs(self.folder, "match")
        models = self.models("match", theirs)
        count = 4 if self.bench.quick else 128
        pictures = (self.pictures * 8)[:count]
        # Different pictures: equal ones would be computed once.
        pictures = [np.roll(each, shift, axis=1) for shift, each in enumerate(pictures)]
        (text,) = captions(1)
        ways: dict[str, Callable[[], Any]] = {"transformers": lambda: theirs.pairs(pictures, [text] * count)}
        for name, model in models.items():
            ways[name] = lambda model=model: model.match(pictures, text, show_progress_bar=False)
        repeats = 1 if self.bench.quick else 3
        rates = self.bench.turns(ways, count, "re-ranking", repeats)
        for name in models:
            self.bench.note(f"re-ranking: {name} / transformers", rates[name] / rates["transformers"], "x")
        self._cached(models, pictures, text, rates["transformers"])

    def _cached(self, models: dict[str, Any], pictures: list[np.ndarray], text: str, theirs: float) -> None:
        """The same where the states of the pictures are there."""
        import torch

        from image_text_embedding.inference.tasks.image_text_batches import text_encoder_for
        from image_text_embedding.inference.tasks.matching import make_matcher
        from image_text_embedding.inference.tasks.task_settings import MatchSettings

        for name, model in models.items():
            runtime = model.runtime
            match, row = make_matcher(runtime, MatchSettings()), text_encoder_for(runtime)(text)
            with torch.inference_mode():
                states = [runtime.states([each]) for each in pictures[:16]]
                all_pairs = functools.partial(_match_all, match, states, row)
                rates = self.bench.turns({name: all_pairs}, len(states), "re-ranking, states cached")
            self.bench.note(f"re-ranking, states cached: {name} / transformers", rates[name] / theirs, "x")

    def matrix(self) -> None:
        theirs = Theirs(self.folder, "match")
        models = self.models("match", theirs)
        side = 3 if self.bench.quick else 32
        pictures = [np.roll(each, shift, axis=1) for shift, each in enumerate((self.pictures * 2)[:side])]
        texts = captions(side)
        # All 1,024 pairs one by one take many minutes: a sample of them, the same work for each pair.
        sample = [(pictures[i], texts[i]) for i in range(3 if self.bench.quick else 8)]
        ways: dict[str, Callable[[], Any]] = {}
        loop = self.bench.turns(
            {"transformers, pair by pair": lambda: [theirs.pairs([one], [text]) for one, text in sample]},
            len(sample),
            "match_matrix",
        )
        for name, model in models.items():
            ways[name] = lambda model=model: model.match_matrix(pictures, texts, show_progress_bar=False)
        rates = self.bench.turns(ways, side * side, "match_matrix", 1 if self.bench.quick else 3)
        for name, rate in rates.items():
            self.bench.note(f"match_matrix: {name} / transformers", rate / loop["transformers, pair by pair"], "x")


def _match_all(match: Any, states: list[Any], row: Any) -> None:
    for each in states:
        match(each, [row])


def verdicts(bench: Bench) -> dict[str, dict[str, Any]]:
    """Each bar with the best way that reaches most of it."""
    found = {}
    for section, bar in BARS.items():
        ratios = {name: bench.value(f"{section}: {name} / transformers") for name in WAYS}
        measured = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        best = max(measured, key=lambda name: measured[name]) if measured else None
        verdict = "not measured" if best is None else "reached" if measured[best] >= bar else "missed"
        found[section] = {"asked": bar, "ratios": measured, "best": best, "verdict": verdict}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="toy sizes: does it run?")
    parser.add_argument("--json", type=Path, help="file to write every figure to")
    parser.add_argument("--png", type=Path, default=Path("bench_tasks.png"), help="file to write the chart to")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs, after one to warm up")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=SECTIONS)
    given = parser.parse_args()
    import torch

    versions = {name: metadata.version(name) for name in ("torch", "transformers", "openvino")}
    about = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {versions}"
    print(f"{about}; medians (lowest to highest) of {given.repeats}\n")
    with tempfile.TemporaryDirectory(prefix="ite-tasks-") as folder:
        bench = Bench(given.quick, given.repeats, "cpu", Path(folder))
        make_models(bench)
        tasks = Tasks(bench, Path(folder))
        for section in given.only:
            getattr(tasks, section)()
    print()
    found = verdicts(bench)
    for section, each in found.items():
        shown = ", ".join(f"{name} {ratio:.1f}" for name, ratio in each["ratios"].items())
        print(f"{each['verdict']:<12} {section:<28} (at least {each['asked']:g} x) {shown}")
    for name, why in bench.missing.items():
        print(f"not measured: {name}: {why}")
    chart(bench, found, given.png)
    print(f"chart: {given.png}")
    if given.json:
        given.json.write_text(
            json.dumps(
                {"machine": about, "figures": bench.found, "bars": found, "not measured": bench.missing}, indent=1
            )
        )


if __name__ == "__main__":
    main()
