"""Conversion: every format recognised, nothing reported that was not run and compared, nothing half-written."""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.__main__ import main
from speechssl.audio.reading import AudioConfig
from speechssl.data.manifest import read_manifest
from speechssl.errors import CheckpointError, ConfigError
from speechssl.hub import onnx_int8
from speechssl.hub.model_formats import FORMATS, read_model
from speechssl.hub.names import Conversion, as_known
from speechssl.hub.saved import SavedModel
from speechssl.model.hourglass import HourglassConfig
from speechssl.stages import convert as module
from speechssl.stages.convert import convert
from speechssl.stages.pretrain import pretrain
from speechssl.stages.transcribe import transcribe
from speechssl.text.policy import TextConfig
from speechssl.text.writing import WritingConfig
from tests.hub.models import model_of
from tests.hub.test_bundles import LARGE_320
from tests.hub.test_ctranslate2 import LARGE as CTRANSLATED
from tests.model.tiny import BASE_LIKE

TARGETS = {"fairseq": "model.pt", "torchaudio": "model.pt", "onnx": "model.onnx"}
LARGE_ONLY = "ctranslate2"  # takes models of one architecture, which the runs here have not
READABLE = [name for name, format_ in FORMATS.items() if format_.read]


def target_of(folder: Path, format_: str) -> Path:
    return folder / TARGETS.get(format_, "model")


@pytest.mark.parametrize("to", [name for name in FORMATS if name != LARGE_ONLY])
def test_a_fine_tuned_run_is_converted_and_checked(finetuned, tmp_path, to):
    done = convert(finetuned, target_of(tmp_path, to), to)
    assert target_of(tmp_path, to).exists()
    assert done.source_format == "speechssl"
    assert done.differences
    assert max(done.differences.values()) < 1e-4
    assert not [*tmp_path.glob(".*")]


@pytest.mark.parametrize("to", [name for name in FORMATS if name != "speechssl"])
def test_log_mel_input_is_refused_by_every_other_toolkit_before_anything_is_written(finetuned_on_log_mel, tmp_path, to):
    with pytest.raises(
        CheckpointError, match=r"encoder\.input is log_mel, but .* takes waveforms only; keep the model"
    ):
        convert(finetuned_on_log_mel, target_of(tmp_path, to), to)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("to", [name for name in FORMATS if name != "speechssl"])
def test_layers_at_a_lower_frame_rate_are_refused_by_every_other_toolkit(tmp_path, to):
    transformer = dataclasses.replace(BASE_LIKE.transformer, hourglass=HourglassConfig(before=0))
    model_of("ctc", dataclasses.replace(BASE_LIKE, transformer=transformer)).write(tmp_path / "ours")
    with pytest.raises(CheckpointError, match=r"encoder\.transformer\.hourglass is set, but .* one frame rate"):
        convert(tmp_path / "ours", target_of(tmp_path / "theirs", to), to)
    assert not [*(tmp_path / "theirs").glob("*")]


def test_log_mel_input_is_copied_to_a_model_folder(finetuned_on_log_mel, corpus, tmp_path):
    convert(finetuned_on_log_mel, tmp_path / "copy", "speechssl")
    manifest = read_manifest(corpus)
    (found, _), (expected, _) = (transcribe(run, manifest) for run in (tmp_path / "copy", finetuned_on_log_mel))
    assert [each.text for each in found] == [each.text for each in expected]


@pytest.mark.parametrize("to", [name for name in READABLE if name != "speechssl"])
def test_a_converted_model_comes_back_and_transcribes_alike(finetuned, corpus, tmp_path, to):
    convert(finetuned, target_of(tmp_path / "theirs", to), to)
    found, format_ = read_model(target_of(tmp_path / "theirs", to))
    assert format_ == to
    for name, tensor in SavedModel.read(finetuned).tensors.items():
        assert torch.equal(found.model.tensors[name], tensor) or name in found.added
    convert(target_of(tmp_path / "theirs", to), tmp_path / "back", "speechssl")
    assert transcribe(tmp_path / "back", read_manifest(corpus)) == transcribe(finetuned, read_manifest(corpus))


