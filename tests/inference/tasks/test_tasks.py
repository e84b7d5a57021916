"""Matching, re-ranking, captions and answers as a user asks for them: shapes, batches, errors, one pass, both ways of HF."""

from __future__ import annotations

import dataclasses
import inspect
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from skimage import data
from support.environment import REAL_ENVIRONMENT, VOCABULARY, put_in_hub_cache
from support.models import SMALL

import image_text_embedding as ite
from image_text_embedding.foundation.errors import CheckpointError, ComputeError, ImageError, InputError, TextError
from image_text_embedding.inference import model_runtime
from image_text_embedding.inference.tasks import task_settings
from image_text_embedding.models import part_cache
from image_text_embedding.models.config import DecoderConfig
from image_text_embedding.models.config_files import model_config

SENTENCES = ["a woman and a dog", "two dogs", "a cup of coffee, on a wooden table - with a spoon", "a rocket"]
QUESTIONS = ["how many dogs are in the picture?", "what is it", "is there a rocket in the sky above florida at night?"]
CHOICES = ["yes", "no", "two", "two dogs", "a rocket", "the cat's whiskers"]


@pytest.fixture(scope="module")
def files(small_weights: dict[str, Path]) -> dict[str, Path]:
    return small_weights


@pytest.fixture(scope="module")
def get(files: dict[str, Path]) -> Callable[..., ite.Encoder]:
    made: dict[Any, ite.Encoder] = {}

    def load(name: str, **options: Any) -> ite.Encoder:
        key = (name, *options.items())
        if key not in made:
            made[key] = ite.load(files[name], tokenizer=VOCABULARY, device="cpu", **options)
        return made[key]

    return load


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the ViT got."""
    counts: list[int] = []
    states = model_runtime.ModelRuntime.states
    monkeypatch.setattr(
        model_runtime.ModelRuntime, "states", lambda self, pixels: (counts.append(len(pixels)), states(self, pixels))[1]
    )
    return counts


class TestWhatAModelCanDo:
    @pytest.mark.parametrize(
        ("name", "call", "said"),
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
                "can answer: albef_vqa, blip_demo, blip_vqa_base, blip_vqa_capfilt",
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
    def test_a_task_without_a_head_names_the_models_that_have_it(self, get: Callable, name, call, said) -> None:
        with pytest.raises(InputError, match=said):
            call(get(name))

    def test_nothing_is_read_for_a_task_that_cannot_be_done(self, get: Callable, monkeypatch) -> None:
        model = get("blip_itm_base_coco")
        monkeypatch.setattr(part_cache, "read_checkpoint", lambda path: pytest.fail("read"))
        with pytest.raises(InputError, match="cannot answer"):
            model.answer("missing.jpg", "")

    def test_heads_are_loaded_when_first_asked_for(self, files: dict, photos) -> None:
        model = ite.load(files["blip_base"], tokenizer=VOCABULARY, device="cpu")
        assert set(model._parts) == {"image", "text"}
        assert not any(".cross." in name for part in model._parts.values() for name in part.state_dict())
        model.match(photos[0], "two dogs")
        assert set(model._parts) == {"image", "text", "match"}
        text, match = (dict(model._parts[part].named_parameters()) for part in ("text", "match"))
        assert all(text[key].data_ptr() == match[key].data_ptr() for key in text if key.startswith("text."))
        model.caption(photos[0])
        assert set(model._parts) == {"image", "text", "match", "caption"}

    def test_a_modality_leaves_no_heads(self, get: Callable, files: dict) -> None:
        with pytest.raises(InputError, match=r"modality='text' and has no image tower: load it with modality=None"):
            get("blip_base", modality="text").match("x.jpg", "a dog")
        with pytest.raises(InputError, match=r"has no text tower"):
            get("blip_base", modality="image").caption("x.jpg")
        with pytest.raises(InputError, match="cannot embed"):
            ite.load(files["blip_caption_base"], tokenizer=VOCABULARY, modality="image")

    def test_what_is_said_of_a_model(self, get: Callable) -> None:
        model = get("blip_caption_base")
        assert model.dim is None and model.info["tasks"] == ["caption"] and model.info["dim"] is None
        assert repr(model) == "<blip_caption_base: image and caption on cpu>"

    def test_settings_are_the_methods_own(self) -> None:
        for task, method in (("match", "match"), ("caption", "caption"), ("answer", "answer")):
            signature = inspect.signature(getattr(ite.Encoder, method)).parameters
            assert task_settings.SETTINGS[task] == {
                name: signature[name].default for name in task_settings.SETTINGS[task]
            }

    def test_a_saved_file_has_the_heads_that_were_used(self, get: Callable, files: dict, photos, tmp_path) -> None:
        model = ite.load(files["blip_base"], tokenizer=VOCABULARY, device="cpu")
        expected = model.match(photos[0], "two dogs")
        again = ite.load(model.save(tmp_path / "mine.safetensors"), tokenizer=VOCABULARY)
        assert again.config.tasks == ("embed", "match")
        assert again.match(photos[0], "two dogs") == pytest.approx(expected, abs=1e-6)
        whole = get("blip_vqa_base").save(tmp_path / "vqa.safetensors")
        assert ite.load(whole, tokenizer=VOCABULARY).answer(photos[0], "why") == get("blip_vqa_base").answer(
            photos[0], "why"
        )


@pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
class TestMatch:
    def test_one_pair_and_many(self, get: Callable, photos, name: str, passes: list[int]) -> None:
        model = get(name)
        pairs = model.match(photos, SENTENCES, batch_size=3)
        assert pairs.shape == (4,) and pairs.dtype == np.float32 and bool(((pairs > 0) & (pairs < 1)).all())
        assert passes == [3, 1]
        alone = [model.match(photo, text) for photo, text in zip(photos, SENTENCES)]
        assert isinstance(alone[0], float)
        np.testing.assert_allclose(pairs, alone, atol=1e-5)  # a padded batch = one by one

    def test_one_of_either_for_all_of_the_other(self, get: Callable, photos, name: str, passes: list[int]) -> None:
        model = get(name)
        texts = model.match(photos[0], SENTENCES, batch_size=3)
        assert passes == [1]
        np.testing.assert_allclose(texts, [model.match(photos[0], text) for text in SENTENCES], atol=1e-5)
        pictures = model.match(photos, SENTENCES[0])
        np.testing.assert_allclose(pictures, [model.match(photo, SENTENCES[0]) for photo in photos], atol=1e-5)

    def test_the_matrix_has_the_pairs(self, get: Callable, photos, name: str, passes: list[int]) -> None:
        model = get(name)
        matrix = model.match_matrix(photos, SENTENCES[:3], batch_size=2)
        assert matrix.shape == (4, 3) and matrix.dtype == np.float32
        assert sum(passes) == 4  # every picture once
        for i, photo in enumerate(photos):
            np.testing.assert_allclose(matrix[i], model.match(photo, SENTENCES[:3]), atol=1e-5)
        assert model.match_matrix([], SENTENCES).shape == (0, 4)
        assert model.match_matrix(photos[0], "a dog").shape == (1, 1)

    def test_nothing(self, get: Callable, name: str) -> None:
        assert get(name).match([], []).shape == (0,) and get(name).match([], "a").shape == (0,)

    def test_pictures_are_read_while_others_are_computed_and_the_threads_end(
        self, get: Callable, photos, name: str, monkeypatch
    ) -> None:
        """By `match`, `match_matrix` and `rerank`; the other tasks take their pictures as `match` does."""
        model = get(name)
        readers: set[threading.Thread] = set()
        pixels = model_runtime.ModelRuntime.pixels

        def noted(engine: Any, picture: Any) -> np.ndarray:
            readers.add(threading.current_thread())
            return pixels(engine, picture)

        monkeypatch.setattr(model_runtime.ModelRuntime, "pixels", noted)
        for call in (
            lambda pictures: model.match(pictures, "a dog"),
            lambda pictures: model.match_matrix(pictures, ["a dog"]),
            lambda pictures: model.rerank("a dog", pictures),
        ):
            readers.clear()
            call(photos)
            with pytest.raises(ImageError, match="item 1"):
                call([photos[0], "missing.jpg", *photos])
            assert readers and threading.main_thread() not in readers
            assert not any(thread.is_alive() for thread in readers)

    def test_skipping(self, get: Callable, photos, name: str) -> None:
        model = get(name)
        items = [photos[0], "missing.jpg", photos[1], photos[2]]
        found, errors = model.match(items, ["a dog", "a dog", "", "a dog"], on_error="skip", batch_size=2)
        assert np.isnan(found).tolist() == [False, True, True, False]
        assert [(i, type(error)) for i, error in errors] == [(1, ImageError), (2, TextError)]
        np.testing.assert_allclose(found[[0, 3]], [model.match(photos[i], "a dog") for i in (0, 2)], atol=1e-5)
        matrix, errors = model.match_matrix(items[:2], ["a dog", ""], on_error="skip")
        assert np.isnan(matrix).tolist() == [[False, True], [True, True]]
        assert [index for index, _ in errors] == [(1, None), (None, 1)]

    def test_errors_name_the_item(self, get: Callable, photos, name: str) -> None:
        model = get(name)
        with pytest.raises(ImageError, match="item 1: no such file") as caught:
            model.match([photos[0], "missing.jpg"], ["a", "b"])
        assert caught.value.index == 1
        with pytest.raises(TextError, match="item 1: nothing to encode"):
            model.match_matrix(photos, ["a", ""])
        with pytest.raises(TextError, match=r"^nothing to encode"):
            model.match(photos, "")

    def test_long_texts_are_cut_with_a_warning_at_the_callers_line(self, get: Callable, photos, name: str) -> None:
        model = get(name)
        for call in (model.match, model.match_matrix, model.rerank):
            with pytest.warns(ite.TruncatedTextWarning, match=f"1 of 2 texts are longer than {name} reads") as caught:
                call(photos[0], ["word " * 60, "a dog"])
            assert caught[0].filename == __file__


def test_the_token_that_begins_a_text(get: Callable, photos) -> None:
    blip, albef = get("blip_base"), get("albef_14m")
    assert abs(blip.match(photos[0], "a dog") - blip.match(photos[0], "a dog", itm_token="cls")) > 1e-4
    assert albef.match(photos[0], "a dog") == albef.match(photos[0], "a dog", itm_token="cls")
    with pytest.raises(InputError, match="itm_token: expected 'enc' or 'cls', got 'dec'"):
        blip.match(photos[0], "a dog", itm_token="dec")
    vqa = get("blip_vqa_base")
    scores = [dict(vqa.answer(photos[0], "why", CHOICES, question_token=token)) for token in ("enc", "cls")]
    assert max(abs(scores[0][choice] - scores[1][choice]) for choice in CHOICES) > 1e-4


class TestRerank:
    @pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
    @pytest.mark.parametrize("k", [2, 3, 9])
    def test_text_to_pictures(self, get: Callable, photos, name: str, k: int, passes: list[int]) -> None:
        model = get(name)
        found = model.rerank("a rocket", photos, k=k, batch_size=3)
        assert sum(passes) == len(photos)
        cosines = model.similarity(model.encode_image(photos), model.encode_text("a rocket"))
        self.check(model, found, cosines, [(photo, "a rocket") for photo in photos], k)

    @pytest.mark.parametrize("name", ["blip_base", "albef_14m"])
    @pytest.mark.parametrize("k", [2, 3, 9])
    def test_picture_to_texts(self, get: Callable, photos, name: str, k: int, passes: list[int]) -> None:
        model = get(name)
        found = model.rerank(photos[0], SENTENCES, k=k, batch_size=3)
        assert sum(passes) == 1
        cosines = model.similarity(model.encode_text(SENTENCES), model.encode_image(photos[0]))
        self.check(model, found, cosines, [(photos[0], text) for text in SENTENCES], k)

    def check(self, model: ite.Encoder, found: list, cosines: np.ndarray, pairs: list, k: int) -> None:
        """The family's rule, from the vectors and from the head itself."""
        best = np.argsort(-cosines)[:k]
        engine, expected = model.runtime, {}
        for i in best:
            picture, text = pairs[i]
            states = engine.states([engine.pixels(picture)])
            row = engine.tokenizer(text, model.config.captions)
            if model.config.family == "blip":
                row = [30523, *row[1:]]
            logit = engine.part("match")(*engine.padded([row]), states)[0, 1].item()
            expected[int(i)] = logit + (float(cosines[i]) if model.config.family == "blip" else 0.0)
        assert [index for index, _ in found] == sorted(expected, key=lambda i: -expected[i])
        np.testing.assert_allclose([score for _, score in found], sorted(expected.values(), reverse=True), atol=1e-4)

    def test_what_the_query_is(self, get: Callable, photos, tmp_path) -> None:
        model = get("blip_base")
        path = tmp_path / "a.png"
        Image.fromarray(photos[0]).save(path)
        texts = model.rerank(photos[0], SENTENCES)
        for query, options in ((str(path), {}), (path, {}), (str(path), {"modality": "image"})):
            assert [i for i, _ in model.rerank(query, SENTENCES, **options)] == [i for i, _ in texts]
        pictures = model.rerank("a dog", photos[:1])
        assert model.rerank("a dog", [str(path)]) == [(0, pytest.approx(pictures[0][1], abs=1e-5))]
        for query, candidates in (("a dog", SENTENCES), (str(path), [str(path)]), ("a dog", [])):
            with pytest.raises(InputError, match="cannot tell whether the query is a text"):
                model.rerank(query, candidates)
        assert model.rerank("a dog", [], modality="text") == model.rerank(photos[0], []) == []

    def test_skipping(self, get: Callable, photos) -> None:
        model = get("blip_base")
        found, errors = model.rerank("a dog", [photos[0], "missing.jpg", photos[1]], on_error="skip")
        assert {index for index, _ in found} == {0, 2} and [index for index, _ in errors] == [1]
        found, errors = model.rerank(photos[0], ["", "a dog"], on_error="skip")
        assert [index for index, _ in found] == [1] and [index for index, _ in errors] == [0]
        with pytest.raises(ImageError, match="item 1"):
            model.rerank("a dog", [photos[0], "missing.jpg"])


