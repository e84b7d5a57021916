"""What `evaluate` computes and prints for benchmarks other than retrieval: NLVR2, RefCOCO."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from image_text_embedding.interfaces.cli.output import print_json, print_result


def print_nlvr2(model: str, file: Path, images: Path, batch_size: int, device: str | None, as_json: bool) -> None:
    """Print a model's accuracy on NLVR2."""
    from image_text_embedding.inference.loading import load
    from image_text_embedding.retrieval.evaluation.nlvr2_benchmark import evaluate_nlvr2, read_nlvr2

    encoder = load(model, device=device)
    encoder.runtime.require("reason")
    statements = read_nlvr2(file, images)
    found = evaluate_nlvr2(encoder, statements, batch_size)
    figures = {"given": found.given, "swapped": found.swapped, "mean": found.mean}
    if as_json:
        print_json({"model": model, "statements": len(statements), "accuracy": figures})
        return
    print_result(f"{model}: accuracy on {len(statements)} statements")
    for order, accuracy in figures.items():
        print_result(f"{order:8} {100 * accuracy:.2f}")


def print_refcoco(model: str, file: Path, images: Path, batch_size: int, device: str | None, as_json: bool) -> None:
    """Print a model's grounding accuracy on RefCOCO."""
    from image_text_embedding.inference.loading import load
    from image_text_embedding.retrieval.evaluation.refcoco_benchmark import evaluate_refcoco, read_refcoco

    encoder = load(model, device=device)
    encoder.runtime.require("match")
    accuracies = evaluate_refcoco(encoder, read_refcoco(file, images), batch_size)
    if as_json:
        rows = {split: dataclasses.asdict(found) for split, found in accuracies.items()}
        print_json({"model": model, "accuracy": rows})
        return
    print_result(f"{model}: accuracy by the best of the detected boxes, and by the box found in the map")
    for split, found in accuracies.items():
        detections = "-" if found.detections is None else f"{100 * found.detections:.2f}"
        print_result(f"{split:8} {detections:>6} {100 * found.found:6.2f}  ({found.count} phrases)")