@pytest.mark.parametrize("to", FORMATS)
def test_a_pretrained_run_is_converted_or_clearly_refused(pretrained, tmp_path, to):
    if to == "fairseq2":
        with pytest.raises(CheckpointError, match="fairseq2"):
            convert(pretrained, target_of(tmp_path, to), to)
        assert not [*tmp_path.iterdir()]
    elif to in ("sherpa-onnx", "onnx-asr", LARGE_ONLY):
        with pytest.raises(CheckpointError, match="has no CTC head, which the toolkit needs; fine-tune it first"):
            convert(pretrained, target_of(tmp_path, to), to)
        assert not [*tmp_path.iterdir()]
    else:
        assert max(convert(pretrained, target_of(tmp_path, to), to).differences.values()) < 1e-4


@pytest.mark.parametrize("method", ["best-rq", "data2vec"])
def test_a_trunk_of_a_method_that_no_toolkit_has_is_written_as_wav2vec2(tmp_path, method):
    model, dropped = as_known(model_of("encoder", family=method))
    assert dropped == {"family": f"no other toolkit knows the method {method}; its files say wav2vec2"}
    FORMATS["transformers"].write(model, tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == "wav2vec2"


@pytest.mark.parametrize("to", [name for name in READABLE if name not in ("speechssl", LARGE_ONLY)])
def test_a_quantizer_of_log_mel_frames_stays_behind_and_the_trunk_is_converted_or_clearly_refused(
    pretrain_config, tmp_path, to
):
    config = pretrain_config(tmp_path / "run", "contrastive")
    objective = dataclasses.replace(config.objective, targets="log_mel", loudness_neighbours=3)
    pretrain(dataclasses.replace(config, objective=objective))
    try:
        done = convert(tmp_path / "run", target_of(tmp_path, to), to)
    except CheckpointError as error:
        assert "is a bare encoder" in str(error)
        return
    assert "objective.kind=contrastive with these settings" in done.dropped["objective.quantizer.codebook"]
    again = read_model(target_of(tmp_path, to))[0].model.description
    assert again.objective is None
    assert again.pretrained_by in ("wav2vec2", None)  # None: the file does not say it


@pytest.mark.parametrize("to", ["onnx", "onnx-asr"])
def test_int8_is_written_where_the_format_has_it(finetuned, tmp_path, to):
    done = convert(finetuned, target_of(tmp_path, to), to, precision="int8")
    assert 1e-4 < max(done.differences.values()) < 0.1


def test_int8_is_refused_where_the_format_lacks_it(finetuned, tmp_path):
    with pytest.raises(ConfigError, match="torchaudio: cannot be written in int8; choose one of onnx, sherpa-onnx"):
        convert(finetuned, tmp_path / "model.pt", "torchaudio", precision="int8")


@pytest.mark.parametrize("fault", [0.0, 1.5, -1.0], ids=["lost", "scale", "sign"])
def test_int8_with_one_wrong_product_is_caught_and_nothing_is_left(finetuned, tmp_path, monkeypatch, fault):
    replace, products = onnx_int8._replace, itertools.count()

    def careless(ir, graph, product, constants):
        if next(products) == 1:
            matrix = product.inputs[1]
            matrix.const_value = ir.tensor(matrix.const_value.numpy() * np.float32(fault), name=matrix.name)
        replace(ir, graph, product, constants)

    monkeypatch.setattr(onnx_int8, "_replace", careless)
    with pytest.raises(CheckpointError, match=r"run by onnx differs by .* of the output, expected at most 1e-01"):
        convert(finetuned, tmp_path / "model.onnx", "onnx", precision="int8")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("to", ["onnx-asr", "sherpa-onnx"])
@pytest.mark.parametrize(
    "writing", [WritingConfig(silent=("a",)), WritingConfig(boundary="")], ids=["silent", "joined"]
)
def test_a_model_with_silent_tokens_is_bundled(tmp_path, to, writing):
    model_of("ctc", LARGE_320, writing=writing, audio=AudioConfig(normalize=True)).write(tmp_path / "ours")
    assert convert(tmp_path / "ours", tmp_path / "theirs", to).differences[to] < 1e-4


def test_ctranslate2_takes_large_and_is_refused_what_it_gets_wrong(finetuned, tmp_path):
    with pytest.raises(CheckpointError, match=r"norm=post instead of pre.* give wrong logits; convert to onnx instead"):
        convert(finetuned, tmp_path / "theirs", LARGE_ONLY)
    assert not [*tmp_path.iterdir()]
    pytest.importorskip("ctranslate2")
    model_of("ctc", CTRANSLATED).write(tmp_path / "ours")
    for precision, largest in {"float32": 1e-4, "int8": 0.1}.items():
        done = convert(tmp_path / "ours", tmp_path / precision, LARGE_ONLY, precision=precision)
        assert done.differences[LARGE_ONLY] < largest
    assert {path.name for path in tmp_path.iterdir()} == {"ours", "float32", "int8"}


def test_a_writer_that_loses_something_is_caught_and_nothing_is_left(finetuned, tmp_path, monkeypatch):
    def careless(model: SavedModel, target: Path) -> dict[str, str]:
        tensors = model.tensors | {"encoder.norm.weight": model.tensors["encoder.norm.weight"] * 1.01}
        dataclasses.replace(model, tensors=tensors).write(target)
        return {}

    monkeypatch.setitem(module.FORMATS, "speechssl", dataclasses.replace(FORMATS["speechssl"], write=careless))
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight|differs by"):
        convert(finetuned, tmp_path / "model", "speechssl")
    assert not [*tmp_path.iterdir()]


def test_a_toolkit_that_computes_something_else_is_caught(finetuned, tmp_path, monkeypatch):
    run = FORMATS["transformers"].run
    wrong = dataclasses.replace(FORMATS["transformers"], run=lambda path, waveform: run(path, waveform) * 1.001)
    monkeypatch.setitem(module.FORMATS, "transformers", wrong)
    with pytest.raises(CheckpointError, match=r"run by transformers differs by .* nothing was written"):
        convert(finetuned, tmp_path / "model", "transformers")
    assert not [*tmp_path.iterdir()]


def test_without_the_toolkit_the_result_is_read_back_only(finetuned, tmp_path, monkeypatch):
    monkeypatch.setitem(
        module.FORMATS, "transformers", dataclasses.replace(FORMATS["transformers"], package="not_installed_anywhere")
    )
    assert [*convert(finetuned, tmp_path / "model", "transformers").differences] == ["speechssl"]


def test_an_existing_target_is_left_alone(finetuned, tmp_path):
    (tmp_path / "model.pt").write_text("precious")
    with pytest.raises(CheckpointError, match="exists already; name another target"):
        convert(finetuned, tmp_path / "model.pt", "torchaudio")
    assert (tmp_path / "model.pt").read_text() == "precious"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder"),
        (b"", "not a model that can be read"),
        (b"hello", "not a model that can be read"),
        ("dir", "not a model"),
    ],
)
def test_what_is_no_model_is_named(tmp_path, content, message):
    path = tmp_path / "thing.pt"
    if content == "dir":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_model(path)


