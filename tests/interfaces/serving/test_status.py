"""Whether the service works, what it serves, and what it counts."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.http_service import RunningService, error_of, running_service, wait_until


def test_readiness_follows_what_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_service() as running:
        wait_until(lambda: running.get("/readyz").status_code == 200)
        monkeypatch.setattr("image_text_embedding.interfaces.serving.service.PROOF_SECONDS", -1.0)
        assert "computed nothing" in error_of(running.get("/readyz"), 503)["message"]
        assert running.get("/healthz").json() == {"status": "ok"}


def test_a_model_that_computes_nonsense_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_text_embedding.inference.model_runtime import ModelRuntime

    real = ModelRuntime.vectors
    monkeypatch.setattr(ModelRuntime, "vectors", lambda self, pixels: real(self, pixels) * float("nan"))
    with running_service() as running:
        wait_until(lambda: "batch_size_count" in running.get("/metrics").text)
        assert "not computed anything yet" in error_of(running.get("/readyz"), 503)["message"]


def test_info_says_where_vectors_come_from(service: RunningService, model: Any) -> None:
    facts = service.get("/info").json()
    (entry,) = facts["models"]
    assert entry["sha256"] == model.info["sha256"] and entry["dim"] == model.dim
    assert facts["limits"]["max_items"] == 256
    assert not str(entry["source"]).startswith("/")


def test_metrics_count_requests_and_batches(service: RunningService) -> None:
    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", service.get("/metrics").text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    answered = 'image_text_embedding_requests_total{path="/v1/embeddings",status="200"}'
    refused = 'image_text_embedding_requests_total{path="/v1/embeddings",status="422"}'
    items = 'image_text_embedding_items_total{model="blip_demo",task="embed_text"}'
    before = value(answered), value(refused), value(items)
    assert service.post("/v1/embeddings", {"input": ["a dog", "a cat"]}).status_code == 200
    assert service.post("/v1/embeddings", {}).status_code == 422
    assert (value(answered), value(refused), value(items)) == (before[0] + 1, before[1] + 1, before[2] + 2)
    # Not one row for every path that somebody tries.
    for number in range(3):
        service.get(f"/nothing/{number}")
    text = service.get("/metrics").text
    assert "/nothing" not in text and 'path="no route",status="404"' in text


def test_openapi_describes_every_route(service: RunningService) -> None:
    paths = service.get("/openapi.json").json()["paths"]
    assert {"/v1/embeddings", "/v1/models", "/info", "/healthz", "/readyz", "/metrics"} <= set(paths)
    assert "EmbeddingsBody" in str(paths["/v1/embeddings"]["post"]["requestBody"])


def test_two_models_and_their_names() -> None:
    with running_service(models=("blip_demo", "albef_demo")) as running:
        wait_until(lambda: running.get("/readyz").status_code == 200)
        one, two = (
            running.post("/v1/embeddings", {"input": "a dog", "model": name}).json()
            for name in ("blip_demo", "albef-demo")
        )
        assert (one["model"], two["model"]) == ("blip_demo", "albef_demo")
        assert one["data"] != two["data"]
        assert running.post("/v1/embeddings", {"input": "a dog"}).json()["data"] == one["data"]
        message = error_of(running.post("/v1/embeddings", {"input": "a dog", "model": "x"}), 404)["message"]
        assert "This server has blip_demo, albef_demo" in message
