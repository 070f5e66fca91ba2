"""Folders of transformers, both ways: what we write it loads, what it writes we read, with the same numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoProcessor,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
    Wav2Vec2Processor,
    pipeline,
)

from speechssl.asr.decoding.hypothesis import greedy_decode
from speechssl.audio.reading import AudioConfig
from speechssl.errors import CheckpointError
from speechssl.hub.transformers import is_transformers, read_transformers, run_transformers, write_transformers
from speechssl.model.encoder import EncoderConfig
from tests.hub.models import FORMS, WAVEFORM, Malicious, model_of, our_output
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise


@FORMS
@pytest.mark.parametrize("method", ["encoder", "wav2vec2", "hubert", "ctc"])
def test_what_we_write_transformers_runs_with_the_same_output(tmp_path, config, method):
    model = model_of(method, config)
    write_transformers(model, tmp_path / "theirs")
    assert is_transformers(tmp_path / "theirs")
    torch.testing.assert_close(run_transformers(tmp_path / "theirs", WAVEFORM), our_output(model), rtol=1e-5, atol=1e-5)


@FORMS
@pytest.mark.parametrize("method", ["encoder", "wav2vec2", "ctc"])
def test_a_model_comes_back_as_it_went(tmp_path, config, method):
    model = model_of(method, config, audio=AudioConfig(normalize=True))
    write_transformers(model, tmp_path / "theirs")
    back = read_transformers(tmp_path / "theirs")
    assert (back.dropped, back.added) == ({}, {})
    assert back.model.fingerprint() == model.fingerprint()
    assert back.model.description.method == method
    assert back.model.description.encoder.transformer == config.transformer
    assert back.model.description.audio.normalize is True
    assert back.model.description.vocabulary == model.description.vocabulary


def test_the_label_head_of_hubert_is_reported_as_dropped(tmp_path):
    dropped = write_transformers(model_of("hubert"), tmp_path / "theirs")
    assert sorted(dropped) == ["objective.embeddings.0", "objective.project.bias", "objective.project.weight"]
    assert read_transformers(tmp_path / "theirs").model.description.pretrained_by == "hubert"


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_an_exported_trunk_loads_in_automodel(tmp_path, family):
    write_transformers(model_of("encoder", family=family), tmp_path / "theirs")
    model, report = AutoModel.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert type(model).__name__ == {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel"}[family]
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]


@pytest.mark.parametrize("family", [None, "hubert"])
@pytest.mark.parametrize("is_normalized", [False, True])
def test_an_exported_recogniser_gives_the_same_text_in_a_pipeline(tmp_path, family, is_normalized):
    model = model_of("ctc", audio=AudioConfig(normalize=is_normalized), family=family)
    model.tensors["head.bias"] -= our_output(model).mean(0)  # or every frame would say the same
    write_transformers(model, tmp_path / "theirs")
    recognise = pipeline("automatic-speech-recognition", model=str(tmp_path / "theirs"), device="cpu")
    waveform = 0.1 * WAVEFORM
    text = recognise({"raw": waveform.numpy(), "sampling_rate": 16_000})["text"]
    normalized = (waveform - waveform.mean()) / torch.sqrt(waveform.var(unbiased=False) + 1e-7)  # their epsilon
    logits = our_output(model, normalized if is_normalized else waveform)
    (ids,) = greedy_decode(logits[None], torch.tensor([len(logits)]))
    _, vocabulary = model.recogniser()
    assert len(text) > 20
    assert " ".join(text.split()) == vocabulary.decode(ids)


def their_config(kind: type, config: EncoderConfig, **changes: object) -> transformers.PretrainedConfig:
    transformer = config.transformer
    return kind(
        conv_dim=[channels for channels, _, _ in config.conv],
        conv_kernel=[kernel for _, kernel, _ in config.conv],
        conv_stride=[stride for _, _, stride in config.conv],
        num_feat_extract_layers=len(config.conv),
        feat_extract_norm=config.conv_norm,
        conv_bias=config.conv_bias,
        do_stable_layer_norm=transformer.norm == "pre",
        hidden_size=transformer.dim,
        num_hidden_layers=transformer.num_layers,
        num_attention_heads=transformer.num_heads,
        intermediate_size=transformer.ffn_dim,
        num_conv_pos_embeddings=transformer.position_kernel,
        num_conv_pos_embedding_groups=transformer.position_groups,
        vocab_size=6,
        pad_token_id=3,
        codevector_dim=12,
        num_codevectors_per_group=5,
        proj_codevector_dim=8,
        **changes,
    )


def saved_by_transformers(folder: Path, model: transformers.PreTrainedModel, *, normalize: bool = False) -> Path:
    randomise(model)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    vocabulary = {"a": 0, "б": 1, "_": 2, "[PAD]": 3, "न": 4, "[UNK]": 5}
    (folder / "letters.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(
        str(folder / "letters.json"), unk_token="[UNK]", pad_token="[PAD]", bos_token=None, eos_token=None,
        word_delimiter_token="_",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


@FORMS
@pytest.mark.parametrize(
    ("kind", "settings", "method"),
    [
        (Wav2Vec2Model, Wav2Vec2Config, "encoder"),
        (Wav2Vec2ForPreTraining, Wav2Vec2Config, "wav2vec2"),
        (Wav2Vec2ForCTC, Wav2Vec2Config, "ctc"),
        (HubertModel, HubertConfig, "encoder"),
        (HubertForCTC, HubertConfig, "ctc"),
    ],
    ids=["bare", "pretraining", "ctc", "hubert", "hubert ctc"],
)
def test_what_transformers_writes_is_read_with_the_same_output(tmp_path, config, kind, settings, method):
    theirs = kind(their_config(settings, config)).eval()
    folder = saved_by_transformers(tmp_path / "theirs", theirs, normalize=config is LARGE_LIKE)
    found = read_transformers(folder)
    assert found.model.description.method == method
    assert found.model.description.pretrained_by == settings.model_type
    assert found.model.description.audio.normalize is (config is LARGE_LIKE)
    expected = run_transformers(folder, WAVEFORM)
    if method == "ctc":
        expected = expected[:, [3, 0, 1, 2, 4, 5]]  # the blank comes first with us
        assert found.model.description.vocabulary == ("[PAD]", "a", "б", "|", "न", "[UNK]")
    scale = float(expected.abs().max())
    torch.testing.assert_close(our_output(found.model) / scale, expected / scale, rtol=0, atol=1e-5)


def test_the_quantizer_of_transformers_is_read(tmp_path):
    theirs = Wav2Vec2ForPreTraining(their_config(Wav2Vec2Config, BASE_LIKE)).eval()
    model = read_transformers(saved_by_transformers(tmp_path / "theirs", theirs)).model.pretraining()
    features = noise(7, 16)
    codes = theirs.quantizer.weight_proj(features).view(7, 2, 5).argmax(-1)
    found = model.objective.quantizer(features, temperature=1.0, generator=torch.Generator())
    assert torch.equal(found.codes, codes)
    expected, _ = theirs.quantizer(features[None])
    torch.testing.assert_close(found.vectors, expected[0])


def test_masking_and_dropouts_of_the_configuration_are_kept(tmp_path):
    changes = {"mask_time_prob": 0.65, "mask_time_length": 10, "hidden_dropout": 0.3, "final_dropout": 0.2}
    config = their_config(Wav2Vec2Config, BASE_LIKE, **changes, layerdrop=0.0, attention_dropout=0.15)
    description = read_transformers(
        saved_by_transformers(tmp_path / "theirs", Wav2Vec2ForCTC(config))
    ).model.description
    assert description.ctc is not None
    assert (description.ctc.mask.start_prob, description.ctc.mask.span) == (pytest.approx(0.065), 10)
    assert description.ctc.channel_mask.start_prob == 0
    assert description.ctc.dropout == 0.2
    transformer = description.encoder.transformer
    assert (transformer.dropout, transformer.attention_dropout, transformer.layer_drop) == (0.3, 0.15, 0.0)


def test_a_model_saved_without_masking_gets_a_mask_vector_and_says_so(tmp_path):
    config = their_config(Wav2Vec2Config, BASE_LIKE, mask_time_prob=0.0, mask_feature_prob=0.0)
    found = read_transformers(saved_by_transformers(tmp_path / "theirs", Wav2Vec2ForCTC(config)))
    assert [*found.added] == ["encoder.mask_vector"]
    assert not found.model.tensors["encoder.mask_vector"].any()


def test_files_of_older_versions_are_read(tmp_path):
    write_transformers(model_of("ctc"), tmp_path / "theirs")
    tensors = load_file(tmp_path / "theirs/model.safetensors")
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        name = f"wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.{new}"
        tensors[name.replace(f"parametrizations.weight.{new}", old)] = tensors.pop(name)
    torch.save(tensors, tmp_path / "theirs/pytorch_model.bin")
    (tmp_path / "theirs/model.safetensors").unlink()
    assert read_transformers(tmp_path / "theirs").model.fingerprint() == model_of("ctc").fingerprint()


def test_a_model_in_several_files_is_read(tmp_path):
    model = Wav2Vec2ForCTC(their_config(Wav2Vec2Config, BASE_LIKE))
    folder = saved_by_transformers(tmp_path / "theirs", model)
    whole = read_transformers(folder).model.fingerprint()
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len([*folder.glob("*.safetensors")]) > 1
    assert read_transformers(folder).model.fingerprint() == whole


def in_two_bins(folder: Path) -> dict[str, str]:
    """Split the parameters of a folder into two pickles and an index; return its map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(names)}
    for shard in set(places.values()):
        torch.save({name: tensors[name] for name in names if places[name] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return places


def test_a_pickled_model_in_several_files_is_read(tmp_path):
    write_transformers(model_of("ctc"), tmp_path / "theirs")
    places = in_two_bins(tmp_path / "theirs")
    assert read_transformers(tmp_path / "theirs").model.fingerprint() == model_of("ctc").fingerprint()
    index = tmp_path / "theirs/pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places | {"more": next(iter(places.values()))}}))
    with pytest.raises(CheckpointError, match=r"index\.json: names more in pytorch_model-00001-of-00002\.bin, which"):
        read_transformers(tmp_path / "theirs")
    (tmp_path / "theirs/pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"00002\.bin: no such file, and .*index\.json names it; copy all shards"):
        read_transformers(tmp_path / "theirs")


def test_the_whole_file_goes_before_shards_and_pickles(tmp_path):
    write_transformers(model_of("ctc"), tmp_path / "theirs")
    whole = (tmp_path / "theirs/model.safetensors").read_bytes()
    in_two_bins(tmp_path / "theirs")
    (tmp_path / "theirs/pytorch_model.bin").write_bytes(b"broken")
    (tmp_path / "theirs/model.safetensors").write_bytes(whole)
    assert read_transformers(tmp_path / "theirs").model.fingerprint() == model_of("ctc").fingerprint()


def test_a_folder_without_parameters_says_what_it_has(tmp_path):
    write_transformers(model_of("ctc"), tmp_path / "theirs")
    (tmp_path / "theirs/model.safetensors").rename(tmp_path / "theirs/adapter.eng.safetensors")
    with pytest.raises(CheckpointError, match=r"has no parameters in .*, found adapter\.eng\.safetensors; load"):
        read_transformers(tmp_path / "theirs")


def test_a_pickle_that_would_run_code_runs_none(tmp_path):
    write_transformers(model_of("encoder"), tmp_path / "theirs")
    (tmp_path / "theirs/model.safetensors").unlink()
    torch.save({"harm": Malicious(tmp_path / "harm")}, tmp_path / "theirs/pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: names .*; nothing of it was executed"):
        read_transformers(tmp_path / "theirs")
    assert not (tmp_path / "harm").exists()


def rewrite_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "is a model of type 'bert', expected wav2vec2 or hubert"),
        ({"hidden_act": "relu"}, "has hidden_act='relu', supported is only 'gelu'"),
        ({"adapter_attn_dim": 16}, "its layers have adapters, one set a language, as MMS has, supported is only None"),
        ({"add_adapter": True}, "has add_adapter=True, supported is only False"),
        ({"num_hidden_layers": 3}, r"lacks 16 parameters of its architecture: encoder\.layers\.2\."),
        ({"num_hidden_layers": 1}, r"16 parameters have no place in this architecture: encoder\.layers\.1\."),
        ({"intermediate_size": 40}, r"encoder\.layers\.0\.feed_forward.* has shape \(48, 32\), which does not fit the"),
    ],
)
def test_another_architecture_is_refused(tmp_path, changes, message):
    write_transformers(model_of("encoder"), tmp_path / "theirs")
    rewrite_config(tmp_path / "theirs", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_transformers(tmp_path / "theirs")


def test_a_lying_or_truncated_file_is_named(tmp_path):
    write_transformers(model_of("encoder"), tmp_path / "theirs")
    path = tmp_path / "theirs/model.safetensors"
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    lying = (
        whole[:8] + whole[8 : 8 + header].replace(b'"data_offsets":[0,', b'"data_offsets":[9,') + whole[8 + header :]
    )
    for content in (whole[:-10], lying, (2**40).to_bytes(8, "little") + whole[8:], b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
            read_transformers(tmp_path / "theirs")


def test_a_vocabulary_of_another_model_is_refused(tmp_path):
    write_transformers(model_of("ctc"), tmp_path / "theirs")
    (tmp_path / "theirs/vocab.json").write_text('{"<blank>": 0, "|": 1}')
    with pytest.raises(CheckpointError, match=r"vocab\.json: has no token for id 2, expected ids 0 to 4"):
        read_transformers(tmp_path / "theirs")
    (tmp_path / "theirs/vocab.json").write_text('{"eng": {"a": 0}, "deu": {"a": 0}}')
    with pytest.raises(CheckpointError, match="expected one vocabulary, found one for each of 2 languages"):
        read_transformers(tmp_path / "theirs")


def test_a_folder_without_a_feature_extractor_is_taken_as_published_ones_are(tmp_path):
    for config, is_normalized in ((BASE_LIKE, False), (LARGE_LIKE, True)):
        write_transformers(model_of("encoder", config), tmp_path / config.conv_norm)
        (tmp_path / config.conv_norm / "preprocessor_config.json").unlink()
        found = read_transformers(tmp_path / config.conv_norm)
        assert found.model.description.audio.normalize is is_normalized
        assert [*found.added] == ["audio.normalize"]


EITHER = pytest.mark.parametrize("is_normalized", [False, True])


@FORMS
@EITHER
def test_a_processor_saved_by_this_version_says_how_waveforms_are_read(tmp_path, config, is_normalized):
    theirs = Wav2Vec2ForCTC(their_config(Wav2Vec2Config, config))
    folder = saved_by_transformers(tmp_path / "theirs", theirs, normalize=not is_normalized)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder)
    (folder / "preprocessor_config.json").unlink()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=is_normalized)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    found = read_transformers(folder)
    assert found.model.description.audio.normalize is is_normalized
    assert "audio.normalize" not in found.added