def test_the_probe_may_be_a_recording(finetuned, corpus, tmp_path):
    recording = next(corpus.parent.rglob("*.wav"))
    assert convert(finetuned, tmp_path / "model", "transformers", probe=recording).differences


def test_the_command_says_what_was_dropped_and_how_it_was_checked(pretrained, tmp_path, capsys):
    assert main(["convert", str(pretrained), str(tmp_path / "model"), "--to", "transformers"]) == 0
    printed = capsys.readouterr().out
    assert "dropped  objective.project.weight: transformers has no class for HuBERT" in printed
    assert "checked  run by transformers: largest difference" in printed
    assert main(["convert", str(pretrained), str(tmp_path / "model"), "--to", "transformers"]) == 2
    assert main(["convert", str(pretrained), str(tmp_path / "other"), "--to", "tensorflow"]) == 2


def test_what_other_formats_cannot_say_of_texts_is_named_and_ours_keeps_it(finetuned, tmp_path):
    saved = SavedModel.read(finetuned)
    pieces = {
        "written_in": "pieces",
        "text": TextConfig(case="lower"),
        "piece_scores": tuple(-1.0 for _ in saved.description.vocabulary[1:]),
    }
    made = dataclasses.replace(saved, description=dataclasses.replace(saved.description, **pieces))
    made.write(tmp_path / "ours")
    theirs = convert(tmp_path / "ours", tmp_path / "theirs.pt", "torchaudio")
    assert "lower case" in theirs.dropped["text"]
    assert "pieces, read there as letters" in theirs.dropped["written_in"]
    same = convert(tmp_path / "ours", tmp_path / "same", "speechssl")
    assert not {"text", "written_in"} & set(same.dropped)
    assert SavedModel.read(tmp_path / "same").description == made.description
    assert not {"text", "written_in"} & set(convert(finetuned, tmp_path / "letters.pt", "torchaudio").dropped)


