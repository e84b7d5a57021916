"""What `evaluate` computes and prints for benchmarks other than retrieval: NLVR2."""

from __future__ import annotations

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
