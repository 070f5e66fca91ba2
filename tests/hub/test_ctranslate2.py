"""Folders for CTranslate2: the package computes our logits from them, and what it would get wrong is refused."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from speechssl.audio.reading import AudioConfig
from speechssl.errors import CheckpointError
from speechssl.hub.ctranslate2 import run_ctranslate2, write_ctranslate2
from speechssl.hub.tokenizers import decode_transformers
from speechssl.hub.transformers import write_transformers
from speechssl.model.encoder import EncoderConfig
from tests.hub.models import VOCABULARY, model_of, our_output
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, distance, noise

TRANSFORMER = dataclasses.replace(LARGE_LIKE.transformer, position_kernel=128, position_groups=16)
LARGE = dataclasses.replace(LARGE_LIKE, conv=((8, 10, 5), (12, 3, 2), (16, 2, 2)), transformer=TRANSFORMER)
WAVEFORM = noise(1, 16_000)[0]


def altered(**changes: object) -> EncoderConfig:
    """Return LARGE with other settings, of the encoder or of its Transformer."""
    inner = {key: value for key, value in changes.items() if hasattr(TRANSFORMER, key)}
    outer = {key: value for key, value in changes.items() if key not in inner}
    return dataclasses.replace(LARGE, **outer, transformer=dataclasses.replace(TRANSFORMER, **inner))


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_it_computes_our_logits(tmp_path: Path, family: str) -> None:
    pytest.importorskip("ctranslate2")
    model = model_of("ctc", LARGE, family=family, audio=AudioConfig(normalize=True))
    assert [*write_ctranslate2(model, tmp_path / "float32")] == ["encoder.mask_vector"]
    write_ctranslate2(model, tmp_path / "int8", "int8")
    expected = our_output(model, WAVEFORM)
    assert distance(run_ctranslate2(tmp_path / "float32", WAVEFORM), expected) < 1e-4
    assert 1e-4 < distance(run_ctranslate2(tmp_path / "int8", WAVEFORM), expected) < 0.1
    size = {name: (tmp_path / name / "model.bin").stat().st_size for name in ("float32", "int8")}
    assert size["int8"] < 0.8 * size["float32"]  # convolutions stay float32
    assert [*json.loads((tmp_path / "int8/vocabulary.json").read_text(encoding="utf-8"))] == [*VOCABULARY]
    assert json.loads((tmp_path / "int8/preprocessor_config.json").read_text())["do_normalize"] is True
    assert decode_transformers(tmp_path / "int8", [2, 3, 1, 4]) == model.vocabulary().decode([2, 3, 1, 4])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (altered(norm="post"), r"has encoder\.transformer\.norm=post instead of pre; CTranslate2 computes only"),
        (altered(conv_norm="group", conv_bias=False), r"conv_norm=group instead of layer, encoder\.conv_bias=False"),
        (altered(conv=((8, 10, 4), (16, 2, 2))), r"strides of encoder\.conv=\(4, 2\) instead of \(5, 2\)"),
        (altered(position_kernel=64), r"position_kernel=64 instead of 128"),
        (altered(position_groups=8), r"position_groups=8 instead of 16"),
        (BASE_LIKE, r"conv_norm=group .*norm=post instead .* convert to onnx instead"),
    ],
)
def test_an_architecture_that_it_refuses_or_gets_wrong_is_refused(tmp_path: Path, config, message) -> None:
    with pytest.raises(CheckpointError, match=message):
        write_ctranslate2(model_of("ctc", config), tmp_path / "folder")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "config", [altered(norm="post"), altered(conv=((8, 10, 4), (16, 2, 2)))], ids=["post", "stride"]
)
def test_it_still_gets_them_wrong_without_a_word(tmp_path: Path, config) -> None:
    converters = pytest.importorskip("ctranslate2.converters")
    model = model_of("ctc", config)
    write_transformers(model, tmp_path / "theirs")
    converters.TransformersConverter(str(tmp_path / "theirs")).convert(str(tmp_path / "folder"))
    found, expected = run_ctranslate2(tmp_path / "folder", WAVEFORM), our_output(model, WAVEFORM)
    assert found.shape != expected.shape or distance(found, expected) > 0.3


def test_a_model_without_a_ctc_head_and_an_existing_target_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no CTC head, which the toolkit needs; fine-tune it first"):
        write_ctranslate2(model_of("hubert", LARGE), tmp_path / "folder")
    with pytest.raises(CheckpointError, match="exists already; name another folder"):
        write_ctranslate2(model_of("ctc", LARGE), tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ctranslate2", "ctranslate2.converters"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CheckpointError, match=r"ctranslate2 is not installed; pip install 'speechssl\[ctranslate2\]'"):
        write_ctranslate2(model_of("ctc", LARGE), tmp_path / "folder")
    with pytest.raises(CheckpointError, match="ctranslate2 is not installed"):
        run_ctranslate2(tmp_path, WAVEFORM)


def test_a_broken_folder_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    with pytest.raises(CheckpointError, match="cannot be read by CTranslate2"):
        run_ctranslate2(tmp_path, torch.zeros(16_000))
