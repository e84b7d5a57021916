"""int8 towers: what is computed in 8 bits, and how close the vectors of photos and drawings are to those of torch in fp32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import small

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.inference.backends.quiet_exporters import no_telemetry
from image_text_embedding.models.checkpoints.checkpoint_files import save_weights
from image_text_embedding.models.part_cache import PARTS

MIN_COSINE = 0.998

NEEDED = {"openvino": ("openvino", "nncf"), "onnx": ("onnxruntime", "onnx", "onnxscript")}


@pytest.fixture(scope="module", params=NEEDED)
def backend(request: pytest.FixtureRequest) -> str:
    for module in NEEDED[request.param]:
        with no_telemetry():
            pytest.importorskip(module, reason=f"the extra [{request.param}] is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a BLIP whose ViT is as deep as the base model's, and as sensitive: the errors of its blocks add up."""
    config = small("blip_base")
    config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, depth=12, width=96, num_heads=6))
    generator = torch.Generator().manual_seed(7)
    tensors: dict[str, torch.Tensor] = {}
    for part in ("image", "text"):
        for key, tensor in PARTS[part](config).state_dict().items():
            mean = 1.0 if "norm" in key.lower() and key.endswith("weight") else 0.0
            tensors[key] = tensor.clone().normal_(mean, 0.08, generator=generator)
    path = tmp_path_factory.mktemp("deep") / "deep.safetensors"
    save_weights(path, tensors, {"config": dataclasses.asdict(config)})
    return path


@pytest.fixture(scope="module")
def exact(deep: Path, vocabulary: Path) -> Any:
    return ite.load(deep, tokenizer=vocabulary, device="cpu", modality="image")


@pytest.fixture(scope="module")
def quantized(home: Path, deep: Path, vocabulary: Path, backend: str) -> Iterator[Any]:
    yield ite.load(
        deep, tokenizer=vocabulary, device="cpu", modality="image", backend=backend, precision="int8"
    )  # calibrated on nothing of the user's


def crops(photos: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Square crops of photos, some of them mirrored."""
    random = np.random.default_rng(2)
    found = []
    for number in range(count):
        photo = photos[number % len(photos)]
        side = int(min(photo.shape[:2]) * random.uniform(0.2, 1))
        top, left = (random.integers(length - side + 1) for length in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        found.append(np.ascontiguousarray(crop[:, ::-1] if number % 2 else crop))
    return found


def cosines(model: Any, exact: Any, pictures: list[Any]) -> np.ndarray:
    return (model.encode_image(pictures) * exact.encode_image(pictures)).sum(axis=1)


def test_photos_without_photos_to_calibrate_on(quantized: Any, exact: Any, task_photos: list[np.ndarray]) -> None:
    found = cosines(quantized, exact, crops(task_photos, 200))
    assert found.min() >= MIN_COSINE, "of 200 crops of photos"
    assert abs(found - 1).max() > 1e-6, "not computed in 8 bits"
    vectors = exact.encode_image(crops(task_photos, 40))
    assert np.median(vectors @ vectors.T) < 0.99, "the crops' vectors differ more from each other than from these"


@pytest.mark.parametrize("name", ["blip_demo", "albef_demo"])
def test_trained_models_on_drawings(home: Path, backend: str, name: str) -> None:
    options: dict[str, Any] = {"device": "cpu", "modality": "image"}
    model = ite.load(name, backend=backend, precision="int8", **options)
    pictures = [entry["path"] for entry in gallery()]
    assert cosines(model, ite.load(name, **options), pictures).min() >= MIN_COSINE


def test_only_products_of_many_tokens_with_weights_are_in_8_bits(quantized: Any, backend: str) -> None:
    """Four in each block but the last, of which only the class token is computed, and for ONNX Runtime but the first; none
    within attention."""
    folder = quantized.runtime.compiled["image"].folder
    found = (products_of_openvino if backend == "openvino" else products_of_onnx)(folder)
    in_8_bits = [has_weights for is_8_bits, has_weights in found if is_8_bits]
    assert in_8_bits == [True] * (4 * {"openvino": 11, "onnx": 10}[backend])
    assert len(found) - len(in_8_bits) >= 11 + 5, "attention, the patches, the last block and the projection"


def products_of_openvino(folder: Path) -> list[tuple[bool, bool]]:
    """For each product: is an input quantised, is the other a weight."""
    with no_telemetry():
        import openvino
    found = []
    for node in openvino.Core().read_model(folder / "model.xml").get_ops():
        if node.get_type_name() in ("MatMul", "Convolution", "ScaledDotProductAttention", "Einsum"):
            inputs = [node.input_value(i).get_node() for i in range(node.get_input_size())]
            kinds = [each.get_type_name() for each in inputs]
            # Weights in 8 bits are a Constant behind a Convert and a Multiply.
            found.append(("FakeQuantize" in kinds, kinds[1] in ("Multiply", "Constant", "Convert")))
    return found


def products_of_onnx(folder: Path) -> list[tuple[bool, bool]]:
    """As `products_of_openvino`."""
    import onnx

    graph = onnx.load(folder / "model.onnx").graph
    sources = {output: node for node in graph.node for output in node.output}
    weights = {each.name for each in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv", "Einsum"):
            first, second = (sources.get(name) for name in list(node.input)[:2])
            quantized = first is not None and first.op_type == "DequantizeLinear"
            is_weight = second.input[0] in weights if second is not None and second.input else node.input[1] in weights
            found.append((quantized, is_weight))
    return found
