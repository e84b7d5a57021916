"""The recipes of the next demonstration models: they fit the vocabulary and the package, and train every objective."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from benchmarks.start_demo import start
from support.environment import TESTS
from support.fonts import needs_font

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.demo.scene_pairs import SceneTexts
from image_text_embedding.training import read_recipe, read_settings, trainer
from image_text_embedding.training.run_folder import RunFolder
from image_text_embedding.training.run_plan import plan_new_run

RECIPES = TESTS / "benchmarks" / "demo_recipes"
SOURCES = {
    "blip_demo": ["blip_demo:vision,text,decoder,itm_head"],
    "albef_demo": ["blip_demo:vision,text_proj", "albef_demo:text.embeddings,text.layers.0,text.layers.1"],
}


@needs_font
@pytest.mark.parametrize("name", SOURCES)
def test_every_objective_is_trained(name: str, tmp_path: Path) -> None:
    """One small step from parts of the packaged models; the file that it leaves does what the recipe says."""
    copied = start(RECIPES / f"{name}.yaml", tmp_path / "start.safetensors", SOURCES[name])
    assert sum(copied.values()) - copied["all"] > 0.4 * copied["all"]
    settings = {**read_settings(tmp_path / "start.yaml"), "batch_size": 2, "steps": 1, "workers": None}
    settings |= {"precision": "fp32"}
    with RunFolder(tmp_path / "run", False) as folder:
        source = SceneTexts("train", 8, size=120, texts=4, places=True)
        plan = plan_new_run(folder, tmp_path / "start.safetensors", source, settings, None, None)
        assert plan.fits is not None
        run = trainer.TrainingRun(plan, folder, torch.device("cpu"))
        row = run.advance(run.batches())
        run._write_model()
    assert set(row["losses"]) == set(plan.tasks) == set(settings["tasks"])
    recipe, _ = read_recipe(RECIPES / f"{name}.yaml")
    model = ite.load(tmp_path / "run" / "model.safetensors", device="cpu")
    with pytest.warns(ite.UnknownWordsWarning):  # in four scenes there was none
        assert model.encode_text("a teddybear").shape == (128,) and model.config.tasks == recipe.tasks
    with pytest.warns(ite.UnknownWordsWarning, match="'hoverboard'"):
        model.encode_text("a hoverboard")
    assert len(model.answer(gallery()[0]["path"], "what colour is the background?", ["red", "blue"])) == 2


def test_both_models_fit_into_the_package(tmp_path: Path) -> None:
    copied = [start(RECIPES / f"{name}.yaml", tmp_path / f"{name}.safetensors", []) for name in SOURCES]
    assert sum(2 * each["all"] for each in copied) <= 23_500_000  # fp16; the limit is 24 MB
    raw = [dataclasses.asdict(read_recipe(RECIPES / f"{name}.yaml")[0])["tokenizer"] for name in SOURCES]
    assert raw == ["demo/subwords.txt"] * 2
