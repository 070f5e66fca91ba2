"""int8 in ONNX: close to float32, the same for an utterance in any batch, smaller."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from speechssl.hub.onnx import open_onnx, run_onnx, write_onnx
from speechssl.hub.onnx_int8 import ProductConv
from speechssl.hub.saved import Description, SavedModel, build_model
from speechssl.model.encoder import EncoderConfig
from speechssl.tasks.ctc import CTCConfig
from tests.hub.models import batch_of, run_eagerly


@pytest.fixture(scope="module")
def model() -> SavedModel:
    description = Description(encoder=EncoderConfig.small(), ctc=CTCConfig(), vocabulary=("<blank>", "|", "a"))
    torch.manual_seed(0)
    return SavedModel(description=description, tensors=build_model(description).state_dict(), name="made here")


@pytest.fixture(scope="module")
def path(model: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    write_onnx(model, path, "int8")
    return path


def test_the_file_is_valid_small_and_says_its_precision(model: SavedModel, path: Path) -> None:
    onnx.checker.check_model(path, full_check=True)
    assert open_onnx(path).get_modelmeta().custom_metadata_map["precision"] == '"int8"'
    assert path.stat().st_size < 0.32 * sum(tensor.nbytes for tensor in model.tensors.values())


def test_a_quiet_utterance_beside_a_loud_one_comes_out_as_alone_and_near_float32(model: SavedModel, path: Path) -> None:
    waveforms, num_samples = batch_of([60, 31, 4], model.description.encoder.hop)
    waveforms[1] *= 1e-2
    inputs = {"waveforms": waveforms.numpy(), "num_samples": num_samples.numpy()}
    output, _ = open_onnx(path).run(None, inputs)
    for row, expected in enumerate(run_eagerly(model, waveforms, num_samples)):
        found = torch.from_numpy(output[row, : len(expected)])
        alone = run_onnx(path, waveforms[row, : num_samples[row]])
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
        assert (found - expected).norm() < 0.1 * expected.norm()


def test_a_product_is_its_convolution() -> None:
    for kernel, stride in [(3, 2), (2, 2), (4, 1), (2, 3)]:
        conv = nn.Conv1d(5, 7, kernel, stride)
        for steps in range(4, 12):
            x = torch.randn(2, 5, steps)
            torch.testing.assert_close(ProductConv(conv)(x), conv(x))
