"""What of a tower is computed in 8 bits, and how NNCF and ONNX Runtime are asked for it.

Only products of many tokens with weights are: they take nearly all of the time. In float32 stay the products within attention
(8 bits lose most there, and gain nothing: the runtimes have no attention in 8 bits), the patches' projection, and what is
computed for the first token only, which takes no time and decides the vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image_text_embedding.inference.backends.quiet_exporters import import_backend, quietly

# Increase it when int8 exports of the same model change: they are then rebuilt.
RECIPE = 2

# Alpha of SmoothQuant (Xiao et al. 2023): how much of the activations' range moves into the weights. NNCF's default for
# transformers, 0.95, makes weights uneven where activations have no outliers: the least cosine of a small ViT of 12 blocks
# with made-up weights was 0.987, and is 0.999 with 0.5.
SMOOTHING = 0.5


def quantize_openvino(model: Any, samples: Sequence[dict[str, np.ndarray]]) -> Any:
    """The openvino.Model in 8 bits by NNCF: weights per channel, activations by their range over the samples.

    Raises:
        SetupError: NNCF is not installed.
    """
    nncf = import_backend("nncf", "openvino")
    ranges = import_backend("nncf.quantization.range_estimator", "openvino").RangeEstimatorParametersSet
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(samples),
        ignored_scope=nncf.IgnoredScope(
            names=[node.get_friendly_name() for node in model.get_ops() if _loses_by_openvino(node)]
        ),
        # By default the mean of the samples' ranges, which clips half of them.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=ranges.MINMAX, smooth_quant_alpha=SMOOTHING
        ),
    )


def _loses_by_openvino(node: Any) -> bool:
    """Whether a node should stay in float32, of those that NNCF would quantise."""
    kind = node.get_type_name()
    if kind != "MatMul":
        return kind in ("ScaledDotProductAttention", "Convolution", "Einsum")
    tokens = node.get_output_partial_shape(0)
    weights = node.input_value(1).get_node().get_type_name() in ("Constant", "Convert")
    return not weights or len(tokens) != 3 or tokens[1] == 1


def quantize_onnx(source: Path, target: Path, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """Write an ONNX file in 8 bits by ONNX Runtime: weights per channel, activations by their range over the samples.

    Raises:
        SetupError: a package that this needs is not installed.
    """
    quantization = import_backend("onnxruntime.quantization", "onnx")
    quant_pre_process = import_backend("onnxruntime.quantization.shape_inference", "onnx").quant_pre_process
    onnx = import_backend("onnx", "onnx")

    class SampleReader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.remaining: Iterator[dict[str, np.ndarray]] = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.remaining, None)

    folded = target.with_suffix(".folded.onnx")
    try:
        with quietly():
            # Folds the Transpose before weights, behind which the quantiser does not recognise them as constants.
            quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(folded),
                str(target),
                SampleReader(),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=_losing_by_onnx(onnx.load(folded).graph),
            )
    finally:
        folded.unlink(missing_ok=True)


def _losing_by_onnx(graph: Any) -> list[str]:
    """The names of the MatMul nodes of an onnx.GraphProto that should stay in float32.

    Those of the first block are among them, where most of the error of a deep tower arises: ONNX Runtime neither moves the
    range of activations into weights nor corrects biases, as NNCF does.
    """
    weights = {each.name for each in graph.initializer}
    shapes = {each.name: each.type.tensor_type.shape.dim for each in (*graph.value_info, *graph.output)}
    hidden = {name for node in graph.node if node.op_type == "Gelu" for name in node.output}
    gaining: list[str] = []
    in_first_block = 0
    for node in graph.node:
        tokens = shapes.get(node.output[0], ())
        if node.op_type == "MatMul" and node.input[1] in weights and len(tokens) == 3 and tokens[1].dim_value != 1:
            gaining.append(node.name)
            if not in_first_block and node.input[0] in hidden:
                in_first_block = len(gaining)
    in_8_bits = gaining[in_first_block:] or gaining
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.name not in in_8_bits]
