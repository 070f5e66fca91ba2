"""ONNX files: onnxruntime computes what we compute, on batches unlike the one that was traced."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from speechssl.audio.reading import AudioConfig
from speechssl.errors import CheckpointError
from speechssl.hub import onnx as ours
from speechssl.hub.onnx import is_onnx, run_onnx, write_onnx
from speechssl.hub.saved import Description, SavedModel, build_model
from speechssl.model.encoder import EncoderConfig
from speechssl.tasks.ctc import CTCConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from tests.hub.models import batch_of, run_eagerly
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise

VOCABULARY = ("<blank>", "|", "a", "б")
CTC = {"ctc": CTCConfig(), "vocabulary": VOCABULARY, "audio": AudioConfig(normalize=True)}
HUBERT = {"objective": MaskedPredictionConfig(dim=8), "clusters": (5,)}
CROSSED = dataclasses.replace(BASE_LIKE, transformer=LARGE_LIKE.transformer, padding_in_norm=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    model: SavedModel
    path: Path
    dropped: dict[str, str]
    session: onnxruntime.InferenceSession

    def run(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = {"waveforms": waveforms.numpy(), "num_samples": num_samples.numpy()}
        output, num_frames = self.session.run(None, inputs)
        return torch.from_numpy(output), torch.from_numpy(num_frames)


def model_of(config: EncoderConfig, head: dict[str, object]) -> SavedModel:
    description = Description(encoder=config, **head)
    model = build_model(description)
    randomise(model)
    return SavedModel(description=description, tensors=model.state_dict(), name="made here")


@pytest.fixture(
    scope="module",
    params=[
        (EncoderConfig.small(), HUBERT),
        (LARGE_LIKE, CTC),
        pytest.param((BASE_LIKE, CTC), marks=pytest.mark.slow),
        pytest.param((CROSSED, {}), marks=pytest.mark.slow),
    ],
    ids=["small-trunk", "large-like-ctc", "base-like-ctc", "crossed-trunk"],
)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    model = model_of(*request.param)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    dropped = write_onnx(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return Written(model=model, path=path, dropped=dropped, session=onnxruntime.InferenceSession(path, options))


@pytest.mark.parametrize("lengths", [[9, 31, 4], [5], [20] * 3], ids=["padded", "alone", "equal"])
def test_onnxruntime_equals_the_module_on_batches_of_other_sizes(written: Written, lengths: list[int]) -> None:
    waveforms, num_samples = batch_of(lengths, written.model.description.encoder.hop)
    output, num_frames = written.run(waveforms, num_samples)
    for row, expected in enumerate(run_eagerly(written.model, waveforms, num_samples)):
        assert num_frames[row] == len(expected) > 0
        torch.testing.assert_close(output[row, : len(expected)], expected, rtol=1e-4, atol=1e-4)


def test_onnxruntime_gives_an_utterance_the_same_alone_and_in_a_batch_unless_told_otherwise(written: Written) -> None:
    encoder = written.model.description.encoder
    waveforms, num_samples = batch_of([9, 31, 4], encoder.hop)
    output, num_frames = written.run(waveforms, num_samples)
    is_same = []
    for row, (length, frames) in enumerate(zip(num_samples, num_frames, strict=True)):
        alone, _ = written.run(waveforms[row : row + 1, :length], num_samples[row : row + 1])
        is_same.append(torch.allclose(output[row, :frames], alone[0], rtol=1e-4, atol=1e-4))
    assert is_same == ([False, True, False] if encoder.padding_in_norm else [True, True, True])


def test_an_utterance_shorter_than_a_frame_has_none_and_harms_no_other(written: Written) -> None:
    encoder = written.model.description.encoder
    waveforms, num_samples = batch_of([9, 31, 4], encoder.hop)
    expected, _ = written.run(waveforms[:2], num_samples[:2])
    output, num_frames = written.run(waveforms, torch.tensor([*num_samples[:2], encoder.window - 1]))
    assert num_frames[2] == 0
    torch.testing.assert_close(output[:2], expected, rtol=1e-4, atol=1e-4)


def test_run_onnx_gives_the_frames_of_one_utterance(written: Written) -> None:
    waveforms, num_samples = batch_of([12], written.model.description.encoder.hop)
    (expected,) = run_eagerly(written.model, waveforms, num_samples)
    torch.testing.assert_close(run_onnx(written.path, waveforms[0]), expected, rtol=1e-4, atol=1e-4)


def test_axes_and_values_have_the_names_that_are_documented(written: Written) -> None:
    described = written.model.description
    name, size = ("logits", 4) if described.ctc else ("frames", described.encoder.transformer.dim)
    inputs = {value.name: value.shape for value in written.session.get_inputs()}
    outputs = {value.name: value.shape for value in written.session.get_outputs()}
    assert inputs == {"waveforms": ["batch", "time"], "num_samples": ["batch"]}
    assert outputs == {name: ["batch", "frames", size], "num_frames": ["batch"]}


def test_the_file_says_what_a_deployment_must_know(written: Written) -> None:
    found = {key: json.loads(text) for key, text in written.session.get_modelmeta().custom_metadata_map.items()}
    described, is_ctc = written.model.description, written.model.description.ctc is not None
    assert found == {
        "method": described.method,
        "vocabulary": list(VOCABULARY) if is_ctc else [],
        "normalize": is_ctc,
        "sample_rate": 16_000,
        "hop": described.encoder.hop,
        "window": described.encoder.window,
        "precision": "float32",
        "fingerprint": written.model.fingerprint(),
        "origin": "speechssl",
    }


def test_the_file_is_one_valid_file_that_names_no_place_of_this_machine(written: Written) -> None:
    onnx.checker.check_model(written.path, full_check=True)
    assert [path.name for path in written.path.parent.iterdir()] == ["model.onnx"]
    content = written.path.read_bytes()
    assert str(Path(ours.__file__).parent).encode() not in content
    assert str(Path(torch.__file__).parent).encode() not in content


def test_what_inference_does_not_need_is_dropped_with_a_reason(written: Written) -> None:
    heads = {name for name in written.model.tensors if name.startswith("objective.")}
    assert set(written.dropped) == {"encoder.mask_vector", *heads}
    assert bool(heads) == (written.model.description.objective is not None)


def test_a_file_is_recognised_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    assert [path.name for path in sorted(tmp_path.iterdir()) if is_onnx(path)] == ["model.onnx"]


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(CheckpointError, match=r"model\.onnx: exists already; name another file"):
        write_onnx(model_of(BASE_LIKE, {}), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "mine"


def test_a_model_too_large_for_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "LARGEST", 1000)
    with pytest.raises(CheckpointError, match=r"made here: holds .* GiB of parameters, one ONNX file at most"):
        write_onnx(model_of(BASE_LIKE, {}), tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_writing_without_the_packages_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match=rf"{package} is not installed; pip install 'speechssl\[onnx\]'"):
        write_onnx(model_of(BASE_LIKE, {}), tmp_path / "model.onnx")


def test_running_without_onnxruntime_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match=r"onnxruntime is not installed; pip install 'speechssl\[onnx\]'"):
        run_onnx(tmp_path / "model.onnx", noise(1, 400)[0])


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("not a graph")
    with pytest.raises(CheckpointError, match=r"model\.onnx: cannot be read by onnxruntime"):
        run_onnx(tmp_path / "model.onnx", noise(1, 400)[0])


WRITE = """
import sys
from pathlib import Path
from speechssl.hub.onnx import write_onnx
from speechssl.hub.saved import SavedModel
write_onnx(SavedModel.read(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_writing_prints_nothing_and_warns_of_nothing(tmp_path: Path) -> None:
    model_of(BASE_LIKE, {}).write(tmp_path / "model")
    command = [sys.executable, "-W", "error", "-c", WRITE, tmp_path / "model", tmp_path / "model.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
