"""Writes the other files of this folder: one of each kind of file that version 0.1.0 wrote.

They exist to prove that later versions open them, so do not write them again with a later version. They were made by commit
9b5aaf060d1c15f2467378753f67f1de17137da2, the last one before the modules moved into subpackages. In a checkout of it:

    PYTHONPATH=. python .../tests/data_0_1_0/make_data.py

| path | |
| --- | --- |
| `pictures/` | four pictures |
| `model.safetensors`, `vocab.txt` | a model of all tasks, written by `Encoder.save` |
| `expected.npz`, `expected.json` | what 0.1.0 computes with it, and what it logs when it trains straight through |
| `embedded-parquet/`, `embedded-npy/` | what `embed` wrote for `pictures/`, in both layouts |
| `gallery.db/` | an index of two pictures and a text |
| `run/` | a training run that was interrupted |
| `towhee/` | the operator folders of `link`, for Towhee 0.9.0 and 1.x |
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from data_0_1_0.colour_pairs import COLOURS, VOCABULARY, ColourPairs, wall  # noqa: E402

# Without `workers`, pictures are read in the training process, which the interrupt reaches.
SETTINGS = {"steps": 6, "batch_size": 8, "crop_scale": None, "log_every": 1, "checkpoint_every": 2}
PAIRS = "data_0_1_0.colour_pairs:ColourPairs"
TEXTS = ["a red wall", "a picture of a blue wall"]


def train_model(out: Path) -> Path:
    """The path of the model that `SETTINGS` train."""
    from image_text_embedding.training import read_recipe, train

    config, _ = read_recipe(FOLDER / "colours.yaml")
    vocabulary = FOLDER / "vocab.txt"
    return Path(train(config, PAIRS, out, SETTINGS, vocabulary=vocabulary, device="cpu", show_progress_bar=False))


def main() -> None:
    import torch
    from image_text_embedding.link import link

    import image_text_embedding as ite
    from image_text_embedding.bulk import embed

    torch.set_num_threads(1)
    (FOLDER / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY), encoding="utf-8")
    # Absolute paths are part of these files, so they name a folder that tells nothing about the machine.
    work = Path(tempfile.gettempdir()) / "version-0.1.0"
    shutil.rmtree(work, ignore_errors=True)
    pictures = work / "pictures"
    pictures.mkdir(parents=True)
    for index, colour in enumerate(list(COLOURS)[:4]):
        Image.fromarray(wall(index)).save(pictures / f"{colour}.png")
        (pictures / f"{colour}.txt").write_text(f"a {colour} wall\n", encoding="utf-8")
    paths = sorted(pictures.glob("*.png"))

    trained = train_model(work / "straight")
    logged = [json.loads(line) for line in (work / "straight" / "metrics.jsonl").read_text().splitlines()]
    ColourPairs.reads_until_interrupt = 8 * 3 + 4  # in the fourth of six steps
    with contextlib.suppress(KeyboardInterrupt):
        train_model(work / "run")
    ColourPairs.reads_until_interrupt = None
    (work / "run" / "loss.png").unlink()  # large, and drawn again

    model = ite.load(trained, tokenizer=FOLDER / "vocab.txt", device="cpu")
    matches = model.match(paths[:2], TEXTS)
    captions = model.caption(paths[:2], num_beams=1)  # its beam search was not the published one
    saved = model.save(work / "model.safetensors")  # with the heads that were used
    model = ite.load(saved, tokenizer=FOLDER / "vocab.txt", device="cpu")
    np.savez(
        work / "expected.npz", pictures=model.encode_image(paths[:2]), texts=model.encode_text(TEXTS), matches=matches
    )
    expected = {"captions": captions, "losses": {row["step"]: row["loss"] for row in logged}, "info": model.info}
    del expected["info"]["source"]  # an absolute path
    (work / "expected.json").write_text(json.dumps(expected, indent=1, default=str) + "\n", encoding="utf-8")

    for layout in ("parquet", "npy"):
        embed(pictures, model, work / f"embedded-{layout}", layout=layout, shard_size=3, show_progress_bar=False)
    with ite.Gallery.open(work / "gallery.db", model) as gallery:
        gallery.add([paths[0], paths[1].read_bytes()], [TEXTS[0]], show_progress_bar=False)
    link(work / "towhee")

    shutil.rmtree(work / "straight")
    for path in work.iterdir():
        target = FOLDER / path.name
        if path.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target, ignore=shutil.ignore_patterns(".lock", "*.lock"))
        else:
            shutil.copyfile(path, target)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
