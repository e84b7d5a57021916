"""datasets, torch's DataLoader, Ray Data and Daft: columns of pictures and texts -> vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import image_text_embedding as ite

Scenes = list[tuple[Path, str]]


def test_embed_batch(demo: Any, scenes: Scenes) -> None:
    paths, captions = [path for path, _ in scenes], [caption for _, caption in scenes]
    found = demo.embed_batch({"image": paths, "text": captions, "id": list(range(8))})
    assert set(found) == {"image_embedding", "text_embedding"}
    np.testing.assert_allclose(found["image_embedding"], demo.encode_image(paths), atol=1e-6)
    assert set(demo.embed_batch({"caption": captions}, text="caption")) == {"text_embedding"}
    skipped = demo.embed_batch({"image": ["missing.jpg", paths[0]]}, on_error="skip")["image_embedding"]
    assert np.isnan(skipped).all(axis=1).tolist() == [True, False]
    with pytest.raises(ite.ImageError) as raised:
        demo.embed_batch({"image": [paths[0], "missing.jpg"]})
    assert raised.value.index == 1
    with pytest.raises(ite.InputError, match="'caption'"):
        demo.embed_batch({"caption": captions})


def test_datasets_maps_it(demo: Any, scenes: Scenes) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra datasets")
    table = datasets.Dataset.from_dict(
        {"image": [str(path) for path, _ in scenes], "text": [text for _, text in scenes]}
    )
    table = table.cast_column("image", datasets.Image())
    mapped = table.map(demo.embed_batch, batched=True, batch_size=3).with_format("numpy")
    expected = demo.encode_image([path for path, _ in scenes])
    np.testing.assert_allclose(np.stack(mapped["image_embedding"][:]), expected, atol=1e-5)
    assert mapped.column_names == ["image", "text", "image_embedding", "text_embedding"]
    # datasets finds its cache by the pickle of the function: an equal model has an equal one.
    from datasets.fingerprint import Hasher

    assert Hasher.hash(demo.embed_batch) == Hasher.hash(ite.load("blip_demo", device="cpu").embed_batch)


def test_workers_decode_without_the_model(demo: Any, scenes: Scenes) -> None:
    import pickle

    paths = [path for path, _ in scenes]
    dataset = ite.adapters.PictureDataset(paths, demo)
    assert len(dataset) == 8 and len(pickle.dumps(dataset)) < 5000
    batches = list(DataLoader(dataset, batch_size=3, num_workers=1))
    assert [batch.shape[0] for batch in batches] == [3, 3, 2] and batches[0].dtype == torch.uint8
    found = np.concatenate([demo.encode_image(batch.numpy()) for batch in batches])
    np.testing.assert_allclose(found, demo.encode_image(paths), atol=1e-5)
    with pytest.raises(ite.ImageError) as raised:
        ite.adapters.PictureDataset([paths[0], "missing.jpg"], demo)[1]
    assert raised.value.index == 1


@pytest.mark.ray
def test_ray_data(scenes: Scenes) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    import ray.data as ray_data

    model = ite.load("blip_demo", device="cpu")
    ray.init(num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    try:
        table = ray_data.from_items(
            [{"image": str(path), "n": n} for n, (path, _) in enumerate(scenes)], override_num_blocks=1
        )
        rows = table.map_batches(lambda batch: {**batch, **model.embed_batch(batch)}).take_all()
    finally:
        ray.shutdown()
    found = np.stack([row["image_embedding"] for row in sorted(rows, key=lambda row: row["n"])])
    np.testing.assert_allclose(found, model.encode_image([path for path, _ in scenes]), atol=1e-5)


def test_daft(demo: Any, scenes: Scenes) -> None:
    daft = pytest.importorskip("daft", reason="needs the extra daft")
    paths = [str(path) for path, _ in scenes]
    table = daft.from_pydict({"image": paths})

    @daft.func.batch(return_dtype=daft.DataType.embedding(daft.DataType.float32(), demo.dim))
    def vectors(pictures: Any) -> Any:
        return demo.encode_image(pictures.to_pylist())

    found = table.with_column("vector", vectors(table["image"])).to_pydict()["vector"]
    np.testing.assert_allclose(np.stack(found), demo.encode_image(paths), atol=1e-5)