def test_texts_are_compared_with_those_of_the_sources_tokenizer(finetuned, tmp_path, monkeypatch):
    convert(finetuned, tmp_path / "theirs", "transformers")
    settings = json.loads((tmp_path / "theirs/tokenizer_config.json").read_text(encoding="utf-8"))
    changed = json.dumps(settings | {"replace_word_delimiter_char": "-"})
    (tmp_path / "theirs/tokenizer_config.json").write_text(changed, encoding="utf-8")
    assert convert(tmp_path / "theirs", tmp_path / "obeyed", "speechssl").model.description.writing.boundary == "-"
    misread = functools.partial(dataclasses.replace, writing=WritingConfig(), written_in="phones")
    read = FORMATS["transformers"].read

    def wrong(path: Path) -> Conversion:
        found = read(path)
        model = dataclasses.replace(found.model, description=misread(found.model.description))
        return dataclasses.replace(found, model=model)

    monkeypatch.setitem(FORMATS, "transformers", dataclasses.replace(FORMATS["transformers"], read=wrong))
    with pytest.raises(CheckpointError, match=r"the text, decoded by transformers, differs from ours: .*, expected"):
        convert(tmp_path / "theirs", tmp_path / "misread", "speechssl")
    assert not (tmp_path / "misread").exists()


@pytest.mark.parametrize("to", ["transformers", "fairseq"])
def test_a_model_of_phones_stays_one(finetuned, tmp_path, to):
    saved = SavedModel.read(finetuned)
    described = dataclasses.replace(saved.description, written_in="phones")
    dataclasses.replace(saved, description=described).write(tmp_path / "ours")
    converted = convert(tmp_path / "ours", tmp_path / "theirs", to)
    assert "written_in" not in converted.dropped
    assert read_model(tmp_path / "theirs")[0].model.description.written_in == "phones"


def test_info_says_what_a_model_is(finetuned, pretrained, tmp_path, capsys):
    assert main(["info", str(finetuned)]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["format"] == "speechssl"
    assert rows["holds"] == "ctc"
    assert rows["vocabulary"].startswith("10: <blank> |")
    assert (rows["tokens"], rows["texts"]) == ("letters", "Unicode NFC, single spaces")
    assert rows["fingerprint"] == SavedModel.read(finetuned).fingerprint()
    assert rows["trained"].startswith("3 steps")
    convert(pretrained, tmp_path / "theirs", "transformers")
    assert main(["info", str(tmp_path / "theirs")]) == 0
    printed = capsys.readouterr().out
    assert "transformers" in printed and "pretrained by  hubert" in printed
    assert json.loads((tmp_path / "theirs/config.json").read_text())["architectures"] == ["HubertModel"]


def test_a_probe_of_noise_and_silence_tells_models_apart(finetuned):
    model = SavedModel.read(finetuned)
    waveform = module._probe(model, None)
    assert waveform.std() > 0.01
    assert module.outputs(model, waveform).std(0).max() > 1e-3
    assert torch.equal(waveform, module._probe(model, None))
