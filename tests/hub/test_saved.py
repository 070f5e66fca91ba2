"""A model folder: what reads a run reads a converted model, and nothing else is taken for one."""

import dataclasses
import json
import shutil

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from speechssl.data.batching import Batch
from speechssl.errors import CheckpointError
from speechssl.hub.saved import Description, SavedModel, build_model, describe_model, without_values
from speechssl.model.context import StepContext
from speechssl.model.lora import LoraConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.masked_prediction import MaskedPredictionConfig, MaskedPredictionObjective
from speechssl.tasks.pretraining import PretrainModel
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, tiny_encoder

VOCABULARY = ("<blank>", "|", "п", "न")


class Heard(TorchFunctionMode):
    """Notes what draws random values."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            self.drawn.append(func.__name__)
        return func(*args, **(kwargs or {}))


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


def test_the_file_of_a_model_of_waveforms_lacks_the_keys_of_log_mel_input(tmp_path):
    fine_tuned().write(tmp_path / "model")
    written = json.loads((tmp_path / "model/model.json").read_text(encoding="utf-8"))
    assert not {"input", "log_mel_bins"} & written["encoder"].keys()


def test_a_language_that_was_once_taken_unread_is_said_and_left_out_of_a_saved_model(tmp_path, capsys):
    fine_tuned().write(tmp_path / "model")
    path = tmp_path / "model/model.json"
    saved = path.read_text(encoding="utf-8")
    path.write_text(saved.replace('"language": null', '"language": "English"'), encoding="utf-8")
    assert SavedModel.read(tmp_path / "model").description == fine_tuned().description
    assert f"{path}: text.language: 'English' is not a language code" in capsys.readouterr().err
    path.write_text(saved.replace('"language": null', '"language": "tur"'), encoding="utf-8")
    assert SavedModel.read(tmp_path / "model").vocabulary().text.language == "tur"
    assert not capsys.readouterr().err


def test_the_parts_of_a_model_are_built_with_its_parameters():
    encoder = fine_tuned().encoder()
    waveforms, lengths = noise(1, 430), torch.tensor([430])
    torch.testing.assert_close(encoder(waveforms, lengths).last, tiny_encoder()(waveforms, lengths).last)
    assert fine_tuned().recogniser()[1].tokens == VOCABULARY
    assert pretrained().pretraining().objective.clusters == (5, 7)


LORA = CTCConfig(lora=LoraConfig(rank=2, projections=("query", "out")))
DESCRIPTIONS = {
    "encoder": Description(encoder=LARGE_LIKE),
    "ctc": Description(encoder=BASE_LIKE, ctc=CTCConfig(), vocabulary=VOCABULARY),
    "adapters": Description(encoder=BASE_LIKE, ctc=LORA, vocabulary=VOCABULARY),
    "hubert": Description(encoder=BASE_LIKE, objective=MaskedPredictionConfig(dim=8), clusters=(5, 7)),
    "linear": Description(encoder=LARGE_LIKE, objective=MaskedPredictionConfig(dim=8, logits="linear"), clusters=(5,)),
    "wav2vec2": Description(encoder=BASE_LIKE, objective=ContrastiveConfig(dim=8)),
}


def without_values_but_nan(description: Description, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **how: empty(*args, **how).fill_(torch.nan))
    model = without_values(lambda: build_model(description))
    monkeypatch.setattr(torch, "empty", empty)
    return model


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_a_model_without_values_lacks_only_what_its_file_holds(kind, monkeypatch):
    plain = build_model(DESCRIPTIONS[kind])
    blank = without_values_but_nan(DESCRIPTIONS[kind], monkeypatch)
    for (name, tensor), (other, value) in zip(blank.named_parameters(), plain.named_parameters(), strict=True):
        assert (name, tensor.shape, tensor.dtype) == (other, value.shape, value.dtype)
        assert tensor.requires_grad == value.requires_grad
    assert any(tensor.isnan().any() for tensor in blank.parameters())
    for name, buffer in blank.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name))
    assert {name for name, _ in blank.named_parameters()} <= {*blank.state_dict()}  # so that `fill` misses none


@pytest.mark.parametrize("kind", ["ctc", "hubert", "linear", "wav2vec2"])
def test_a_model_is_filled_with_all_its_parameters_and_no_initialiser_runs(kind, monkeypatch):
    description = DESCRIPTIONS[kind]
    tensors = {**build_model(description).state_dict()}
    for number, tensor in enumerate(tensors.values(), 1):
        tensor.fill_(number)
    tensors["encoder.norm.weight"] = tensors["encoder.norm.weight"].double()
    saved = SavedModel(description=description, tensors=tensors, name="made here")
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **how: empty(*args, **how).fill_(torch.nan))
    with Heard() as heard:
        model = saved.recogniser()[0] if kind == "ctc" else saved.pretraining()
    assert heard.drawn == []
    for number, (name, tensor) in enumerate(model.state_dict().items(), 1):
        assert tensor.dtype == torch.float32
        assert bool((tensor == number).all()), name
    with Heard() as heard:
        build_model(description)
    assert heard.drawn


def test_the_objective_is_built_for_the_channels_of_the_last_convolution():
    encoder = dataclasses.replace(BASE_LIKE, conv=((12, 10, 5), (8, 3, 2), (24, 2, 2)))
    model = build_model(Description(encoder=encoder, objective=ContrastiveConfig(dim=8, negatives=3)))
    batch = Batch(ids=("a",), waveforms=noise(1, 900), num_samples=torch.tensor([900]))
    assert model(batch, StepContext(generator=torch.Generator())).value.isfinite()


def test_building_a_saved_model_leaves_the_random_state_alone():
    ctc, hubert = fine_tuned(), pretrained()
    before = torch.get_rng_state()
    ctc.recogniser(), ctc.encoder(), hubert.pretraining()
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_read_model_learns_changes_neither_its_file_nor_what_was_read(tmp_path):
    fine_tuned().write(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    saved = SavedModel.read(tmp_path)
    first, second = saved.recogniser()[0], saved.recogniser()[0]
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    assert (tmp_path / "model.safetensors").read_bytes() == content
    assert saved.fingerprint() == SavedModel.read(tmp_path).fingerprint()
    for (name, tensor), (_, other) in zip(second.state_dict().items(), first.state_dict().items(), strict=True):
        assert torch.equal(tensor, saved.tensors[name])
        assert not torch.equal(tensor, other)


def test_who_only_runs_a_model_shares_its_memory_and_the_file_is_never_written_to(tmp_path):
    fine_tuned().write(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    saved = SavedModel.read(tmp_path)
    shared, copied = saved.recogniser(shares=True)[0], saved.recogniser()[0]
    assert not shared.training
    for (name, ours), (_, other) in zip(shared.named_parameters(), copied.named_parameters(), strict=True):
        assert torch.equal(ours, other) and ours.requires_grad == other.requires_grad
        assert ours.data_ptr() == saved.tensors[name].data_ptr() != other.data_ptr()
    with torch.no_grad():
        shared.head.weight.add_(1.0)
    assert (tmp_path / "model.safetensors").read_bytes() == content
    assert not torch.equal(shared.head.weight, copied.head.weight)


def test_what_cannot_be_shared_is_copied_or_named():
    model = fine_tuned()
    half = {name: tensor.half() for name, tensor in model.tensors.items()}
    found, _ = dataclasses.replace(model, tensors=half).recogniser(shares=True)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    less = {name: tensor for name, tensor in model.tensors.items() if name != "head.bias"}
    with pytest.raises(CheckpointError, match=r"made here: 1 parameters do not fit this model: head\.bias"):
        dataclasses.replace(model, tensors=less).recogniser(shares=True)


def test_a_read_model_computes_what_was_written_and_learns(tmp_path):
    model = CTCModel(tiny_encoder(), CTCConfig(), len(VOCABULARY)).eval()
    description = dataclasses.replace(fine_tuned().description)
    SavedModel(description=description, tensors=model.state_dict(), name="made here").write(tmp_path)
    again, _ = SavedModel.read(tmp_path).recogniser()
    assert not again.training
    batch = Batch(ids=("a",), waveforms=noise(1, 900), num_samples=torch.tensor([900]))
    logits, _ = again.logits(batch)
    torch.testing.assert_close(logits, model.logits(batch)[0], rtol=0, atol=0)
    logits.sum().backward()
    assert {name for name, each in again.named_parameters() if each.grad is None} == {
        name for name, each in again.named_parameters() if name.startswith("encoder.conv.") or "mask_vector" in name
    }


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


def test_a_model_folder_may_have_the_name_of_a_checkpoint(tmp_path):
    folder = tmp_path / "step_00000570"
    model = pretrained()
    model.write(folder)
    read = SavedModel.read(folder)
    assert (read.name, read.fingerprint()) == (folder.name, model.fingerprint())


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