class TestCaption:
    def test_one_and_many(self, get: Callable, photos) -> None:
        model = get("blip_caption_base")
        many = model.caption(photos, batch_size=3)
        assert len(many) == 4 and all(isinstance(text, str) and text == text.strip() for text in many)
        assert [model.caption(photo) for photo in photos] == many
        assert model.caption([]) == []
        assert len({len(text.split()) for text in many}) > 1

    @pytest.mark.parametrize("manner", [{}, {"num_beams": 1}, {"sample": True, "seed": 3}])
    def test_prompts_of_different_length(self, get: Callable, photos, manner: dict) -> None:
        model = get("blip_caption_base")
        prompts = ["a picture of", "two", "a picture of", "the old man and the sea"]
        many = model.caption(photos, prompts, **manner)
        assert [model.caption(photo, prompt, **manner) for photo, prompt in zip(photos, prompts)] == many
        assert model.caption(photos[0], prompts, **manner)[1] == model.caption(photos[0], "two", **manner)
        assert model.caption(photos, "two", **manner)[1] == many[1]
        assert not any(text.startswith(prompt) for text, prompt in zip(many, prompts))

    def test_beams_and_samples_come_in_lists(self, get: Callable, photos) -> None:
        model = get("blip_caption_base")
        best = model.caption(photos, num_return_sequences=3)
        assert [texts[0] for texts in best] == model.caption(photos)
        assert all(len(set(texts)) == 3 for texts in best)
        drawn = model.caption(photos, sample=True, seed=0, num_return_sequences=3)
        assert [len(texts) for texts in drawn] == [3, 3, 3, 3]
        assert model.caption(photos[1], sample=True, seed=0, num_return_sequences=3) == drawn[1]
        assert model.caption(photos[1], sample=True, seed=0) == drawn[1][0]
        assert model.caption(photos, sample=True, seed=1, num_return_sequences=3) != drawn
        free = [model.caption(photos[0], sample=True) for _ in range(4)]
        assert len(set(free)) > 1

    def test_penalties_and_lengths(self, get: Callable, photos) -> None:
        model = get("blip_caption_base")
        assert all(" " not in text for text in model.caption(photos, max_length=2, min_length=0))  # [DEC] and one token
        assert model.caption(photos, repetition_penalty=1.0) == model.caption(photos)
        assert model.caption(photos, repetition_penalty=5.0, min_length=15) != model.caption(photos, min_length=15)
        sampled = {"sample": True, "seed": 5, "min_length": 15}
        assert model.caption(photos, repetition_penalty=1.1, **sampled) == model.caption(photos, **sampled)

    def test_skipping(self, get: Callable, photos) -> None:
        model = get("blip_caption_base")
        found, errors = model.caption([photos[0], b"no", photos[1]], on_error="skip")
        assert found == [model.caption(photos[0]), None, model.caption(photos[1])]
        assert [index for index, _ in errors] == [1]
        with pytest.raises(ImageError, match="item 1"):
            model.caption([photos[0], b"no"])

    def test_pretrained_blip_captions_too(self, get: Callable, photos) -> None:
        assert isinstance(get("blip_base").caption(photos[0], "a picture of"), str)


