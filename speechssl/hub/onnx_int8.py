"""int8 products of an ONNX graph, with a scale per frame, so that an utterance's output does not depend on its batch.

Every product with a matrix of weights, the convolutions of the extractor after the first included, becomes an integer
product (MatMulInteger). Weights have one scale per output channel, known here; the inputs have one per frame, computed
by the graph. Attention, norms, the first convolution and the positional one stay in float32.

onnxruntime's own quantizers were weighed. Its dynamic form takes one scale for a whole tensor, so that a quiet
utterance beside a loud one loses its detail; its static form needs recordings like those of later use, and clips what
exceeds them; its products with weights in blocks (MatMulNBits) are no faster than float32. All operators used here are
of the ONNX standard.
"""

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.errors import CheckpointError
from speechssl.model.conv import ConvFeatureExtractor

__all__ = ["OPSET", "convolutions_as_products", "quantize"]

OPSET = 21  # the oldest whose QuantizeLinear takes a scale per frame
MIDDLE = 128  # uint8 that stands for 0 in the inputs
LARGEST_INPUT, LARGEST_WEIGHT = 127, 63  # 255 * 63 * 2 fits 16 bits, in which CPUs without VNNI add two products
SMALLEST = 1e-12  # largest magnitude of a frame of zeros, to have a scale


class ProductConv(nn.Conv1d):
    """A convolution computed as one product with a matrix of weights."""

    def __init__(self, conv: nn.Conv1d) -> None:
        (kernel,), (stride,) = conv.kernel_size, conv.stride
        super().__init__(conv.in_channels, conv.out_channels, kernel, stride, bias=conv.bias is not None)
        self.load_state_dict(conv.state_dict())
        self.matrix = nn.Parameter(self.weight.transpose(1, 2).flatten(1).contiguous())  # (out, kernel * in)

    def forward(self, input: Tensor) -> Tensor:
        """Map (batch, in, steps) to (batch, out, frames) as `nn.Conv1d` does."""
        x, (kernel,), (stride,) = input.transpose(1, 2), self.kernel_size, self.stride
        taps = [x[:, tap : x.shape[1] + 1 - kernel + tap : stride] for tap in range(kernel)]
        return functional.linear(torch.cat(taps, -1), self.matrix, self.bias).transpose(1, 2)


def convolutions_as_products(extractor: ConvFeatureExtractor) -> None:
    """Replace the convolutions after the first, in place, by products that `quantize` finds."""
    for index, conv in enumerate(extractor.convs):
        if index and isinstance(conv, nn.Conv1d):
            extractor.convs[index] = ProductConv(conv)


def quantize(model: Any) -> None:
    """Replace every product with a constant matrix, in place, by an integer product.

    The attention's protection of frames that attend to nothing is removed, too: it takes as long as the products, and
    only an utterance without any frame needs it.

    Args:
        model: onnx_ir.Model of opset `OPSET`.

    Raises:
        CheckpointError: the graph has no such product.
    """
    ir = importlib.import_module("onnx_ir")
    graph = model.graph
    products = [node for node in graph if node.op_type == "MatMul" and node.inputs[1].const_value is not None]
    if not products:
        raise CheckpointError("the graph has no product that int8 could replace; please report this")
    tape = ir.tape.Tape(graph)
    constants = {
        name: tape.initializer(ir.tensor(value), f"int8.{name}")
        for name, value in {
            "axis": np.array([-1]),
            "step": np.float32(1 / LARGEST_INPUT),
            "smallest": np.float32(SMALLEST),
            "middle": np.uint8(MIDDLE),
        }.items()
    }
    for node in products:
        _replace(ir, graph, node, constants)
    for node in [node for node in graph if node.op_type == "IsNaN"]:
        for chosen in [use for use in node.outputs[0].consumers() if use.inputs[2] is node.inputs[0]]:
            ir.convenience.replace_all_uses_with(chosen.outputs[0], node.inputs[0])
            graph.remove(chosen, safe=True)
        graph.remove(node, safe=True)


def _replace(ir: Any, graph: Any, product: Any, constants: dict[str, Any]) -> None:
    """Replace one product of frames (..., in) with weights (in, out)."""
    frames, matrix = product.inputs
    weights = matrix.const_value.numpy()
    weight_scales = np.maximum(np.abs(weights).max(0), SMALLEST) / np.float32(LARGEST_WEIGHT)  # (out,)
    kept = ir.tape.Tape(graph)
    integers = kept.initializer(ir.tensor(np.rint(weights / weight_scales).astype(np.int8)), f"{matrix.name}.int8")
    weight_scale = kept.initializer(ir.tensor(weight_scales.astype(np.float32)), f"{matrix.name}.scale")

    tape = ir.tape.Tape()
    lowest = tape.op("ReduceMin", [frames, constants["axis"]])  # (..., 1)
    highest = tape.op("ReduceMax", [frames, constants["axis"]])
    magnitude = tape.op("Max", [highest, tape.op("Neg", [lowest]), constants["smallest"]])
    scale = tape.op("Mul", [magnitude, constants["step"]])
    middle = ir.tensor(np.array([MIDDLE], np.uint8))
    middles = tape.op("ConstantOfShape", [tape.op("Shape", [scale])], {"value": middle})
    quantized = tape.op("QuantizeLinear", [frames, scale, middles], {"axis": -1, "block_size": len(weights)})
    summed = tape.op("MatMulInteger", [quantized, integers, constants["middle"]])
    summed_in_float = tape.op("Cast", [summed], {"to": ir.DataType.FLOAT})
    # one scale after the other: onnxruntime (1.31.1) fuses a product of both, and the bias after it, into
    # MatMulIntegerToFloat, which multiplies the bias by the scale of the frame, see
    # findings/onnxruntime_int8_bias_scaled_by_row.sh
    output = tape.op("Mul", [tape.op("Mul", [summed_in_float, weight_scale]), scale])
    graph.insert_before(product, tape.nodes)
    ir.convenience.replace_all_uses_with(product.outputs[0], output)
    graph.remove(product, safe=True)
    if not matrix.uses():
        graph.initializers.pop(matrix.name)
