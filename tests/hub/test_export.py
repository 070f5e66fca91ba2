"""Graphs of `torch.export`: traced on one padded batch, right on others."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.export import ExportedProgram

from speechssl.hub.onnx import export_program
from speechssl.hub.saved import Description, SavedModel, build_model
from speechssl.model.encoder import EncoderConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from tests.hub.models import batch_of, run_eagerly
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, randomise

CTC = {"ctc": CTCConfig(), "vocabulary": ("<blank>", "|", "a", "б")}
HUBERT = {"objective": MaskedPredictionConfig(dim=8), "clusters": (5,)}
CROSSED = dataclasses.replace(BASE_LIKE, transformer=LARGE_LIKE.transformer, padding_in_norm=True)

Case = tuple[SavedModel, ExportedProgram]


def model_of(config: EncoderConfig, head: dict[str, object]) -> SavedModel:
    description = Description(encoder=config, **head)
    torch.manual_seed(0)
    model = build_model(description)
    if config != EncoderConfig.base():  # whose 12 layers would magnify rounding, with weights this large
        randomise(model)
    return SavedModel(description=description, tensors=model.state_dict(), name="made here")


@pytest.fixture(
    scope="module",
    params=[
        (BASE_LIKE, HUBERT),
        (LARGE_LIKE, CTC),
        pytest.param((CROSSED, CTC), marks=pytest.mark.slow),
        pytest.param((EncoderConfig.small(), HUBERT), marks=pytest.mark.slow),
        pytest.param((EncoderConfig.base(), {}), marks=pytest.mark.slow),
    ],
    ids=["base-like-trunk", "large-like-ctc", "crossed-ctc", "small-trunk", "base-trunk"],
)
def case(request: pytest.FixtureRequest) -> Case:
    model = model_of(*request.param)
    return model, export_program(model)


@pytest.mark.parametrize("lengths", [[9, 31, 4], [5], [20] * 5], ids=["padded", "alone", "five"])
def test_an_exported_program_equals_the_module_on_batches_of_other_sizes(case: Case, lengths: list[int]) -> None:
    model, program = case
    waveforms, num_samples = batch_of(lengths, model.description.encoder.hop)
    output, num_frames = program.module()(waveforms, num_samples)
    for row, expected in enumerate(run_eagerly(model, waveforms, num_samples)):
        assert num_frames[row] == len(expected)
        torch.testing.assert_close(output[row, : len(expected)], expected, rtol=1e-4, atol=1e-4)


def test_an_exported_program_refuses_a_batch_of_less_than_two_frames(case: Case) -> None:
    model, program = case
    shortest = model.description.encoder.window + model.description.encoder.hop
    assert program.module()(torch.zeros(1, shortest), torch.tensor([shortest]))[1].tolist() == [2]
    with pytest.raises(AssertionError, match="Guard failed"):
        program.module()(torch.zeros(1, shortest - 1), torch.tensor([shortest - 1]))


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch reading its own file
def test_an_exported_program_can_be_written_and_read(case: Case, tmp_path: Path) -> None:
    model, program = case
    batch = batch_of([9, 31, 4], model.description.encoder.hop)
    torch.export.save(program, tmp_path / "model.pt2")
    assert torch.equal(torch.export.load(tmp_path / "model.pt2").module()(*batch)[0], program.module()(*batch)[0])