@pytest.mark.parametrize("name", ["blip_vqa_base", "albef_vqa"])
class TestAnswer:
    def test_one_and_many(self, get: Callable, photos, name: str, passes: list[int]) -> None:
        model = get(name)
        pairs = model.answer(photos[:3], QUESTIONS, batch_size=2)
        assert passes == [2, 1] and all(isinstance(text, str) for text in pairs)
        # A padded batch = one by one, which is not so in the original's generate mode.
        assert [model.answer(photo, question) for photo, question in zip(photos, QUESTIONS)] == pairs
        passes.clear()
        several = model.answer(photos[0], QUESTIONS)
        assert passes == [1] and several[0] == pairs[0]
        assert model.answer(photos[:3], QUESTIONS[0])[0] == pairs[0]
        assert model.answer([], []) == []

    def test_choices(self, get: Callable, photos, name: str) -> None:
        model = get(name)
        one = model.answer(photos[0], QUESTIONS[0], choices=CHOICES)
        assert sorted(answer for answer, _ in one) == sorted(CHOICES)
        chances = [p for _, p in one]
        assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1, abs=1e-5)
        many = model.answer(photos[:3], QUESTIONS, choices=CHOICES)
        for photo, question, together in zip(photos, QUESTIONS, many):
            alone = model.answer(photo, question, choices=CHOICES)
            assert [answer for answer, _ in alone] == [answer for answer, _ in together]
            np.testing.assert_allclose([p for _, p in alone], [p for _, p in together], atol=1e-5)
        assert len(model.answer(photos[0], QUESTIONS[0], choices=CHOICES, k=2)) == 2
        assert model.answer(photos[0], QUESTIONS[0], choices=("yes",)) == [("yes", pytest.approx(1.0))]

    def test_skipping(self, get: Callable, photos, name: str) -> None:
        model = get(name)
        found, errors = model.answer([photos[0], "missing.jpg", photos[1]], ["what is it", "why", " "], on_error="skip")
        assert found == [model.answer(photos[0], "what is it"), None, None]
        assert [(i, type(error)) for i, error in errors] == [(1, ImageError), (2, TextError)]