def nest(folder: Path, **extractor: object) -> None:
    """Write the settings of a feature extractor where version 5 does."""
    content = {"processor_class": "Wav2Vec2Processor", "feature_extractor": extractor}
    (folder / "processor_config.json").write_text(json.dumps(content), encoding="utf-8")


@FORMS
@EITHER
def test_a_feature_extractor_inside_a_processor_is_read(tmp_path, config, is_normalized):
    write_transformers(model_of("encoder", config), tmp_path / "theirs")
    (tmp_path / "theirs/preprocessor_config.json").unlink()
    nest(tmp_path / "theirs", do_normalize=is_normalized, sampling_rate=16_000)
    found = read_transformers(tmp_path / "theirs")
    assert found.model.description.audio.normalize is is_normalized
    assert not found.added
    nest(tmp_path / "theirs", do_normalize=is_normalized, sampling_rate=8_000)
    with pytest.raises(CheckpointError, match=r"processor_config\.json: sampling_rate is 8000, expected 16000"):
        read_transformers(tmp_path / "theirs")


@EITHER
def test_two_feature_extractors_that_disagree_are_named(tmp_path, is_normalized):
    write_transformers(model_of("encoder", audio=AudioConfig(normalize=not is_normalized)), tmp_path / "theirs")
    nest(tmp_path / "theirs", do_normalize=is_normalized)
    found = read_transformers(tmp_path / "theirs")
    assert found.model.description.audio.normalize is is_normalized
    assert found.added["audio.normalize"] == (
        f"processor_config.json says do_normalize={is_normalized}, preprocessor_config.json the opposite; "
        "transformers 5 reads the former, 4 the latter: correct the wrong one"
    )


