"""Folders of fairseq2, both ways: its own hub loads what we write from the card, with the same numbers."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from speechssl.audio.reading import AudioConfig
from speechssl.errors import CheckpointError
from speechssl.hub.fairseq2 import is_fairseq2, read_fairseq2, run_fairseq2, write_fairseq2
from speechssl.hub.fairseq2_card import AssetCard, card_values
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig
from tests.hub.models import CONTRASTIVE, FORMS, SQUARE, WAVEFORM, Malicious, broken_copies, model_of, our_output
from tests.model.tiny import BASE_LIKE, LARGE_LIKE
from tests.optional import needs_fairseq2

pytestmark = pytest.mark.filterwarnings("ignore:`hg_exporter` is deprecated:DeprecationWarning")  # their use of theirs

METHODS = pytest.mark.parametrize("method", ["wav2vec2", "ctc"])


@needs_fairseq2
@FORMS
@METHODS
def test_what_we_write_their_hub_loads_with_the_same_output(tmp_path, config, method):
    model = model_of(method, config)
    folder = tmp_path / "a space, п and #"  # which their reading of relative paths would not find
    write_fairseq2(model, folder)
    assert is_fairseq2(folder)
    torch.testing.assert_close(run_fairseq2(folder, WAVEFORM), our_output(model), rtol=1e-5, atol=1e-5)


@FORMS
@METHODS
def test_a_model_comes_back_as_it_went(tmp_path, config, method):
    model = model_of(method, config, audio=AudioConfig(normalize=True))
    dropped = write_fairseq2(model, tmp_path / "theirs")
    back = read_fairseq2(tmp_path / "theirs")
    assert (back.added, [*back.dropped]) == ({}, ["quantizer.num_updates"] if method == "wav2vec2" else [])
    assert back.model.fingerprint() == model.fingerprint()
    assert back.model.description.encoder == config
    assert back.model.description.vocabulary == model.description.vocabulary
    assert back.model.description.audio.normalize is True
    assert [*dropped] == (["objective.feature_dropout"] if method == "wav2vec2" else [])


@needs_fairseq2
@METHODS
def test_an_extractor_with_the_channels_of_the_layers_has_no_projection(tmp_path, method):
    model = model_of(method, SQUARE)
    with pytest.raises(CheckpointError, match="projects 32 channels to as many, which fairseq2 cannot hold"):
        write_fairseq2(model, tmp_path / "theirs")
    assert not [*tmp_path.iterdir()]
    model.tensors["encoder.project.weight"] = torch.eye(32)
    model.tensors["encoder.project.bias"] = torch.zeros(32)
    write_fairseq2(model, tmp_path / "theirs")
    torch.testing.assert_close(run_fairseq2(tmp_path / "theirs", WAVEFORM), our_output(model), rtol=1e-5, atol=1e-5)
    back = read_fairseq2(tmp_path / "theirs")
    assert [*back.added] == ["encoder.project.weight", "encoder.project.bias"]
    assert back.model.fingerprint() == model.fingerprint()


@needs_fairseq2
@METHODS
def test_their_hub_fills_every_parameter(tmp_path, method):
    from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub
    from fairseq2.models.wav2vec2.asr import get_wav2vec2_asr_model_hub

    write_fairseq2(model_of(method), tmp_path / "theirs")
    hub = {"wav2vec2": get_wav2vec2_model_hub, "ctc": get_wav2vec2_asr_model_hub}[method]()
    card = json_card(tmp_path / "theirs")
    config = hub.get_model_config(their_card(card))
    expected = hub.create_new_model(config, device=torch.device("cpu")).state_dict()
    found = load_file(tmp_path / "theirs/model.safetensors")
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in expected.items()}


def json_card(folder: Path) -> dict[str, object]:
    return yaml.safe_load((folder / "card.yaml").read_text())


def their_card(card: dict[str, object]) -> object:
    from fairseq2.assets import AssetCard as TheirCard

    return TheirCard(str(card["name"]), card)


@needs_fairseq2
@pytest.mark.parametrize(
    ("family", "architecture"),
    [
        *(("wav2vec2", name) for name in (None, "base", "large", "large_lv60k")),
        *(("wav2vec2_asr", name) for name in (None, "base_10h", "base_100h", "large_10h", "large_100h")),
        *(("wav2vec2_asr", name) for name in ("large_lv60k_10h", "large_lv60k_100h")),
    ],
)
def test_their_architectures_are_known(family, architecture):
    from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub
    from fairseq2.models.wav2vec2.asr import get_wav2vec2_asr_model_hub

    hub = {"wav2vec2": get_wav2vec2_model_hub, "wav2vec2_asr": get_wav2vec2_asr_model_hub}[family]()
    fields = {"model_family": family} | ({"model_arch": architecture} if architecture else {})
    theirs = dataclasses.asdict(hub.get_model_config(their_card({"name": "model", **fields})))
    theirs["encoder_config"]["norm_order"] = theirs["encoder_config"]["norm_order"].name
    letters = tuple(map(str, range(32)))
    expected = AssetCard(name="model", model_family=family, checkpoint="", model_config=theirs)
    found = AssetCard(name="model", model_family=family, checkpoint="", model_arch=architecture)
    assert card_values(found, Path(), letters) == card_values(expected, Path(), letters)


def test_what_is_lost_is_reported(tmp_path):
    objective = ContrastiveConfig(dim=8, cross_negatives=3, quantizer=CONTRASTIVE.quantizer)
    dropped = write_fairseq2(model_of("wav2vec2", objective=objective), tmp_path / "wav2vec2")
    assert [*dropped] == ["objective.cross_negatives"]
    dropped = write_fairseq2(model_of("ctc", ctc=CTCConfig(freeze_steps=7)), tmp_path / "ctc")
    assert dropped == {"ctc.freeze_steps": "fairseq2 does not hold it; 10000 instead of 7 when read back"}


@needs_fairseq2
def test_a_model_tuned_without_masks_has_no_mask_vector(tmp_path):
    none = MaskConfig(start_prob=0.0, min_spans=0)
    model = model_of("ctc", ctc=CTCConfig(mask=none, channel_mask=none))
    assert "encoder.mask_vector" in write_fairseq2(model, tmp_path / "theirs")
    torch.testing.assert_close(run_fairseq2(tmp_path / "theirs", WAVEFORM), our_output(model), rtol=1e-5, atol=1e-5)
    back = read_fairseq2(tmp_path / "theirs")
    assert [*back.added] == ["encoder.mask_vector"]
    assert not back.model.tensors["encoder.mask_vector"].any()


def test_a_fine_tuned_hubert_remembers_what_pretrained_it(tmp_path):
    write_fairseq2(model_of("ctc", family="hubert"), tmp_path / "theirs")
    assert read_fairseq2(tmp_path / "theirs").model.description.pretrained_by == "hubert"


@needs_fairseq2
@pytest.mark.parametrize("kind", ["char", "unigram"])
def test_tokens_of_their_tokenizers_are_written_as_they_write_them(tmp_path, kind):
    sentencepiece = pytest.importorskip("sentencepiece")
    from fairseq2.data.tokenizers.char import load_char_tokenizer

    texts = ["one two six", "ten two one", "six ten", "two ones"] * 5
    settings = {"vocab_size": 24, "hard_vocab_limit": False, "bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3}
    prefix = str(tmp_path / "spm")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=prefix, model_type=kind, minloglevel=2, **settings
    )
    spm = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    tokens = tuple(spm.id_to_piece(token) for token in range(spm.get_piece_size()))
    write_fairseq2(model_of("ctc", vocabulary=tokens), tmp_path / "theirs")
    change_card(tmp_path / "theirs", tokenizer_ref="librispeech_asr")
    found = read_fairseq2(tmp_path / "theirs")
    assert [*found.dropped] == ["tokenizer_ref=librispeech_asr"]
    vocabulary, decode = found.model.vocabulary(), load_char_tokenizer(Path(f"{prefix}.model"), None).create_decoder()
    for text in ("one six ten", "sixten two"):
        ids = spm.encode(text)
        assert vocabulary.decode([1, *ids, 2]) == str(decode(torch.tensor(ids))) == text
        assert vocabulary.decode(vocabulary.encode(text, where="here")) == text


@pytest.mark.parametrize("method", ["encoder", "hubert"])
def test_a_model_without_a_family_is_refused(tmp_path, method):
    with pytest.raises(CheckpointError, match="for which fairseq2 has no model; it takes"):
        write_fairseq2(model_of(method), tmp_path / "theirs")
    assert not [*tmp_path.iterdir()]


@needs_fairseq2
def test_a_pickled_checkpoint_and_its_card_are_read(tmp_path):
    write_fairseq2(model_of("wav2vec2"), tmp_path / "theirs")
    tensors = load_file(tmp_path / "theirs/model.safetensors")
    path = tmp_path / "other.pt"
    torch.save({"model": tensors}, path)
    assert not is_fairseq2(path)
    card = json_card(tmp_path / "theirs") | {"checkpoint": f"file://{path}"}
    path.with_suffix(".yaml").write_text(json.dumps(card))
    for named in (path, path.with_suffix(".yaml"), tmp_path):
        assert is_fairseq2(named)
        assert read_fairseq2(named).model.fingerprint() == model_of("wav2vec2").fingerprint()
    torch.testing.assert_close(run_fairseq2(path, WAVEFORM), our_output(model_of("wav2vec2")), rtol=1e-5, atol=1e-5)
    torch.save({"model": tensors, "harm": Malicious(tmp_path / "harm")}, path)
    with pytest.raises(CheckpointError, match="nothing of it was executed"):
        read_fairseq2(path)
    assert not (tmp_path / "harm").exists()


def test_a_card_that_does_not_speak_of_normalisation_is_taken_as_published_ones_are(tmp_path):
    for config, is_normalized in ((BASE_LIKE, False), (LARGE_LIKE, True)):
        folder = tmp_path / config.conv_norm
        write_fairseq2(model_of("ctc", config), folder)
        change_card(folder, normalize_audio=None)
        found = read_fairseq2(folder)
        assert found.model.description.audio.normalize is is_normalized
        assert [*found.added] == ["audio.normalize"]


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "theirs").mkdir()
    with pytest.raises(CheckpointError, match="exists already; name another folder"):
        write_fairseq2(model_of("ctc"), tmp_path / "theirs")
    assert [path.name for path in tmp_path.rglob("*")] == ["theirs"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("speechssl.hub.fairseq2.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        write_fairseq2(model_of("ctc"), tmp_path / "theirs")
    assert not [*tmp_path.iterdir()]


def change_card(folder: Path, **changes: object) -> None:
    (folder / "card.yaml").write_text(json.dumps(json_card(folder) | changes))


def test_broken_checkpoints_are_named(tmp_path):
    write_fairseq2(model_of("ctc"), tmp_path / "theirs")
    path = tmp_path / "theirs/model.safetensors"
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    lying = whole[: 8 + header].replace(b'"data_offsets":[0,', b'"data_offsets":[9,') + whole[8 + header :]
    for content in (*broken_copies(whole), lying, (2**40).to_bytes(8, "little") + whole[8:]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
            read_fairseq2(tmp_path / "theirs")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"card\.yaml: its checkpoint model\.safetensors is not here"):
        read_fairseq2(tmp_path / "theirs")


def test_parameters_that_do_not_fit_the_card_are_named(tmp_path):
    write_fairseq2(model_of("ctc"), tmp_path / "theirs")
    path = tmp_path / "theirs/model.safetensors"
    whole = load_file(path)
    fewer = {name: tensor for name, tensor in whole.items() if name != "final_proj.bias"}
    cases = {
        r"lacks 1 parameters of its architecture: final_proj\.bias": fewer,
        r"1 parameters have no place in this architecture: extra": whole | {"extra": torch.zeros(1)},
        r"final_proj\.bias has shape \(3,\), which does not fit": whole | {"final_proj.bias": torch.zeros(3)},
    }
    for message, tensors in cases.items():
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=message):
            read_fairseq2(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_family": "wav2vec2_llama"}, "of family wav2vec2_llama, expected wav2vec2 or wav2vec2_asr"),
        ({"model_arch": "huge"}, "describes huge of family wav2vec2_asr"),
        ({"checkpoint": "https://example.org/model.pt"}, "its checkpoint https://example.org/model.pt is not here"),
        ({"base": "other"}, "unknown key base"),
        ({"vocabulary": None}, "names no vocabulary; write the tokens, one a line"),
        ({"vocabulary": "letters.txt"}, r"letters\.txt: cannot be read"),
        ({"model_config": {"encoder_config": {"use_conformer": True}}}, "has use_conformer=True, supported is only"),
        ({"model_config": {"encoder_config": {"norm_order": "PRE"}}}, "a norm before the layers and one after"),
        ({"model_config": {"encoder_config": {"norm_order": "NONE"}}}, "a norm before|cannot be understood"),
        ({"model_config": {"temporal_mask_span_len": 0}}, "its vocabulary has 5 tokens, expected target_vocab_size=32"),
        ({"model_config": {"target_vocab_size": 5, "temporal_mask_span_len": 0}}, "cannot be understood .ZeroDivision"),
        ({"model_config": {"target_vocab_size": 5, "final_dropout_p": "no"}}, r"ctc\.dropout.*the card is broken"),
        ({"model_config": {"encoder_config": 3}}, "cannot be understood"),
    ],
)
def test_a_card_of_another_model_is_refused(tmp_path, changes, message):
    write_fairseq2(model_of("ctc"), tmp_path / "theirs")
    change_card(tmp_path / "theirs", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_fairseq2(tmp_path / "theirs")


@pytest.mark.parametrize("content", ["", "[]", "a: {", "name: 3"])
def test_a_broken_card_is_named(tmp_path, content):
    write_fairseq2(model_of("ctc"), tmp_path / "theirs")
    (tmp_path / "theirs/card.yaml").write_text(content)
    assert not is_fairseq2(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=r"card\.yaml: "):
        read_fairseq2(tmp_path / "theirs")


def test_a_folder_without_or_with_several_cards_is_named(tmp_path):
    assert not is_fairseq2(tmp_path)
    with pytest.raises(CheckpointError, match="holds 0 asset cards"):
        read_fairseq2(tmp_path)
    for name in ("one.yaml", "two.yml"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"holds 2 asset cards .* expected one; name the card itself"):
        read_fairseq2(tmp_path)


def test_running_says_when_fairseq2_is_not_installed(tmp_path, monkeypatch):
    write_fairseq2(model_of("ctc"), tmp_path / "theirs")
    monkeypatch.setitem(sys.modules, "fairseq2.assets", None)
    with pytest.raises(CheckpointError, match="fairseq2 is not installed; pip install"):
        run_fairseq2(tmp_path / "theirs", WAVEFORM)
    assert read_fairseq2(tmp_path / "theirs").model.fingerprint() == model_of("ctc").fingerprint()
