"""The figures of the model card, on 1,000 held-out scenes and on the packaged gallery. Needs the font.

    python tests/benchmarks/bench_demo.py [MODEL] [--quick] [--only SECTION ...]

MODEL is a name or a file; --quick takes 60 scenes, to see whether it runs; sections are those of SECTIONS. A figure that
has a bar is printed with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for support

from benchmarks.demo_bench import matching_quality, retrieval_quality, text_quality
from benchmarks.demo_bench.shown_scenes import Figures, ShownScenes

import image_text_embedding as ite

SECTIONS: dict[str, Callable[[ite.Encoder, ShownScenes], Figures]] = {
    "things": retrieval_quality.single_things,
    "two": retrieval_quality.two_of_three,
    "captions": retrieval_quality.full_captions,
    "synonyms": retrieval_quality.synonyms,
    "match": matching_quality.balanced_accuracy,
    "explain": matching_quality.explained_peaks,
    "ground": matching_quality.grounded_boxes,
    "describe": text_quality.descriptions,
    "answer": text_quality.answers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="blip_demo")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    given = parser.parse_args()
    start = time.perf_counter()
    model = ite.load(given.model)
    shown = ShownScenes(60 if given.quick else 1000, model.config.vision.image_size)
    for name in given.only:
        for what, (value, bar) in SECTIONS[name](model, shown).items():
            verdict = "" if bar is None else f"  (bar {bar:.2f}{'' if value >= bar else ', MISSED'})"
            print(f"{value:7.3f}  {what}{verdict}", flush=True)
    print(f"{time.perf_counter() - start:7.1f}  seconds; weights sha256 {model.info['sha256']}")


if __name__ == "__main__":
    main()
