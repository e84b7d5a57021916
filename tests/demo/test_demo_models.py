"""The packaged demonstration models: their model card is right, and they find what the gallery shows."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from support.fonts import needs_font

import image_text_embedding as ite
from image_text_embedding.demo import packaged_gallery, scene_language
from image_text_embedding.models.config import config_from_mapping
from image_text_embedding.models.config_files import config_dir
from image_text_embedding.retrieval.evaluation import metrics
from image_text_embedding.training import read_recipe, trainer
from image_text_embedding.training.run_folder import RunFolder
from image_text_embedding.training.run_plan import plan_new_run

MODELS = ("blip_demo", "albef_demo")
PAIRS = "image_text_embedding.demo:TRAIN_TEXTS"
MIN_COVERAGE, MIN_CORRECT = 0.8, 0.85  # the model card has the figures for 1,000 scenes
CARD = packaged_gallery.GALLERY_FOLDER.parent / "MODEL_CARD.md"


@pytest.mark.parametrize("name", MODELS)
def test_the_packaged_model_finds_what_the_gallery_shows(name: str) -> None:
    model = ite.load(name)
    entries = packaged_gallery.gallery()
    pictures, texts = [entry["path"] for entry in entries], [entry["caption"] for entry in entries]
    cosines = np.asarray(model.similarity(model.encode_image(pictures), model.encode_text(texts)))
    found = metrics.recall(cosines, [(i, i) for i in range(len(entries))])
    assert found.image_to_text[1] >= 0.9 and found.text_to_image[1] >= 0.9
    wrong = [*texts[1:], texts[0]]
    assert (model.match(pictures, texts) > model.match(pictures, wrong)).mean() >= 0.95


def test_the_packaged_model_describes_what_the_gallery_shows() -> None:
    model = ite.load("blip_demo")
    entries = packaged_gallery.gallery()
    pictures = [entry["path"] for entry in entries]
    things = [[(thing["name"], thing["plural"]) for thing in entry["things"]] for entry in entries]
    assert metrics.coverage(model.caption(pictures, max_length=30), things) >= MIN_COVERAGE
    asked = [(path, q["question"], q["answer"]) for path, entry in zip(pictures, entries) for q in entry["questions"]]
    paths, questions, answers = zip(*asked[::4])
    assert metrics.exact_match(model.answer(paths, questions), answers) >= MIN_CORRECT


@pytest.mark.parametrize("name", MODELS)
def test_a_towhee_pipeline_finds_the_teddy_bear(name: str) -> None:
    from towhee import ops, pipe

    operator = getattr(ops.image_text_embedding, name.removesuffix("_demo"))
    look = (
        pipe.input("url")
        .map("url", "image", ops.image_decode.cv2_rgb())
        .map("image", "vector", operator(model_name=name, modality="image"))
        .output("vector")
    )
    read = pipe.input("text").map("text", "vector", operator(model_name=name, modality="text")).output("vector")
    vectors = np.stack([look(entry["path"]).get()[0] for entry in packaged_gallery.gallery()])
    assert vectors.shape == (48, 128) and np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert (vectors @ read("a teddy bear on a skateboard").get()[0]).argmax() == 0


def test_one_decoder_captions_and_answers_only_at_one_width() -> None:
    raw = dataclasses.asdict(ite.model_config("blip_demo"))
    with pytest.raises(ite.ConfigError, match="need equal widths of vision and text"):
        config_from_mapping({**raw, "vision": {**raw["vision"], "width": 320}}, "my.yaml")


def test_the_model_card_describes_the_packaged_files() -> None:
    card = CARD.read_text(encoding="utf-8")
    for name in MODELS:
        assert ite.load(name).info["sha256"] in card
    packaged = [path for path in CARD.parent.iterdir() if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in packaged) <= 24_000_000
    assert (CARD.parent / "vocab.txt").read_text().split("\n")[:-1] == list(
        scene_language.words()
    )  # for files of 0.1.0


@needs_font
@pytest.mark.parametrize("name", MODELS)
def test_the_recipe_gives_the_first_losses_of_the_model_card(name: str, tmp_path) -> None:
    """With the recipe's number of steps, because the learning rate depends on it.

    In fp32, which gives the recipe's bf16 losses to 0.001: a processor without bf16 needs minutes for bf16.
    """
    losses = re.search(rf"{name}, step 5: itc (\d\.\d+), (\w+) (\d\.\d+)", CARD.read_text(encoding="utf-8"))
    with RunFolder(tmp_path / "run", False) as folder:
        base, settings = read_recipe(config_dir() / f"{name}.yaml")
        plan = plan_new_run(folder, base, PAIRS, {**settings, "workers": None, "precision": "fp32"}, None, None)
        run = trainer.TrainingRun(plan, folder, torch.device("cpu"))
        batches = run.batches()
        rows = [run.advance(batches)["losses"] for _ in range(5)]
    other = losses[2]
    # The card's are in bf16, and other processors sum in another order.
    assert [rows[-1]["itc"], rows[-1][other]] == pytest.approx([float(losses[1]), float(losses[3])], abs=0.02)
    assert rows[0][other] > rows[-1][other]