@EITHER
@pytest.mark.parametrize("method", ["encoder", "ctc"])
def test_every_way_to_load_finds_how_waveforms_are_read(tmp_path, method, is_normalized):
    write_transformers(model_of(method, audio=AudioConfig(normalize=is_normalized)), tmp_path / "theirs")
    loaded = [kind.from_pretrained(tmp_path / "theirs") for kind in (AutoFeatureExtractor, Wav2Vec2FeatureExtractor)]
    if method == "ctc":
        processor = AutoProcessor.from_pretrained(tmp_path / "theirs")
        assert type(processor) is Wav2Vec2Processor
        loaded.append(processor.feature_extractor)
    assert [extractor.do_normalize for extractor in loaded] == [is_normalized] * len(loaded)
    assert all(extractor.sampling_rate == 16_000 for extractor in loaded)


def test_a_processor_without_a_feature_extractor_leaves_the_word_to_the_other_file(tmp_path):
    write_transformers(model_of("encoder", audio=AudioConfig(normalize=True)), tmp_path / "theirs")
    (tmp_path / "theirs/processor_config.json").write_text('{"processor_class": "Wav2Vec2Processor"}')
    found = read_transformers(tmp_path / "theirs")
    assert (found.model.description.audio.normalize, found.added) == (True, {})


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "theirs").mkdir()
    with pytest.raises(CheckpointError, match="exists already; name another folder"):
        write_transformers(model_of("encoder"), tmp_path / "theirs")
    assert not [*(tmp_path / "theirs").iterdir()]


def test_their_feature_extractor_normalises_nearly_as_we_do():
    waveform = 0.1 * WAVEFORM
    theirs = Wav2Vec2FeatureExtractor(do_normalize=True)(waveform.numpy(), sampling_rate=16_000).input_values[0]
    ours = (waveform - waveform.mean()) / torch.sqrt(waveform.var(unbiased=False) + 1e-5)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-3)
