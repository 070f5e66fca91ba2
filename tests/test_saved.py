"""A model folder: what reads a run reads a converted model, and nothing else is taken for one."""

import dataclasses
import json
import shutil

import pytest
import torch

from speechssl.errors import CheckpointError
from speechssl.objective.ctc import CTCConfig, CTCModel
from speechssl.objective.masked_prediction import MaskedPredictionConfig, MaskedPredictionObjective
from speechssl.objective.pretraining import PretrainModel
from speechssl.saved import Description, SavedModel, describe_model
from tests.model.tiny import BASE_LIKE, noise, tiny_encoder

VOCABULARY = ("<blank>", "|", "п", "न")


def fine_tuned() -> SavedModel:
    model = CTCModel(tiny_encoder(), CTCConfig(), len(VOCABULARY))
    return SavedModel(
        description=Description(encoder=BASE_LIKE, ctc=CTCConfig(), vocabulary=VOCABULARY),
        tensors=model.state_dict(),
        name="made here",
    )


def pretrained() -> SavedModel:
    objective = MaskedPredictionConfig(dim=8)
    model = PretrainModel(tiny_encoder(), MaskedPredictionObjective(objective, dim=32, clusters=(5, 7)))
    return SavedModel(
        description=Description(encoder=BASE_LIKE, objective=objective, clusters=(5, 7)),
        tensors=model.state_dict(),
        name="made here",
    )


@pytest.mark.parametrize("make", [fine_tuned, pretrained])
def test_a_model_survives_being_written_and_read(tmp_path, make):
    model = make()
    model.write(tmp_path / "model")
    again = SavedModel.read(tmp_path / "model")
    assert again.description == model.description
    assert again.fingerprint() == model.fingerprint()
    assert again.name == "model"


def test_the_parts_of_a_model_are_built_with_its_parameters():
    encoder = fine_tuned().encoder()
    waveforms, lengths = noise(1, 430), torch.tensor([430])
    torch.testing.assert_close(encoder(waveforms, lengths).last, tiny_encoder()(waveforms, lengths).last)
    assert fine_tuned().recogniser()[1].tokens == VOCABULARY
    assert pretrained().pretraining().objective.clusters == (5, 7)


def test_a_model_says_what_it_is():
    assert (fine_tuned().description.method, pretrained().description.method) == ("ctc", "hubert")
    assert Description(encoder=BASE_LIKE).method == "encoder"


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(CheckpointError, match="made here: is of kind ctc, expected one with its objective"):
        fine_tuned().pretraining()
    with pytest.raises(CheckpointError, match="made here: is of kind hubert, expected a fine-tuned one"):
        pretrained().recogniser()


def test_a_description_with_a_head_but_no_vocabulary_is_refused():
    with pytest.raises(CheckpointError, match="ctc with its vocabulary"):
        Description(encoder=BASE_LIKE, ctc=CTCConfig())


def test_parameters_that_do_not_fit_the_description_are_named():
    model = fine_tuned()
    other = dataclasses.replace(model, description=dataclasses.replace(model.description, vocabulary=("<blank>", "|")))
    with pytest.raises(CheckpointError, match=r"made here: 2 parameters do not fit this model: head\.weight"):
        other.recogniser()


def test_a_folder_that_holds_a_model_is_not_written_over(tmp_path):
    fine_tuned().write(tmp_path)
    with pytest.raises(CheckpointError, match="holds a model already; name another folder"):
        pretrained().write(tmp_path)


def test_a_description_once_written_is_not_changed(tmp_path):
    description = fine_tuned().description
    describe_model(tmp_path, description)
    describe_model(tmp_path, description)
    with pytest.raises(CheckpointError, match=r"model\.json: describes another model"):
        describe_model(tmp_path, dataclasses.replace(description, vocabulary=("<blank>", "|", "a", "b")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"model\.json: cannot be read"),
        ("{", r"model\.json: cannot be read"),
        ("[]", r"model\.json: cannot be read"),
        ('{"encoder": {"konv": 1}}', r"model\.json: unknown key encoder\.konv; did you mean encoder\.conv"),
        ("{}", r"model\.json: encoder is required"),
    ],
)
def test_a_broken_description_is_named(tmp_path, content, message):
    fine_tuned().write(tmp_path)
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(Exception, match=message):
        SavedModel.read(tmp_path)


def test_a_truncated_parameter_file_is_named(tmp_path):
    fine_tuned().write(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        SavedModel.read(tmp_path)


def test_a_folder_left_by_an_interrupted_write_is_no_model(tmp_path):
    fine_tuned().write(tmp_path / "whole")
    shutil.copy(tmp_path / "whole/model.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no model\.json"):
        SavedModel.read(tmp_path)


def test_a_run_without_a_checkpoint_yet_is_named(tmp_path):
    describe_model(tmp_path, fine_tuned().description)
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        SavedModel.read(tmp_path)


def test_the_fingerprint_depends_on_every_value(tmp_path):
    model = fine_tuned()
    changed = {name: tensor.clone() for name, tensor in model.tensors.items()}
    changed["head.bias"][-1] += 1e-3
    assert dataclasses.replace(model, tensors=changed).fingerprint() != model.fingerprint()


def test_the_description_is_written_in_plain_letters(tmp_path):
    fine_tuned().write(tmp_path)
    text = (tmp_path / "model.json").read_text(encoding="utf-8")
    assert "न" in text and json.loads(text)["vocabulary"] == list(VOCABULARY)
