"""ONNX files and `torch.export` programs of a trunk, or of a trunk with its CTC head, for use without this toolkit.

    inputs    waveforms (batch, time) float32 at 16 kHz, num_samples (batch,) int64
    outputs   frames (batch, frames, dim) of the last layer, or logits (batch, frames, vocab); num_frames (batch,) int64

Batch and time are dynamic axes; time must hold two frames (`window` + `hop` samples), so pad a shorter batch with zeros
and set num_samples to the real lengths. Frames past num_frames are undefined. The metadata of the file hold method,
vocabulary, normalize, sample_rate, hop, window, precision, fingerprint and origin, each as JSON. Export is one-way: a
graph does not record its architecture, so ONNX files cannot be read back; keep the model folder.
"""

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils.parametrize import remove_parametrizations

from speechssl.atomic import atomic
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.errors import CheckpointError
from speechssl.hub import onnx_int8
from speechssl.hub.names import expect_shared
from speechssl.hub.saved import SavedModel
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.frames import frame_count

__all__ = [
    "Inference",
    "Precision",
    "export_program",
    "is_onnx",
    "metadata",
    "open_onnx",
    "run_onnx",
    "write_graph",
    "write_onnx",
]

Precision = Literal["float32", "int8"]

OPSET = 18  # the oldest opset of torch's exporter
LARGEST = 1536 * 2**20  # bytes of parameters; an ONNX file is limited to 2 GiB, and torch splits it from here on


