"""Towers as graphs for other runtimes, from pixels or token ids to a vector, written as ONNX or OpenVINO files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from image_text_embedding.inference.backends.compiled_tower import INPUTS, OUTPUTS, Inputs, modality_of
from image_text_embedding.inference.backends.quantization.quantizers import quantize_onnx, quantize_openvino
from image_text_embedding.inference.backends.quiet_exporters import import_backend, quietly
from image_text_embedding.inference.backends.signal_stack import unchanged_signal_stack
from image_text_embedding.models.config import ModelConfig


class ImageGraph(nn.Module):
    """The image tower, preceded by the normalization of pixels."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, tower: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.tower = tower
        self.dtype = next(tower.parameters()).dtype
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device="cpu")[:, None, None]
            for values in (config.vision.mean, config.vision.std)
        )
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, S, S, 3) -> float32 (B, embed_dim), not yet of unit length."""
        return self.tower(self.values(pixels)).float()

    def values(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, S, S, 3) -> what the tower takes, (B, 3, S, S)."""
        return (pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift).to(self.dtype)


class StatesGraph(ImageGraph):
    """The image tower up to its states."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, S, S, 3) -> float32 (B, 1 + patches, width)."""
        return self.tower.states(self.values(pixels)).float()  # type: ignore[operator]


class TextGraph(nn.Module):
    """The text tower; its vectors are float32 in every precision."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 (B, L), 1 = a real token -> float32 (B, embed_dim), not yet of unit length."""
        return self.tower(input_ids, attention_mask).float()


def graph_of(tower: nn.Module, output: str, config: ModelConfig) -> nn.Module:
    """The graph to export of a tower on the CPU; `output` is one of INPUTS."""
    if output == "text":
        return TextGraph(tower).eval()
    return (ImageGraph if output == "image" else StatesGraph)(tower, config).eval()


def example_inputs(output: str, config: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Made-up inputs for exporters: batches of two, texts of seven tokens.

    Batch and length differ from each other and from 1, so that no exporter takes one for a constant.
    """
    if modality_of(output) == "image":
        size = config.vision.image_size
        return (torch.zeros(2, size, size, 3, dtype=torch.uint8),)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    return torch.ones(2, 7, dtype=torch.long), mask


def write_onnx(graph: nn.Module, output: str, config: ModelConfig, path: Path) -> None:
    """Write one ONNX file, for batches and texts of any size. (The limit of protobuf is 2 GB; every tower is smaller.)

    Raises:
        SetupError: a package that torch's exporter needs is not installed.
    """
    import_backend("onnx", "onnx"), import_backend("onnxscript", "onnx")
    dynamic = {0: torch.export.Dim.DYNAMIC, **({1: torch.export.Dim.DYNAMIC} if output == "text" else {})}
    with quietly(), torch.inference_mode(False), torch.no_grad():
        torch.onnx.export(
            graph,
            example_inputs(output, config),
            path,
            input_names=list(INPUTS[output]),
            output_names=[OUTPUTS[output]],
            dynamic_shapes=tuple(dynamic for _ in INPUTS[output]),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def write_onnx_int8(graph: nn.Module, output: str, config: ModelConfig, path: Path, samples: Sequence[Inputs]) -> None:
    """Write an ONNX file in 8 bits, calibrated on the samples.

    Raises:
        SetupError: a package that this needs is not installed.
    """
    exported = path.with_suffix(".fp32.onnx")
    try:
        write_onnx(graph, output, config, exported)
        quantize_onnx(exported, path, [dict(zip(INPUTS[output], inputs)) for inputs in samples])
    finally:
        exported.unlink(missing_ok=True)


def write_openvino(
    graph: nn.Module, output: str, config: ModelConfig, path: Path, precision: str, samples: Sequence[Inputs]
) -> None:
    """Write OpenVINO's own format: `path` (.xml) and a .bin beside it. For "int8", NNCF quantises over the samples.

    Raises:
        SetupError: openvino, or for int8 NNCF, is not installed.
    """
    openvino = import_backend("openvino", "openvino")
    if precision == "int8":
        import_backend("nncf", "openvino")  # here, as what it logs can be hidden only after it is imported
    with quietly(), unchanged_signal_stack(), torch.inference_mode(False), torch.no_grad():
        model = openvino.convert_model(graph, example_input=example_inputs(output, config))
        for node, name in zip(model.inputs, INPUTS[output]):
            node.get_tensor().set_names({name})
        model.outputs[0].get_tensor().set_names({OUTPUTS[output]})
        if precision == "int8":
            model = quantize_openvino(model, [dict(zip(INPUTS[output], inputs)) for inputs in samples])
        openvino.save_model(model, str(path), compress_to_fp16=precision == "fp16")
