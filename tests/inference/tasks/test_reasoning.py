"""Reasoning about two pictures: shapes, batches, one pass per picture, errors, saved files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.environment import VOCABULARY
from support.models import NLVR

import image_text_embedding as ite
from image_text_embedding.foundation.errors import ConfigError, ImageError, InputError, TextError
from image_text_embedding.inference import model_runtime
from image_text_embedding.models.config import config_from_mapping

STATEMENTS = ["there is a dog in the left image", "both pictures show coffee", "a rocket starts, left of a cat!"]


@pytest.fixture
def pairs(task_photos) -> list[Any]:
    a, b, c, d = task_photos
    return [(a, b), (c, d), (b, c)]


@pytest.mark.parametrize("name", ["blip_nlvr", "albef_nlvr"])
class TestReason:
    def test_one_pair_and_many(self, small_encoder: Callable, pairs, name: str, vit_passes: list[int]) -> None:
        model = small_encoder(name)
        found = model.reason(pairs, STATEMENTS, batch_size=2)
        assert vit_passes == [4, 2] and found.shape == (3,) and found.dtype == np.float32
        assert bool(((found > 0) & (found < 1)).all())
        singles = [model.reason(pair, text) for pair, text in zip(pairs, STATEMENTS)]
        assert isinstance(singles[0], float)
        np.testing.assert_allclose(found, singles, atol=1e-5)
        left, right = pairs[0]
        assert abs(model.reason((right, left), STATEMENTS[0]) - singles[0]) > 1e-5, "left and right differ"

    def test_it_is_the_heads_probability(self, small_encoder: Callable, pairs, name: str) -> None:
        model = small_encoder(name)
        runtime, config = model.runtime, model.config
        states = runtime.states([runtime.pixels(picture) for picture in pairs[0]])
        row = runtime.tokenizer(STATEMENTS[0], config.captions)
        row[0] = config.text.enc_id or row[0]
        logits = runtime.part("reason")(*runtime.padded([row]), states[:1], states[1:])
        assert model.reason(pairs[0], STATEMENTS[0]) == pytest.approx(float(logits.softmax(-1)[0, 1]), abs=1e-6)

    def test_one_pair_for_many_statements_and_one_statement_for_many_pairs(
        self, small_encoder: Callable, pairs, name: str, vit_passes: list[int]
    ) -> None:
        model = small_encoder(name)
        found = model.reason(pairs[0], STATEMENTS, batch_size=2)
        assert vit_passes == [2], "the pair is read and computed once"
        np.testing.assert_allclose(found, [model.reason(pairs[0], text) for text in STATEMENTS], atol=1e-5)
        found = model.reason(pairs, STATEMENTS[0])
        np.testing.assert_allclose(found, [model.reason(pair, STATEMENTS[0]) for pair in pairs], atol=1e-5)
        assert model.reason([], []).shape == (0,) and model.reason(pairs[:1], STATEMENTS[:1]).shape == (1,)

    def test_pairs_in_many_forms(self, small_encoder: Callable, pairs, name: str, tmp_path) -> None:
        model = small_encoder(name)
        small = [[photo[:200, :200] for photo in pair] for pair in pairs]
        expected = model.reason(small, STATEMENTS)
        paths = [[tmp_path / f"{i}{j}.png" for j in range(2)] for i in range(3)]
        for row, pair in zip(paths, small):
            for path, photo in zip(row, pair):
                Image.fromarray(photo).save(path)
        np.testing.assert_allclose(model.reason(np.array(small), STATEMENTS), expected, atol=1e-6)
        assert model.reason(np.array(small[0]), STATEMENTS[0]) == pytest.approx(expected[0], abs=1e-5)
        np.testing.assert_allclose(model.reason(paths, STATEMENTS), expected, atol=1e-6)
        opened = [[Image.open(path) for path in row] for row in paths]
        np.testing.assert_allclose(model.reason(opened, STATEMENTS), expected, atol=1e-6)

        def frames() -> Iterator[list[np.ndarray]]:
            buffers = [np.empty_like(small[0][0]) for _ in range(2)]
            for pair in small:
                for buffer, photo in zip(buffers, pair):
                    buffer[:] = photo
                yield buffers

        np.testing.assert_allclose(model.reason(frames(), STATEMENTS), expected, atol=1e-6)

    def test_skipping(self, small_encoder: Callable, pairs, name: str) -> None:
        model = small_encoder(name)
        items = [pairs[0], (pairs[1][0], "missing.jpg"), pairs[1], pairs[2], (pairs[0][0],), pairs[0]]
        texts = ["a dog", "a dog", "", "a dog", "a dog", "a dog"]
        found, errors = model.reason(items, texts, on_error="skip", batch_size=2)
        assert np.isnan(found).tolist() == [False, True, True, False, True, False]
        assert [(i, type(error)) for i, error in errors] == [(1, ImageError), (2, TextError), (4, InputError)]
        assert "item 1: the right picture: no such file" in str(errors[0][1])
        np.testing.assert_allclose(found[[0, 3]], [model.reason(pairs[i], "a dog") for i in (0, 2)], atol=1e-5)
        found, errors = model.reason(("missing.jpg", pairs[0][0]), ["a", "b"], on_error="skip")
        assert np.isnan(found).all() and [index for index, _ in errors] == [0, 1]
        with pytest.raises(ImageError, match=r"^item 1: the left picture: no such file"):
            model.reason([pairs[0], ("missing.jpg", pairs[0][0])], "a dog")
        with pytest.raises(ImageError, match=r"^the left picture: no such file"):
            model.reason(("missing.jpg", pairs[0][0]), "a dog")

    def test_a_saved_file_reasons(self, small_encoder: Callable, pairs, name: str, tmp_path) -> None:
        model = small_encoder(name)
        again = ite.load(model.save(tmp_path / "mine.safetensors"), tokenizer=VOCABULARY, device="cpu")
        assert again.config.tasks == ("reason",) and again.config.text.pair == model.config.text.pair
        assert again.reason(pairs[0], "a dog") == pytest.approx(model.reason(pairs[0], "a dog"), abs=1e-6)


BAD = [
    (lambda m, p: m.reason(p[:3], "a"), r"a pair of pictures \(left, right\), or a list of pairs, got 3 pictures"),
    (lambda m, p: m.reason(tuple(p[:3]), "a"), "got 3 pictures"),
    (lambda m, p: m.reason(np.zeros((3, 9, 9, 3), np.uint8), "a"), "got 3 pictures"),
    (lambda m, p: m.reason(p[:1], "a"), "got 1 picture$"),
    (lambda m, p: m.reason(p[0], "a"), r"got one picture \(ndarray\)"),
    (lambda m, p: m.reason("left.jpg", "a"), r"got one picture \(str\)"),
    (lambda m, p: m.reason([p[:2], p[:3]], "a"), r"item 1: expected a pair of pictures \(left, right\), got 3 items"),
    (lambda m, p: m.reason([p[:2], p[0]], "a"), r"item 1: .*got one picture \(ndarray\)"),
    (lambda m, p: m.reason([{"left": 1, "right": 2}, p[:2]], "a"), "item 0: .*got a dict"),
    (lambda m, p: m.reason({"left": 1, "right": 2}, "a"), "got a dict"),
    (lambda m, p: m.reason([p[:2], p[:2]], ["a", "b", "c"]), "got 2 pairs of pictures and 3 statements"),
    (lambda m, p: m.reason(p[:2], None), "statements: expected one string"),
    (lambda m, p: m.reason(p[:2], " . "), "nothing to encode"),
    (lambda m, p: m.reason(p[:2], "a", batch_size=0), "batch_size"),
    (lambda m, p: m.reason(p[:2], "a", on_error="no"), "on_error"),
    (lambda m, p: m.match(p[0], "a"), "blip_nlvr cannot match: its checkpoint has heads for reason"),
    (lambda m, p: m.analyze(p[0]), r"call reason\(\) with pairs"),
    (lambda m, p: m.encode_image(p[0]), "cannot embed"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(small_encoder: Callable, task_photos, monkeypatch, call, message: str) -> None:
    model = small_encoder("blip_nlvr")
    monkeypatch.setattr(model_runtime.ModelRuntime, "states", lambda self, pixels: pytest.fail("computed"))
    with pytest.raises(InputError, match=message):
        call(model, task_photos)


def test_a_model_without_the_head_names_those_that_have_it(small_encoder: Callable) -> None:
    with pytest.raises(InputError, match=r"blip_base cannot reason.*Models that can reason: albef_nlvr, blip_nlvr"):
        small_encoder("blip_base").reason(("a.jpg", "b.jpg"), "a")


def test_statements_are_not_cut_after_35_tokens(small_encoder: Callable, task_photos) -> None:
    model, long = small_encoder("blip_nlvr"), "skateboarding " * 20
    with pytest.warns(ite.TruncatedTextWarning, match="1 of 2 texts are longer than blip_nlvr reads") as caught:
        model.reason(task_photos[:2], ["word " * 41, "a dog"])
    assert caught[0].filename == __file__
    assert len(model.runtime.tokenizer.encode(long, model.config.captions)[0]) > 35


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["reason", "match"]}, "'reason' must be a model's only task"),
        ({"tasks": ["match"]}, "pair must be set exactly when"),
        ({"text": {"pair": None}}, "pair must be set exactly when"),
        ({"text": {"depth": 17}}, "an even number of fusion layers"),
        ({"text": {"pair": {"twin": True}}}, "unknown key 'twin' — did you mean 'twins'"),
    ],
)
def test_impossible_configurations(change: dict, message: str) -> None:
    raw = dataclasses.asdict(NLVR["albef"])
    text = raw["text"] | change.pop("text", {})
    with pytest.raises(ConfigError, match=message):
        config_from_mapping({**raw, "text": text, **change}, "my.yaml")
