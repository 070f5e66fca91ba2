"""State dicts of torchaudio, both ways: what we write it loads, what it saves we read, with the same numbers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchaudio import models

from speechssl.audio.reading import AudioConfig
from speechssl.errors import CheckpointError
from speechssl.hub.torchaudio import is_torchaudio, read_torchaudio, run_torchaudio, write_torchaudio
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from tests.hub.models import FORMS, SQUARE, VOCABULARY, WAVEFORM, Malicious, broken_copies, model_of, our_output
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise

ALL = pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE, SQUARE], ids=["base", "large", "square"])
METHODS = pytest.mark.parametrize("method", ["encoder", "wav2vec2", "hubert", "ctc"])


@ALL
@METHODS
def test_what_we_write_torchaudio_runs_with_the_same_output(tmp_path, config, method):
    model = model_of(method, config)
    write_torchaudio(model, tmp_path / "theirs.pt")
    assert is_torchaudio(tmp_path / "theirs.pt")
    expected = our_output(model)
    torch.testing.assert_close(run_torchaudio(tmp_path / "theirs.pt", WAVEFORM), expected, rtol=1e-5, atol=1e-5)


@ALL
@METHODS
def test_what_torchaudio_has_a_place_for_comes_back_as_it_went(tmp_path, config, method):
    model = model_of(method, config, audio=AudioConfig(normalize=True))
    dropped = write_torchaudio(model, tmp_path / "theirs.pt")
    back = read_torchaudio(tmp_path / "theirs.pt")
    assert back.dropped == {}
    for name, tensor in model.tensors.items():
        assert name in dropped or torch.equal(back.model.tensors[name], tensor)
    assert [*back.added] == ([] if method == "hubert" else ["encoder.mask_vector"])
    assert back.model.description.vocabulary == model.description.vocabulary
    assert back.model.description.encoder.transformer == config.transformer
    assert back.model.description.audio.normalize is True
    again = tmp_path / "again.pt"
    write_torchaudio(back.model, again)
    assert read_torchaudio(again).model.fingerprint() == back.model.fingerprint()


def test_a_pretrained_hubert_comes_back_whole(tmp_path):
    model = model_of("hubert", audio=AudioConfig(normalize=False))
    dropped = write_torchaudio(model, tmp_path / "theirs.pt")
    back = read_torchaudio(tmp_path / "theirs.pt").model
    assert (back.fingerprint(), dropped) == (model.fingerprint(), {})
    assert dataclasses.replace(back.description, origin="speechssl") == model.description


def test_what_is_lost_is_reported(tmp_path):
    wav2vec2 = write_torchaudio(model_of("wav2vec2"), tmp_path / "wav2vec2.pt")
    assert wav2vec2["objective.quantizer.codebook"] == "torchaudio has no such model for it"
    assert "encoder.mask_vector" in wav2vec2
    ctc = write_torchaudio(model_of("ctc", ctc=CTCConfig(dropout=0.2, freeze_steps=7)), tmp_path / "ctc.pt")
    assert ctc["ctc.freeze_steps"] == "torchaudio does not hold it; 10000 instead of 7 when read back"
    objective = MaskedPredictionConfig(dim=8, unmasked_weight=0.5, temperature=0.2)
    hubert = write_torchaudio(model_of("hubert", objective=objective), tmp_path / "hubert.pt")
    assert {"objective.unmasked_weight", "objective.temperature"} <= {*hubert}


@pytest.mark.parametrize(
    "described",
    [{"clusters": (5, 7)}, {"objective": MaskedPredictionConfig(logits="linear")}],
    ids=["two streams", "linear"],
)
def test_a_head_that_torchaudio_has_no_model_for_is_left_out(tmp_path, described):
    model = model_of("hubert", **described)
    dropped = write_torchaudio(model, tmp_path / "theirs.pt")
    assert {name for name in model.tensors if name.startswith("objective.")} <= {*dropped}
    back = read_torchaudio(tmp_path / "theirs.pt").model
    assert back.description.method == "encoder"
    torch.testing.assert_close(our_output(back), our_output(model))


def arguments_of(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text())["arguments"]


@FORMS
@pytest.mark.parametrize("method", ["encoder", "hubert"])
def test_what_torchaudio_saves_is_read_with_the_same_output(tmp_path, config, method):
    path = tmp_path / "theirs.pt"
    write_torchaudio(model_of(method, config), path)
    constructor = {"encoder": models.wav2vec2_model, "hubert": models.hubert_pretrain_model}[method]
    theirs = constructor(**arguments_of(path)).eval()
    randomise(theirs, seed=7)
    torch.save(theirs.state_dict(), path)
    expected = getattr(theirs, "wav2vec2", theirs)(WAVEFORM[None])[0][0]
    torch.testing.assert_close(our_output(read_torchaudio(path).model), expected, rtol=1e-5, atol=1e-5)


def test_the_units_are_scored_as_torchaudio_scores_them(tmp_path):
    path = tmp_path / "theirs.pt"
    model = model_of("hubert")
    write_torchaudio(model, path)
    theirs = models.hubert_pretrain_model(**arguments_of(path)).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    x, labels = noise(1, 9, 32), torch.arange(9)[None] % 5
    logits, _ = theirs.logit_generator(x, labels, torch.ones(1, 9, dtype=torch.bool), torch.zeros(1, 9).bool())
    (ours,) = model.pretraining().objective.logits(x[0])
    torch.testing.assert_close(logits[:, 0], ours.gather(1, labels[0, :, None])[:, 0])  # theirs puts the label first


@FORMS
def test_the_published_families_need_no_file_beside(tmp_path, config):
    dim, stack = 768, ((4, 10, 5), *[(4, 3, 2)] * 4, *[(4, 2, 2)] * 2)
    transformer = dataclasses.replace(config.transformer, dim=dim, num_heads=12, position_groups=96)
    model = model_of("hubert", dataclasses.replace(config, conv=stack, transformer=transformer))
    for tensor in model.tensors.values():
        tensor *= 0.1 if tensor.ndim > 1 else 1  # rounding would grow in so wide a model
    path = tmp_path / "theirs.pt"
    write_torchaudio(model, path)
    path.with_suffix(".json").unlink()
    back = read_torchaudio(path)
    assert [*back.added] == ["encoder", "audio.normalize"]
    assert back.model.fingerprint() == model.fingerprint()
    assert back.model.description.encoder.conv == stack
    assert back.model.description.encoder.transformer.norm == config.transformer.norm
    assert back.model.description.encoder.transformer.num_heads == 12
    assert back.model.description.audio.normalize is (config is LARGE_LIKE)
    waveform = noise(1, 4000)[0]
    torch.testing.assert_close(run_torchaudio(path, waveform), our_output(model, waveform), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["encoder", "ctc"])
def test_other_shapes_need_one(tmp_path, method):
    write_torchaudio(model_of(method), tmp_path / "theirs.pt")
    (tmp_path / "theirs.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"strides, heads and letters do not follow from its shapes; write theirs\.json beside"
    ):
        read_torchaudio(tmp_path / "theirs.pt")


def test_files_of_older_versions_are_read(tmp_path):
    path = tmp_path / "theirs.pt"
    write_torchaudio(model_of("hubert"), path)
    tensors = torch.load(path, weights_only=True)
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        name = f"wav2vec2.encoder.transformer.pos_conv_embed.conv.parametrizations.weight.{new}"
        tensors[name.replace(f"parametrizations.weight.{new}", old)] = tensors.pop(name)
    for is_zip in (True, False):
        torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)
        assert is_torchaudio(path)
        assert read_torchaudio(path).model.fingerprint() == model_of("hubert").fingerprint()
        run_torchaudio(path, WAVEFORM)


@pytest.mark.parametrize("existing", ["theirs.pt", "theirs.json"])
def test_nothing_is_written_over(tmp_path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(CheckpointError, match=f"{existing}: exists already; name another target, or remove it"):
        write_torchaudio(model_of("ctc"), tmp_path / "theirs.pt")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(existing, "mine")]


def test_a_pickle_that_would_run_code_runs_none(tmp_path):
    path = tmp_path / "theirs.pt"
    write_torchaudio(model_of("encoder"), path)
    torch.save(torch.load(path, weights_only=True) | {"harm": Malicious(tmp_path / "harm")}, path)
    for use in (read_torchaudio, lambda path: run_torchaudio(path, WAVEFORM)):
        with pytest.raises(CheckpointError, match="nothing of it was executed"):
            use(path)
    assert not (tmp_path / "harm").exists()


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "theirs.pt"
    write_torchaudio(model_of("encoder"), path)
    for content in broken_copies(path.read_bytes()):
        path.write_bytes(content)
        is_torchaudio(path)
        with pytest.raises(CheckpointError, match=r"theirs\.pt: cannot be read .* truncated, or no checkpoint"):
            read_torchaudio(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"constructor": "system", "arguments": {}}'])
def test_a_broken_file_of_arguments_is_named(tmp_path, content):
    write_torchaudio(model_of("encoder"), tmp_path / "theirs.pt")
    (tmp_path / "theirs.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"theirs\.json: (cannot be read|expected constructor=)"):
        read_torchaudio(tmp_path / "theirs.pt")


def with_arguments(path: Path, **changes: object) -> Path:
    settings = json.loads(path.with_suffix(".json").read_text())
    settings["arguments"] = {
        key: value for key, value in (settings["arguments"] | changes).items() if value is not Ellipsis
    }
    path.with_suffix(".json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_num_layers": 3}, "lacks 16 parameters of its architecture"),
        ({"encoder_num_layers": 1}, "16 parameters have no place in this architecture"),
        ({"encoder_ff_interm_features": 40}, "does not fit the"),
        ({"encoder_num_heads": 5}, "expected a multiple of num_heads"),
        ({"encoder_embed_dim": "wide"}, r"transformer\.dim.* the arguments in theirs\.json are broken"),
        ({"extractor_mode": ...}, "cannot be understood .KeyError..extractor_mode"),
        ({"aux_num_out": 6}, r"theirs\.json: has 5 labels, expected aux_num_out=6"),
    ],
)
def test_arguments_of_another_model_are_refused(tmp_path, changes, message):
    path = tmp_path / "theirs.pt"
    write_torchaudio(model_of("ctc"), path)
    assert json.loads(path.with_suffix(".json").read_text())["labels"] == [*VOCABULARY]
    with pytest.raises(CheckpointError, match=message):
        read_torchaudio(with_arguments(path, **changes))


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (["-", " ", "a", "b"], "a b"),
        (["-", "|", "a", "b"], "a b"),
        (["-", "▁", "a", "b"], "a b"),
        (["-", "_", "a", "b"], "a_b"),
    ],
)
def test_labels_that_part_words_part_them(tmp_path, labels, text):
    path = tmp_path / "theirs.pt"
    write_torchaudio(model_of("ctc", vocabulary=tuple(labels)), path)
    vocabulary = read_torchaudio(path).model.vocabulary()
    assert vocabulary.decode([2, 1, 3]) == text
    assert vocabulary.words([2, 1, 3]) == ([[0], [2]] if " " in text else [[0, 1, 2]])
    assert vocabulary.decode(vocabulary.encode(text, where="here")) == text


def test_training_settings_that_we_lack_are_reported(tmp_path):
    path = tmp_path / "theirs.pt"
    write_torchaudio(model_of("hubert"), path)
    found = read_torchaudio(with_arguments(path, mask_selection="uniform"))
    assert found.dropped == {"mask_selection=uniform": "training here is as with static"}