class Inference(nn.Module):
    """Trunk and head as deployed: evaluation mode, tensors in, tensors out."""

    def __init__(self, encoder: SpeechEncoder, head: nn.Linear | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Identity() if head is None else head

    @classmethod
    def of(cls, model: SavedModel) -> Self:
        """Build the modules of a model.

        Raises:
            CheckpointError: its parameters do not fit the description, or its encoder cannot be exported.
        """
        expect_shared(model.description.encoder, "an exported graph")
        recogniser = model.recogniser()[0] if model.description.ctc is not None else None
        encoder = model.encoder() if recogniser is None else recogniser.encoder
        remove_parametrizations(encoder.transformer.positions.conv, "weight")  # else recomputed at each call
        return cls(encoder, None if recogniser is None else recogniser.head).eval()

    def forward(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return (batch, frames, dim or vocab) and the (batch,) int64 number of valid frames."""
        output = self.head(self.encoder(waveforms, num_samples).last)
        return output, frame_count(num_samples, self.encoder.config.stack)


def export_program(model: SavedModel) -> ExportedProgram:
    """Trace a model into a program for `torch.export.save`; its `.module()` is callable.

    Args:
        model: a model of any method; of a pretrained one only the trunk is exported.

    Returns:
        A program from (waveforms, num_samples) to (frames or logits, num_frames), with dynamic batch and time.

    Raises:
        CheckpointError: the parameters do not fit the description.
    """
    inference = Inference.of(model)
    return _traced(inference, inference.encoder)


@torch.no_grad()
def _traced(network: nn.Module, encoder: SpeechEncoder, *, takes_lengths: bool = True) -> ExportedProgram:
    """Trace a network around an encoder, from (batch, time) and, unless it takes none, (batch,) lengths."""
    shortest = encoder.config.window + encoder.config.hop
    batch, time = Dim("batch", min=1), Dim("time", min=shortest)
    example = torch.zeros(2, 2 * shortest), torch.tensor([2 * shortest, shortest])
    shapes = ({0: batch, 1: time}, {0: batch})
    number = 2 if takes_lengths else 1
    return torch.export.export(network, example[:number], dynamic_shapes=shapes[:number], strict=False)


def write_onnx(model: SavedModel, target: Path, precision: Precision = "float32") -> dict[str, str]:
    """Write one self-contained file.

    Args:
        model: a model of any method; of a pretrained one only the trunk is written.
        target: file to write; must not exist.
        precision: int8 for integer products, see `onnx_int8`.

    Returns:
        Reasons by our name, for what was dropped: the mask vector, and the objective of a pretrained model.

    Raises:
        CheckpointError: the target exists, the model is too large for one file, or onnx is not installed.
    """
    inference = Inference.of(model)
    outputs = ["frames" if model.description.ctc is None else "logits", "num_frames"]
    write_graph(model, inference, inference.encoder, target, ["waveforms", "num_samples"], outputs, precision)
    return _dropped(model)


def write_graph(
    model: SavedModel,
    network: nn.Module,
    encoder: SpeechEncoder,
    target: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    precision: Precision,
) -> None:
    """Write a network around the encoder of a model as one self-contained file.

    Args:
        model: model described by the metadata of the file.
        network: maps waveforms (batch, time) and, if there are two inputs, num_samples (batch,) to the outputs.
        encoder: part of `network`; for int8 its convolutions are replaced.
        target: file to write; must not exist.
        inputs: names of the inputs.
        outputs: names of the outputs, (batch, frames, dim) first.
        precision: of the products.

    Raises:
        CheckpointError: as `write_onnx`.
    """
    if target.exists():
        raise CheckpointError(f"{target}: exists already; name another file, or remove it")
    size = sum(tensor.nbytes for tensor in model.tensors.values())
    if size > LARGEST:
        raise CheckpointError(
            f"{model.name}: holds {size / 2**30:.1f} GiB of parameters, one ONNX file at most {LARGEST / 2**30:.1f}; "
            "use `export_program` and torch.export.save instead"
        )
    for package in ("onnx", "onnxscript"):
        _package(package)
    if precision == "int8":
        onnx_int8.convolutions_as_products(encoder.conv)
    with _without_hints():
        program = torch.onnx.export(
            _traced(network, encoder, takes_lengths=len(inputs) == 2),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=({0: "batch", 1: "time"}, {})[: len(inputs)],  # names; the axis of num_samples follows
            opset_version=onnx_int8.OPSET if precision == "int8" else OPSET,
            verbose=False,
        )
    assert program is not None
    if precision == "int8":
        onnx_int8.quantize(program.model)
    _describe(program.model, {**metadata(model), "precision": precision})
    with atomic(target) as temporary:
        program.save(temporary, external_data=False)


def metadata(model: SavedModel) -> dict[str, Any]:
    """Return the metadata that a user of the file needs besides its graph."""
    described = model.description
    return {
        "method": described.method,
        "vocabulary": list(described.vocabulary),  # by id, the blank first; empty without a CTC head
        "normalize": bool(described.audio.normalize),  # each waveform to zero mean and unit variance, before padding
        "sample_rate": SAMPLE_RATE,
        "hop": described.encoder.hop,  # samples from one frame to the next
        "window": described.encoder.window,  # samples in the window of a frame
        "fingerprint": model.fingerprint(),
        "origin": described.origin,
    }


def is_onnx(path: Path) -> bool:
    """Return whether a file has the name of an ONNX file."""
    return path.suffix == ".onnx" and path.is_file()


def run_onnx(path: Path, waveform: Tensor) -> Tensor:
    """Run a written file in onnxruntime, on one utterance.

    Args:
        path: file written by `write_onnx`.
        waveform: (time,) at 16 kHz, normalised if the model wants it.

    Returns:
        (frames, vocab) logits of a CTC model, else (frames, dim) of the last layer.

    Raises:
        CheckpointError: onnxruntime is not installed, or cannot read the file.
    """
    inputs = {"waveforms": waveform[None].float(), "num_samples": torch.tensor([len(waveform)])}
    output, num_frames = open_onnx(path).run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(output)[0, : int(num_frames[0])]


def open_onnx(path: Path) -> Any:
    """Open a file in onnxruntime on the CPU; return its InferenceSession.

    Raises:
        CheckpointError: onnxruntime is not installed, or cannot read the file.
    """
    onnxruntime = _package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base class
        raise CheckpointError(
            f"{path}: cannot be read by onnxruntime ({str(error).splitlines()[0]}); write it again"
        ) from error


def _package(name: str) -> Any:
    """Import a package that only ONNX needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckpointError(f"{name} is not installed; pip install 'speechssl[onnx]'") from error


@contextmanager
def _without_hints() -> Iterator[None]:
    """Silence the exporter's hints on other packages and its warnings about torch's own code."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning
            )  # torch 2.11
            yield
    finally:
        logger.setLevel(level)


def _dropped(model: SavedModel) -> dict[str, str]:
    reasons = {"encoder.mask_vector": "nothing is masked at inference"}
    for name in model.tensors:
        if name.startswith("objective."):
            reasons[name] = "the objective of pretraining is not needed at inference"
    return reasons


def _describe(graph_model: Any, facts: dict[str, Any]) -> None:
    """Replace the exporter's notes in the file, which name local paths, by the metadata.

    Args:
        graph_model: onnx_ir.Model, as returned by the exporter.
        facts: result of `metadata`.
    """
    graph = graph_model.graph
    graph_model.producer_name, graph_model.producer_version = "speechssl", ""
    for part in (graph_model, graph, *graph.all_nodes(), *graph.inputs, *graph.initializers.values()):
        part.metadata_props.clear()
    for node in graph.all_nodes():
        for output in node.outputs:
            output.metadata_props.clear()
    graph_model.metadata_props.update({key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()})
    graph.outputs[0].shape[1] = "frames"  # instead of the exporter's expression in `time`