class TestAnalyze:
    def test_one_pass_gives_what_the_tasks_give(self, get: Callable, photos, passes: list[int]) -> None:
        model = get("blip_base")
        found = model.analyze(photos, texts=SENTENCES, prompt="a picture of", batch_size=3)
        assert passes == [3, 1]
        vectors, captions = model.encode_image(photos), model.caption(photos, "a picture of")
        chances = model.match(photos, SENTENCES)
        assert [set(one) for one in found] == [{"embed", "match", "caption"}] * 4
        for i, one in enumerate(found):
            np.testing.assert_allclose(one["embed"], vectors[i], atol=1e-5)
            assert one["match"] == pytest.approx(float(chances[i]), abs=1e-5) and one["caption"] == captions[i]

    def test_one_picture(self, get: Callable, photos) -> None:
        model = get("blip_base")
        assert set(model.analyze(photos[0])) == {"embed", "caption"}
        one = model.analyze(photos[0], ["match"], texts="two dogs", itm_token="cls")
        assert one == {"match": pytest.approx(model.match(photos[0], "two dogs", itm_token="cls"), abs=1e-6)}
        drawn = model.analyze(photos[0], "caption", sample=True, seed=1, num_return_sequences=2)
        assert drawn == {"caption": model.caption(photos[0], sample=True, seed=1, num_return_sequences=2)}
        vqa = get("albef_vqa")
        answers = vqa.analyze(photos[:2], questions="what is it", choices=CHOICES, k=3)
        assert [dict(one["answer"]).keys() for one in answers] == [
            dict(ranked).keys() for ranked in vqa.answer(photos[:2], "what is it", CHOICES, k=3)
        ]

    def test_one_picture_and_many_texts(self, get: Callable, photos, passes: list[int]) -> None:
        model = get("blip_base")
        found = model.analyze(photos[0], texts=SENTENCES)
        assert passes == [1]
        np.testing.assert_allclose([one["match"] for one in found], model.match(photos[0], SENTENCES), atol=1e-6)
        assert {one["caption"] for one in found} == {model.caption(photos[0])}
        assert len(found) == 4 and all((one["embed"] == found[0]["embed"]).all() for one in found)

    def test_skipping(self, get: Callable, photos) -> None:
        found, errors = get("blip_base").analyze([photos[0], b""], texts=["a", "b"], on_error="skip")
        assert found[0] is not None and found[1] is None and [index for index, _ in errors] == [1]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"tasks": ["embd"]}, "unknown task 'embd' — did you mean 'embed'"),
            ({"tasks": ["match"]}, "texts: expected one string, or one for each picture, got None"),
            (
                {"tasks": ["embed"], "texts": "a"},
                "texts= goes with the task 'match', which is not among those asked for",
            ),
            ({"tasks": ["embed"], "prompt": "a"}, "prompt= goes with the task 'caption'"),
            ({"questions": "why"}, "cannot answer"),
            ({"tasks": []}, "tasks: expected some of embed, match, caption, got none"),
            ({"tasks": ["caption"], "num_beam": 2}, "unknown setting 'num_beam' — did you mean 'num_beams'"),
            ({"tasks": ["caption"], "num_beams": 0}, "num_beams"),
        ],
    )
    def test_bad_input(self, get: Callable, options: dict, said: str) -> None:
        with pytest.raises(InputError, match=said):
            get("blip_base").analyze("x.jpg", **options)


