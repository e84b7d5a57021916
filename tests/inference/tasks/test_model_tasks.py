"""Which tasks a model can do, and which parts they load."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

import pytest
from support.environment import VOCABULARY

import image_text_embedding as ite
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inference.tasks import task_settings
from image_text_embedding.models import part_cache


class TestWhatAModelCanDo:
    @pytest.mark.parametrize(
        ("name", "call", "message"),
        [
            (
                "blip_itm_base_coco",
                lambda m: m.caption("x.jpg"),
                r"cannot caption.*embed, match.*blip_base,.*blip_caption",
            ),
            ("albef_14m", lambda m: m.caption("x.jpg"), "albef_14m cannot caption"),
            (
                "blip_base",
                lambda m: m.answer("x.jpg", "why"),
                "can answer: albef_demo, albef_vqa, albef_vqa_lavis, blip_aokvqa, blip_demo, blip_okvqa, blip_vqa_base, ",
            ),
            (
                "blip_caption_base",
                lambda m: m.match("x.jpg", "a"),
                "cannot match: its checkpoint has heads for caption",
            ),
            ("blip_caption_base", lambda m: m.encode_image("x.jpg"), "cannot embed.*albef_14m"),
            ("blip_vqa_base", lambda m: m.encode_text("a"), "cannot embed"),
            ("blip_vqa_base", lambda m: m.analyze("x.jpg", ["caption"]), "cannot caption"),
            ("blip_vqa_base", lambda m: m.rerank("a", ["x.jpg"]), "cannot embed"),
        ],
    )
    def test_a_task_without_a_head_names_the_models_that_have_it(
        self, small_encoder: Callable, name, call, message
    ) -> None:
        with pytest.raises(InputError, match=message):
            call(small_encoder(name))

    def test_nothing_is_read_for_a_task_that_cannot_be_done(self, small_encoder: Callable, monkeypatch) -> None:
        model = small_encoder("blip_itm_base_coco")
        monkeypatch.setattr(part_cache, "read_checkpoint", lambda path: pytest.fail("read"))
        with pytest.raises(InputError, match="cannot answer"):
            model.answer("missing.jpg", "")

    def test_heads_are_loaded_when_first_used(self, small_weights: dict, task_photos) -> None:
        model = ite.load(small_weights["blip_base"], tokenizer=VOCABULARY, device="cpu")
        assert set(model.runtime.parts) == {"image", "text"}
        assert not any(".cross." in name for part in model.runtime.parts.values() for name in part.state_dict())
        model.match(task_photos[0], "two dogs")
        assert set(model.runtime.parts) == {"image", "text", "match"}
        text, match = (dict(model.runtime.parts[part].named_parameters()) for part in ("text", "match"))
        assert all(text[key].data_ptr() == match[key].data_ptr() for key in text if key.startswith("text."))
        model.caption(task_photos[0])
        assert set(model.runtime.parts) == {"image", "text", "match", "caption"}

    def test_a_model_of_one_modality_has_no_heads(self, small_encoder: Callable, small_weights: dict) -> None:
        with pytest.raises(InputError, match=r"modality='text' and has no image tower: load it with modality=None"):
            small_encoder("blip_base", modality="text").match("x.jpg", "a dog")
        with pytest.raises(InputError, match=r"has no text tower"):
            small_encoder("blip_base", modality="image").caption("x.jpg")
        with pytest.raises(InputError, match="cannot embed"):
            ite.load(small_weights["blip_caption_base"], tokenizer=VOCABULARY, modality="image")

    def test_info_and_repr(self, small_encoder: Callable) -> None:
        model = small_encoder("blip_caption_base")
        assert model.dim is None and model.info["tasks"] == ["caption"] and model.info["dim"] is None
        assert repr(model) == "<blip_caption_base: image and caption on cpu>"

    def test_settings_have_the_defaults_of_the_methods(self) -> None:
        for task, method in (("match", "match"), ("caption", "caption"), ("answer", "answer")):
            signature = inspect.signature(getattr(ite.Encoder, method)).parameters
            defaults = dataclasses.asdict(task_settings.TASK_SETTINGS[task]())
            assert defaults == {name: signature[name].default for name in task_settings.setting_names(task)}

    def test_a_saved_file_has_the_heads_that_were_used(
        self, small_encoder: Callable, small_weights: dict, task_photos, tmp_path
    ) -> None:
        model = ite.load(small_weights["blip_base"], tokenizer=VOCABULARY, device="cpu")
        expected = model.match(task_photos[0], "two dogs")
        again = ite.load(model.save(tmp_path / "mine.safetensors"), tokenizer=VOCABULARY)
        assert again.config.tasks == ("embed", "match")
        assert again.match(task_photos[0], "two dogs") == pytest.approx(expected, abs=1e-6)
        path = small_encoder("blip_vqa_base").save(tmp_path / "vqa.safetensors")
        assert ite.load(path, tokenizer=VOCABULARY).answer(task_photos[0], "why") == small_encoder(
            "blip_vqa_base"
        ).answer(task_photos[0], "why")
