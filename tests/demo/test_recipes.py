"""The demonstration models can be trained further with their recipes: every objective, from the packaged weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.fonts import needs_font

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.demo.scene_pairs import SceneTexts
from image_text_embedding.models.config_files import config_dir
from image_text_embedding.training import read_recipe, trainer
from image_text_embedding.training.run_folder import RunFolder
from image_text_embedding.training.run_plan import plan_new_run


@needs_font
@pytest.mark.parametrize("name", ["blip_demo", "albef_demo"])
def test_every_objective_is_trained(name: str, tmp_path: Path) -> None:
    """One small step; the file that it leaves does what the recipe says."""
    recipe, settings = read_recipe(config_dir() / f"{name}.yaml")
    settings |= {"batch_size": 2, "steps": 1, "workers": None, "precision": "fp32", "sinusoids": None}
    with RunFolder(tmp_path / "run", False) as folder:
        source = SceneTexts("train", 8, size=120, texts=4, places=True)
        plan = plan_new_run(folder, name, source, settings, None, None)
        assert plan.fits is not None
        run = trainer.TrainingRun(plan, folder, torch.device("cpu"))
        row = run.advance(run.batches())
        run._write_model()
    assert set(row["losses"]) == set(plan.tasks) == set(settings["tasks"])
    model = ite.load(tmp_path / "run" / "model.safetensors", device="cpu")
    assert model.encode_text("a teddybear").shape == (128,) and model.config.tasks == recipe.tasks
    with pytest.warns(ite.UnknownWordsWarning, match="'xqzt'"):
        model.encode_text("xqzt")
    assert len(model.answer(gallery()[0]["path"], "what colour is the background?", ["red", "blue"])) == 2