TOO_LONG = "word " * 70
BAD = [
    ("blip_base", lambda m, p: m.match(p[:2], ["a", "b", "c"]), "as many of each.*got 2 images and 3 texts"),
    ("blip_base", lambda m, p: m.match(p, None), "texts: expected one string"),
    ("blip_base", lambda m, p: m.match(p, ["a", 3, "b", "c"]), "item 1: expected a string, got int"),
    ("blip_base", lambda m, p: m.match(p, {"a": 1}), "expected one or a list of texts, got dict"),
    ("blip_base", lambda m, p: m.match(p, "a", on_error="ignore"), "on_error: expected 'raise' or 'skip'"),
    ("blip_base", lambda m, p: m.match(p, "a", batch_size=0), "batch_size: expected a whole number of at least 1"),
    ("blip_base", lambda m, p: m.match_matrix(p, "a", batch_size=0), "batch_size"),
    ("blip_base", lambda m, p: m.rerank("a", p, k=0), "k: expected a whole number of at least 1, got 0"),
    ("blip_base", lambda m, p: m.rerank("a", p, modality="txt"), "modality: expected 'image', 'text' or None"),
    ("blip_vqa_base", lambda m, p: m.answer(p[:2], ["a"]), "got 2 images and 1 questions"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], ""), "nothing to encode"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], " . "), "nothing to encode"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], None), "questions: expected one string"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], "a", choices=[]), "choices: expected at least one answer"),
    (
        "blip_vqa_base",
        lambda m, p: m.answer(p[0], "a", choices=["yes", "no", "Yes"]),
        r"'yes' \(item 0\) and 'Yes' \(item 2\)",
    ),
    ("albef_vqa", lambda m, p: m.answer(p[0], "a", choices=["no", "no"]), "every answer once"),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], "a", choices=["yes", ""]), "item 1: nothing to encode"),
    (
        "blip_vqa_base",
        lambda m, p: m.answer(p[0], "a", choices=["yes", TOO_LONG]),
        "item 1 is longer than 64 positions",
    ),
    (
        "blip_vqa_base",
        lambda m, p: m.answer(p[0], "a", num_beams=0),
        "num_beams: expected a whole number of at least 1",
    ),
    ("blip_vqa_base", lambda m, p: m.answer(p[0], "a", choices=["b"], k=0), "k: expected a whole number"),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, num_beams=0),
        "num_beams: expected a whole number of at least 1, got 0",
    ),
    ("blip_caption_base", lambda m, p: m.caption(p, num_beams=True), "num_beams"),
    ("blip_caption_base", lambda m, p: m.caption(p, max_length=1), "max_length: expected a whole number of at least 2"),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, max_length=65),
        "max_length: expected at most 64 positions, got 65",
    ),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, min_length=21),
        "min_length: expected at most max_length=20, got 21",
    ),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, repetition_penalty=0),
        "repetition_penalty: expected a number above 0",
    ),
    ("blip_caption_base", lambda m, p: m.caption(p, sample=True, top_p=0), r"top_p: expected a number in \(0, 1\]"),
    ("blip_caption_base", lambda m, p: m.caption(p, seed=-1, sample=True), "seed: expected a whole number"),
    ("blip_caption_base", lambda m, p: m.caption(p, num_return_sequences=4), "needs as many beams, got num_beams=3"),
    ("blip_caption_base", lambda m, p: m.caption(p, ""), "nothing to encode"),
    (
        "blip_caption_base",
        lambda m, p: m.caption(p, TOO_LONG, max_length=64),
        "a prompt that leaves room.* at most 62 tokens",
    ),
    ("blip_caption_base", lambda m, p: m.caption(p, "a b c d e", max_length=6), "at most 4 tokens with max_length=6"),
    ("blip_caption_base", lambda m, p: m.caption(p[:2], ["a"]), "got 2 images and 1 prompts"),
    ("blip_caption_base", lambda m, p: m.caption(3), "expected a path"),
]


@pytest.mark.parametrize(("name", "call", "said"), BAD, ids=range(len(BAD)))
def test_bad_input_is_an_error_before_any_compute(get: Callable, photos, monkeypatch, name, call, said) -> None:
    model = get(name)
    monkeypatch.setattr(model_runtime.ModelRuntime, "states", lambda self, pixels: pytest.fail("computed"))
    with pytest.raises(InputError, match=said):
        call(model, photos)


class TestHalfPrecisionAndThreads:
    @pytest.mark.parametrize("dtype", ["bf16", "fp16"])
    def test_every_task_in_half_precision(self, get: Callable, photos, dtype: str) -> None:
        exact = get("blip_base").match(photos, SENTENCES)
        np.testing.assert_allclose(get("blip_base", dtype=dtype).match(photos, SENTENCES), exact, atol=0.1)
        assert len(get("blip_caption_base", dtype=dtype).caption(photos, "a picture of")) == 4
        for name in ("blip_vqa_base", "albef_vqa"):
            expected = dict(get(name).answer(photos[0], QUESTIONS[0], CHOICES))
            for answer, chance in get(name, dtype=dtype).answer(photos[0], QUESTIONS[0], CHOICES):
                assert chance == pytest.approx(expected[answer], abs=0.1)

    def test_numbers_that_are_none(self, files: dict, photos) -> None:
        model = ite.load(files["blip_itm_base_coco"], tokenizer=VOCABULARY, device="cpu")
        model.match(photos[0], "a")
        bias = model._parts["match"].itm_head.bias
        kept = bias.clone()
        bias.fill_(float("nan"))
        try:
            with pytest.raises(ComputeError, match="try dtype='fp32'"):
                model.match(photos[0], "a dog")
        finally:
            bias.copy_(kept)
        norm = model._parts["image"].vision.norm.bias
        kept = norm.clone()
        norm.fill_(float("inf"))
        try:
            with pytest.raises(ComputeError, match=r"item 0: .*try dtype='fp32'"):
                model.match(photos[:2], "a dog")
            found, errors = model.match(photos[:2], "a dog", on_error="skip")
            assert np.isnan(found).all() and [index for index, _ in errors] == [0, 1]
        finally:
            norm.copy_(kept)

    def test_many_threads(self, get: Callable, photos) -> None:
        model, vqa = get("blip_base"), get("blip_vqa_base")

        def everything(i: int) -> Any:
            return (
                round(model.match(photos[i % 4], SENTENCES[i % 4]), 4),
                model.caption(photos[i % 4]),
                model.caption(photos[i % 4], sample=True, seed=i),
                vqa.answer(photos[i % 4], QUESTIONS[i % 3]),
            )

        expected = [everything(i) for i in range(8)]
        barrier, found = threading.Barrier(8, timeout=60), [None] * 8

        def work(i: int) -> None:
            barrier.wait()
            found[i] = everything(i)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert found == expected


