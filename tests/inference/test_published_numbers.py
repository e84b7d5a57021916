"""The published sample scores, on the official weights: skipped, visibly, where those are not in the user's own cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.environment import REAL_ENVIRONMENT, VOCABULARY

import image_text_embedding as ite


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
