"""CapFilt on drawn scenes with noisy texts: how good the filter is, and what training on its output gains. Needs the font.

    python tests/benchmarks/bench_capfilt.py --out FOLDER [--quick] [--model MODEL] [--json FILE]

1. Scenes of up to two kinds of things are drawn. Of their web texts 40% are right, 40% are of another picture, 20% are wrong
   in one thing or relation.
2. `capfilt` with the packaged model as captioner and filter. Printed: precision and recall of the filter on the web texts, by
   kind, and which share of the synthetic captions is true before and after filtering.
3. A model of half a million weights is trained with ITC, from scratch, with equal steps, on the noisy texts, and on what
   CapFilt kept and wrote, with three seeds each. Printed: recall on held-out scenes, and whether the difference is larger
   than both spreads together.

A stopped run continues where it was. `--quick` runs all of it on a few pictures, to see whether it runs: its figures mean
nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for support

import numpy as np
from benchmarks.capfilt_bench.noisy_scenes import FIRST_HELD_OUT, SHARES, WebPair, small_scene, web_pairs, write_web
from PIL import Image
from support.scene_reading import CaptionClaims

import image_text_embedding as ite
from image_text_embedding.bulk import capfilt, read_pairs
from image_text_embedding.demo.scene_drawing import draw_scene
from image_text_embedding.demo.scene_language import caption
from image_text_embedding.demo.scene_layout import Scene
from image_text_embedding.models.config import ModelConfig, config_from_mapping
from image_text_embedding.retrieval.evaluation import metrics
from image_text_embedding.training import train

SIZE = 64  # pixels of the small model's pictures

SEEDS = (1, 2, 3)

ARMS = ("noisy", "filtered")


def small_model() -> tuple[ModelConfig, Path]:
    """The configuration of the model that is trained, and its vocabulary."""
    base = ite.model_config("blip_demo")
    text = {"vocab_size": base.text.vocab_size, "enc_id": base.text.enc_id, "text_depth": 2, "fusion_start": 0}
    layers, means = {"width": 80, "num_heads": 4}, {"mean": list(base.vision.mean), "std": list(base.vision.std)}
    raw = {
        "name": "small",
        "family": "blip",
        "summary": "a small model that is trained by a benchmark",
        "license": "Apache-2.0",
        "tokenizer": "vocab.txt",
        "tasks": ["embed"],
        "embed_dim": 64,
        "source": {},
        "vision": {"image_size": SIZE, "patch_size": 16, "depth": 3, **means, **layers},
        "text": {**text, **layers, "depth": 2, "intermediate_size": 160, "max_positions": 32, "token_types": False},
        "captions": {"max_words": 30, "max_tokens": 28, "sep": True, "to_space": '.!"()*#:;~'},
    }
    vocabulary = Path(ite.__file__).parent / base.tokenizer
    return config_from_mapping(raw, "bench_capfilt"), vocabulary


def is_true(text: str, scene: Scene) -> bool:
    """Whether a caption says nothing wrong about a scene; what is no sentence of ours is not true."""
    try:
        return CaptionClaims(text).true_of(scene, exactly=False)
    except (AssertionError, ValueError, KeyError):
        return False


def judged_figures(pairs: list[WebPair], folder: Path) -> dict[str, float]:
    """How well the filter tells right texts from others, and captions before and after it."""
    rows = [
        row for table in read_pairs(folder) for row in table.select(["path", "caption", "origin", "kept"]).to_pylist()
    ]
    web = [(pairs[int(Path(row["path"]).stem)].kind, row["kept"]) for row in rows if row["origin"] == "web"]
    written = [
        (is_true(row["caption"], pairs[int(Path(row["path"]).stem)].scene), row["kept"])
        for row in rows
        if row["origin"] == "synthetic"
    ]
    kept = [kind for kind, is_kept in web if is_kept]
    found = {
        "right among all web texts": np.mean([kind == "right" for kind, _ in web]),
        "precision: right among kept web texts": np.mean([kind == "right" for kind in kept]),
        "recall: kept among right web texts": np.mean([is_kept for kind, is_kept in web if kind == "right"]),
    }
    for kind in list(SHARES)[1:]:
        of_kind = [not is_kept for of, is_kept in web if of == kind]
        found[f"dropped among web texts ({kind}, {len(of_kind)})"] = np.mean(of_kind) if of_kind else 0.0
    found["true among synthetic texts"] = np.mean([true for true, _ in written])
    found["true among kept synthetic texts"] = np.mean([true for true, is_kept in written if is_kept])
    found["kept among true synthetic texts"] = np.mean([is_kept for true, is_kept in written if true])
    found["pictures with a kept text"] = len({row["path"] for row in rows if row["kept"]}) / len(pairs)
    return {name: round(float(value), 4) for name, value in found.items()}


def training_pairs(table: Path) -> list[dict[str, Any]]:
    """The pairs of a table in JSON, with their pictures at the small model's size in memory."""
    pixels: dict[str, np.ndarray] = {}
    found = []
    for row in json.loads(table.read_text()):
        path = str(table.parent / row["image"])
        if path not in pixels:
            pixels[path] = np.asarray(Image.open(path).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        found.append({"image": pixels[path], "caption": row["caption"], "group": path})
    return found


def held_out_recall(model: ite.Encoder, count: int) -> dict[str, float]:
    """Recall among held-out scenes with right captions, in both directions."""
    scenes = [small_scene(FIRST_HELD_OUT + seed) for seed in range(count)]
    images = np.asarray(model.encode_image([draw_scene(scene, SIZE) for scene in scenes]))
    texts = np.asarray(model.encode_text([caption(scene) for scene in scenes]))
    recall = metrics.recall(images @ texts.T, [(i, i) for i in range(count)])
    return {f"R@{k}": round(float(np.mean([way[k] for way in recall])), 4) for k in (1, 5, 10)}


def trained_figures(given: argparse.Namespace, tables: dict[str, Path], done: dict[str, Any], save: Any) -> None:
    """Train every arm with every seed, unless `done` has its figures."""
    config, vocabulary = small_model()
    held_out = 40 if given.quick else 500
    for seed in SEEDS:
        for arm in ARMS:
            if (name := f"{arm}, seed {seed}") in done:
                continue
            settings = {
                "steps": 4 if given.quick else given.steps,
                "batch_size": 16 if given.quick else 64,
                "tasks": ["itc"],
                "lr": 1e-3,
                "warmup": 0.1,
                "sinusoids": 0.5,
                "crop_scale": None,
                "flip": False,
                "seed": seed,
                "log_every": 20,
                "checkpoint_every": 10_000,
            }
            start, cpu = time.perf_counter(), time.process_time()
            run = given.out / f"run-{arm}-{seed}"
            file = train(
                config,
                training_pairs(tables[arm]),
                run,
                settings,
                vocabulary=vocabulary,
                resume=(run / "run.json").exists(),
                show_progress_bar=False,
            )
            figures = held_out_recall(ite.load(file, tokenizer=vocabulary), held_out)
            done[name] = {**figures, "seconds": round(time.perf_counter() - start, 1)}
            done[name]["cpu_seconds"] = round(time.process_time() - cpu, 1)
            save()
            print(f"{name}: {done[name]}", flush=True)


def verdict(done: dict[str, Any]) -> dict[str, Any]:
    """Means, ranges, and whether the difference of the means is larger than both ranges together."""
    found: dict[str, Any] = {}
    for measure in ("R@1", "R@5", "R@10"):
        values = {arm: [done[f"{arm}, seed {seed}"][measure] for seed in SEEDS] for arm in ARMS}
        means = {arm: float(np.mean(each)) for arm, each in values.items()}
        spread = sum(max(each) - min(each) for each in values.values())
        gain = means["filtered"] - means["noisy"]
        found[measure] = {
            **{arm: round(mean, 4) for arm, mean in means.items()},
            "gain": round(gain, 4),
            "both ranges": round(spread, 4),
            "outside the spread": bool(gain > spread),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="blip_demo", help="captioner and filter")
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / "results.json"
    done: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}

    def save() -> None:
        for path in filter(None, (results, given.json)):
            path.write_text(json.dumps(done, indent=1) + "\n")

    start = time.perf_counter()
    pairs = list(web_pairs(40 if given.quick else given.pictures))
    model = ite.load(given.model)
    table = write_web(given.out, pairs, model.config.vision.image_size)
    print(f"{time.perf_counter() - start:.0f} s: {len(pairs)} scenes are drawn", flush=True)
    summary = capfilt(table, model, model, given.out / "capfilt", max_length=28, shard_size=256, workers=1)
    print(f"{time.perf_counter() - start:.0f} s: filtered, {summary.report['kept']} pairs are kept", flush=True)
    done["pictures"], done["steps"], done["sha256"] = len(pairs), given.steps, model.info["sha256"]
    done["filter"] = judged_figures(pairs, given.out / "capfilt")
    save()
    for name, value in done["filter"].items():
        print(f"{value:7.3f}  {name}", flush=True)
    trained_figures(given, {"noisy": table, "filtered": given.out / "capfilt" / "kept.json"}, done, save)
    done["verdict"] = verdict(done)
    save()
    print(json.dumps(done["verdict"], indent=1))


if __name__ == "__main__":
    main()