@pytest.fixture(scope="module")
def folders(get: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {
        "match": get("blip_base").export_transformers(folder / "match"),
        "caption": get("blip_caption_base").export_transformers(folder / "caption"),
        "answer": get("blip_vqa_base").export_transformers(str(folder / "answer")),
    }


class TestTransformers:
    """There and back: `export_transformers`, transformers' own classes and processor, `load` of what it saves."""

    def pixels(self, model: ite.Encoder, photos: list) -> torch.Tensor:
        from image_text_embedding.inputs.pixels import normalize_pixels

        vision = model.config.vision
        return normalize_pixels(np.stack([model.runtime.pixels(photo) for photo in photos]), vision.mean, vision.std)

    @torch.inference_mode()
    def test_matching(self, get: Callable, photos, folders: dict) -> None:
        from transformers import BlipForImageTextRetrieval, BlipProcessor

        model = get("blip_base")
        theirs = BlipForImageTextRetrieval.from_pretrained(folders["match"]).eval()
        processor = BlipProcessor.from_pretrained(folders["match"])
        words = processor(text=SENTENCES, padding=True, return_tensors="pt")
        assert set(words) == {"input_ids", "attention_mask"}
        pixels = self.pixels(model, photos)
        scores = theirs(words.input_ids, pixels, attention_mask=words.attention_mask).itm_score.softmax(-1)[:, 1]
        np.testing.assert_allclose(model.match(photos, SENTENCES, itm_token="cls"), scores, atol=1e-5)
        cosines = theirs(words.input_ids, pixels, attention_mask=words.attention_mask, use_itm_head=False).itm_score
        ours = model.similarity(model.encode_image(photos), model.encode_text(SENTENCES))
        np.testing.assert_allclose(ours, cosines, atol=1e-5)

    @pytest.mark.parametrize("beams", [1, 3])
    def test_captions(self, get: Callable, photos, folders: dict, beams: int) -> None:
        from transformers import BlipForConditionalGeneration, BlipProcessor

        model = get("blip_caption_base")
        theirs = BlipForConditionalGeneration.from_pretrained(folders["caption"]).eval()
        processor = BlipProcessor.from_pretrained(folders["caption"])
        pixels, manner = self.pixels(model, photos), {"num_beams": beams, "max_length": 20, "min_length": 5}
        rows = theirs.generate(pixels, do_sample=False, **manner)
        assert processor.batch_decode(rows, skip_special_tokens=True) == model.caption(photos, **manner)
        prompt = processor(text=["a picture of"] * 4, return_tensors="pt").input_ids
        rows = theirs.generate(pixels, input_ids=prompt, do_sample=False, **manner)
        texts = ["a picture of " + text for text in model.caption(photos, "a picture of", **manner)]
        assert processor.batch_decode(rows, skip_special_tokens=True) == texts

    @pytest.mark.parametrize("beams", [1, 3])
    def test_answers(self, get: Callable, photos, folders: dict, beams: int) -> None:
        from transformers import BlipForQuestionAnswering, BlipProcessor

        model = get("blip_vqa_base")
        theirs = BlipForQuestionAnswering.from_pretrained(folders["answer"]).eval()
        processor = BlipProcessor.from_pretrained(folders["answer"])
        manner = {"num_beams": beams, "max_length": 10, "min_length": 1}
        for photo, question in zip(photos, QUESTIONS):
            words = processor(text=question, return_tensors="pt").input_ids
            rows = theirs.generate(words, self.pixels(model, [photo]), do_sample=False, **manner)
            ours = model.answer(photo, question, question_token="cls", **manner)
            assert processor.decode(rows[0], skip_special_tokens=True) == ours

    def test_a_repository_of_the_hub(self, get: Callable, photos, folders: dict, home: Path) -> None:
        """One that no YAML file names, cached as huggingface_hub lays it out; the hub itself is out of reach."""
        for path in folders["caption"].iterdir():
            put_in_hub_cache("somebody/captioner", path)
        model = ite.load("somebody/captioner")
        assert model.config.tasks == ("caption",) and model.info["source"] == "somebody/captioner"
        assert model.info["revision"] == "0" * 40
        assert model.caption(photos[0]) == get("blip_caption_base").caption(photos[0])

    @pytest.mark.parametrize("task", ["match", "caption", "answer"])
    def test_back_again(self, get: Callable, photos, folders: dict, task: str, tmp_path) -> None:
        import transformers

        kind = {"match": "ImageTextRetrieval", "caption": "ConditionalGeneration", "answer": "QuestionAnswering"}[task]
        theirs = getattr(transformers, f"BlipFor{kind}").from_pretrained(folders[task])
        theirs.save_pretrained(tmp_path)
        transformers.BlipProcessor.from_pretrained(folders[task]).save_pretrained(tmp_path)
        name = {"match": "blip_base", "caption": "blip_caption_base", "answer": "blip_vqa_base"}[task]
        again, first = ite.load(tmp_path), get(name)
        assert again.config.tasks == {"match": ("embed", "match")}.get(task, (task,))
        for room in ("vision", "text", "captions"):
            assert getattr(again.config, room) == getattr(first.config, room)
        if task == "match":
            np.testing.assert_allclose(again.match(photos, SENTENCES), first.match(photos, SENTENCES), atol=1e-6)
        elif task == "caption":
            assert again.caption(photos) == first.caption(photos)
        else:
            assert again.config.decoder == first.config.decoder and again.config.questions == first.config.questions
            assert again.answer(photos[:3], QUESTIONS) == first.answer(photos[:3], QUESTIONS)

    def test_what_cannot_be_exported(self, get: Callable, tmp_path) -> None:
        with pytest.raises(InputError, match="transformers has no ALBEF"):
            get("albef_14m").export_transformers(tmp_path / "x")
        with pytest.raises(InputError, match="cannot answer"):
            get("blip_base").export_transformers(tmp_path / "x", task="answer")
        with pytest.raises(InputError, match="unknown task 'match1'"):
            get("blip_base").export_transformers(tmp_path / "x", task="match1")
        (tmp_path / "file").write_text("")
        with pytest.raises(CheckpointError, match="cannot write the folder"):
            get("blip_base").export_transformers(tmp_path / "file")
        assert not (tmp_path / "x").exists()

    def test_another_class_of_blip(self, folders: dict, tmp_path) -> None:
        import json
        import shutil

        shutil.copytree(folders["match"], tmp_path / "m")
        config = json.loads((tmp_path / "m" / "config.json").read_text())
        (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "architectures": ["BlipModel"]}))
        with pytest.raises(ite.ConfigError, match="got 'BlipModel'"):
            ite.load(tmp_path / "m")

    @pytest.mark.filterwarnings("ignore:.*output matrix is not that of its words")  # transformers 4
    def test_a_config_built_from_two(self, tmp_path) -> None:
        """As people who live there build it; `from_text_vision_configs` is gone in transformers 5."""
        from transformers import BlipConfig, BlipForConditionalGeneration, BlipTextConfig, BlipVisionConfig

        text = BlipTextConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
        vision = BlipVisionConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=256, image_size=32
        )
        build = getattr(BlipConfig, "from_text_vision_configs", None)
        config = build(text, vision) if build else BlipConfig(text_config=text, vision_config=vision)
        BlipForConditionalGeneration(config).save_pretrained(tmp_path)
        model = ite.load(tmp_path, tokenizer=VOCABULARY)
        assert model.config.vision.image_size == 32 and isinstance(model.caption(data.coffee()), str)


class TestPipelines:
    def test_questions(self, get: Callable, photos) -> None:
        model = get("blip_vqa_base")
        vqa = ite.pipeline("visual-question-answering", model)
        pictures = [Image.fromarray(photo) for photo in photos[:2]]
        one = vqa(question=QUESTIONS[0], image=pictures[0])
        assert one == [{"answer": model.answer(photos[0], QUESTIONS[0])}]
        assert vqa(pictures[0], QUESTIONS[0]) == vqa({"image": pictures[0], "question": QUESTIONS[0]}) == one
        assert vqa([{"image": pictures[0], "question": QUESTIONS[0]}]) == vqa([pictures[0]], QUESTIONS[0]) == [one]
        every = [[{"answer": model.answer(photo, q)}] for q in QUESTIONS[:2] for photo in photos[:2]]
        assert vqa(image=pictures, question=QUESTIONS[:2]) == every
        assert vqa(pictures[0], QUESTIONS[:2]) == every[::2]
        ranked = vqa(pictures[0], QUESTIONS[0], choices=CHOICES, top_k=2)
        assert [set(row) for row in ranked] == [{"score", "answer"}] * 2
        assert ranked[0]["score"] > ranked[1]["score"]

    def test_captions(self, get: Callable, photos) -> None:
        model = get("blip_caption_base")
        captioner = ite.pipeline("image-to-text", model)
        pictures = [Image.fromarray(photo) for photo in photos[:2]]
        texts = model.caption(photos[:2])
        assert captioner(pictures[0]) == [{"generated_text": texts[0]}]
        assert captioner(pictures) == captioner(images=pictures) == [[{"generated_text": text}] for text in texts]
        prompted = captioner(pictures[0], prompt="a picture of")
        assert prompted == [{"generated_text": "a picture of " + model.caption(photos[0], "a picture of")}]
        assert len(captioner(pictures[0], sample=True, seed=0, num_return_sequences=3)) == 3
        (short,) = captioner(pictures[0], prompt="a picture of", max_new_tokens=2)
        new = short["generated_text"].removeprefix("a picture of ")
        assert new == model.caption(photos[0], "a picture of", max_length=6, min_length=0)

    def test_bad_input(self, get: Callable) -> None:
        with pytest.raises(InputError, match="unknown task 'image-to-txt' — did you mean 'image-to-text'"):
            ite.pipeline("image-to-txt")
        with pytest.raises(InputError, match="cannot answer"):
            ite.pipeline("vqa", get("blip_base"))
        with pytest.raises(InputError, match="expected a picture"):
            ite.pipeline("image-to-text", get("blip_caption_base"))()
        with pytest.raises(InputError, match=r"unknown setting 'on_error'.*num_beams"):
            ite.pipeline("image-to-text", get("blip_caption_base"))("x.jpg", on_error="skip")
        with pytest.raises(InputError, match="unknown setting 'num_beam' — did you mean 'num_beams'"):
            ite.pipeline("vqa", get("blip_vqa_base"))("x.jpg", "what is it", num_beam=2)
        with pytest.raises(InputError, match="'question'"):
            ite.pipeline("vqa", get("blip_vqa_base"))([{"image": "x.jpg"}])


def test_an_iterable_may_hand_out_one_object_again(get: Callable, photos) -> None:
    """An array, or the frames of PIL's ImageSequence, as `encode_image` takes them."""
    same = [photo[:300, :300] for photo in photos[:3]]
    model, captioner = get("blip_base"), get("blip_caption_base")

    def frames() -> Any:
        frame = np.empty_like(same[0])
        for photo in same:
            frame[:] = photo
            yield frame

    buffer = io.BytesIO()
    Image.fromarray(same[0]).save(buffer, "TIFF", save_all=True, append_images=[Image.fromarray(p) for p in same[1:]])
    for given in (frames, lambda: ImageSequence.Iterator(Image.open(buffer))):
        np.testing.assert_allclose(model.match(given(), "a dog"), model.match(same, "a dog"), atol=1e-6)
        np.testing.assert_allclose(
            model.match_matrix(given(), ["a dog"]), model.match_matrix(same, ["a dog"]), atol=1e-6
        )
        assert [i for i, _ in model.rerank("a dog", given())] == [i for i, _ in model.rerank("a dog", same)]
        assert captioner.caption(given()) == captioner.caption(same)


def test_skipping_what_came_alone_or_is_shared(get: Callable, photos) -> None:
    model = get("blip_base")
    found, errors = model.match("missing.jpg", ["a dog", "a cat"], on_error="skip")
    assert np.isnan(found).all() and [index for index, _ in errors] == [0, 1]
    found, errors = model.match(photos[:2], "", on_error="skip")
    assert np.isnan(found).all() and [type(error) for _, error in errors] == [TextError, TextError]
    found, errors = get("blip_caption_base").caption("missing.jpg", on_error="skip")
    assert found is None and [type(error) for _, error in errors] == [ImageError]
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        model.match("missing.jpg", ["a dog", "a cat"])


def test_numbers_of_numpy_are_numbers(get: Callable, photos) -> None:
    model, captioner = get("blip_base"), get("blip_caption_base")
    assert len(model.rerank("a dog", photos, k=np.int64(2), batch_size=np.int32(3))) == 2
    drawn = captioner.caption(photos[0], sample=True, top_p=np.float32(0.9), seed=np.int64(1))
    assert isinstance(drawn, str)
    with pytest.raises(InputError, match="batch_size"):
        model.match(photos, "a dog", batch_size=np.bool_(True))


def test_token_ids_become_text(get: Callable) -> None:
    """As bert-base-uncased's own tokenizer decodes: pieces joined, punctuation drawn to its word, special tokens left out."""
    model = get("blip_vqa_base")
    tokenizer = model.runtime.tokenizer
    text = "it's a skateboarder, isn't it? (yes - 3.5 of them!)"
    ids = tokenizer(text, dataclasses.replace(model.config.captions, to_space=""))
    assert tokenizer.decode(ids) == "it's a skateboarder, isn't it? ( yes - 3. 5 of them! )"
    assert tokenizer.decode([30522, *ids[:4], 30523, 0, 0]) == "it's"
    assert tokenizer.decode([]) == ""


def test_files_of_one_head_are_recognised() -> None:
    from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint
    from image_text_embedding.models.checkpoints.recognition import recognise_checkpoint

    position = torch.zeros(1, 577, 768)
    for keys, name in (
        (("text_decoder.cls.predictions.bias",), "blip_caption_base"),
        (("text_decoder.cls.predictions.bias", "text_encoder.embeddings.word_embeddings.weight"), "blip_vqa_base"),
        (("text_decoder.cls.predictions.bias", "text_encoder.embeddings.token_type_embeddings.weight"), "albef_vqa"),
        (("itm_head.bias", "text_encoder.embeddings.word_embeddings.weight"), "blip_itm_base_coco"),
    ):
        tensors = {key: torch.zeros(1) for key in keys} | {"visual_encoder.pos_embed": position}
        config = recognise_checkpoint(Checkpoint(Path("mine.pth"), tensors, {}))
        expected = model_config(name)
        assert (config.family, config.tasks, config.decoder) == (expected.family, expected.tasks, expected.decoder)
        assert config.vision.image_size == 384


def test_decoder_configurations() -> None:
    """The numbers of the official code: `models/blip_vqa.py`, `models/model_vqa.py`, `data/utils.py`, `VQA.py`."""
    assert model_config("blip_vqa_capfilt").decoder == DecoderConfig(12, 30522, label_smoothing=0.1)
    assert model_config("albef_vqa").decoder == DecoderConfig(6, None, first_token_twice=True)
    assert model_config("blip_caption_large").decoder == DecoderConfig(12, 30522)
    assert [model_config(name).vision.image_size for name in SMALL[:6]] == [224, 384, 256, 384, 480, 384]
    assert model_config("blip_vqa_base").questions.max_words == 50


# --- The official weights: skipped, visibly, where they are not in the user's own cache ----------------------------------


@pytest.fixture(scope="module")
def beach() -> Any:
    """The demonstration picture of the published numbers, from the user's hub cache."""
    return _cached("hf-internal-testing/blip-test-image", "demo.jpg", repo_type="dataset")


def _cached(repo_id: str, name: str, **options: Any) -> Path:
    from huggingface_hub import try_to_load_from_cache

    home = REAL_ENVIRONMENT.get("HF_HOME") or REAL_ENVIRONMENT.get("XDG_CACHE_HOME", "~/.cache") + "/huggingface"
    cache = Path(REAL_ENVIRONMENT.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    found = try_to_load_from_cache(repo_id, name, cache_dir=cache, **options)
    if not isinstance(found, str):
        pytest.skip(f"{repo_id}/{name} is not in {cache}")
    return Path(found)


def _official(repo_id: str, name: str | None = None) -> ite.Encoder:
    folder = _cached(repo_id, "config.json").parent
    if not any((folder / file).is_file() for file in ("model.safetensors", "pytorch_model.bin")):
        pytest.skip(f"the weights of {repo_id} are not in the cache")
    named = {"model": folder} if name is None else {"model": name, "checkpoint": folder}
    return ite.load(**named, tokenizer=VOCABULARY)


@pytest.mark.weights
class TestPublishedNumbers:
    """transformers' own expected results, and those of the original demonstration (shared FACTS, section 2)."""

    def test_captions(self, beach: Path) -> None:
        model = _official("Salesforce/blip-image-captioning-base")
        assert model.caption(beach, num_beams=1, min_length=0) == "a woman sitting on the beach with her dog"
        prompted = model.caption(beach, "a picture of", num_beams=1, min_length=0)
        assert prompted == "a woman and her dog on the beach"

    def test_answers(self, beach: Path) -> None:
        model = _official("Salesforce/blip-vqa-base")
        question = "how many dogs are in the picture?"
        assert model.answer(beach, question, num_beams=1, question_token="cls") == "1"

    def test_matching(self, beach: Path) -> None:
        model = _official("Salesforce/blip-itm-base-coco")
        text = "A woman and her dog sitting in a beach"
        assert model.match(beach, text, itm_token="cls") == pytest.approx(0.9971, abs=1e-3)
        cosine = model.similarity(model.encode_image(beach), model.encode_text(text))
        assert cosine == pytest.approx(0.5162, abs=1e-3)

    def test_matching_as_the_original_demonstration(self, beach: Path) -> None:
        model = _official("Salesforce/blip-itm-base-coco", "blip_itm_base_coco")
        text = "a woman sitting on the beach with a dog"
        assert model.match(beach, text, itm_token="cls") == pytest.approx(0.9960, abs=1e-3)
        cosine = model.similarity(model.encode_image(beach), model.encode_text(text))
        assert cosine == pytest.approx(0.5262, abs=1e-3)
