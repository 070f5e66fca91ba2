"""The public names: pinned, typed, documented, imported when they are used; and the training loop by itself."""

import ast
import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import speechssl
from speechssl.data.batching import Example, collate
from speechssl.tasks.model import LossSum
from speechssl.train.runlog import LogConfig

NAMES = (
    *("AudioConfig", "BatchConfig", "CTCConfig", "ClusterConfig", "ContrastiveConfig", "DataConfig"),
    *(
        "Decoding",
        "Encoder",
        "EncoderConfig",
        "Features",
        "FinetuneConfig",
        "KMeans",
        "LogProbs",
        "LossSum",
        "Manifest",
    ),
    *(
        "MaskedPredictionConfig",
        "OptimConfig",
        "PretrainConfig",
        "Pretrained",
        "Recogniser",
        "Run",
        "ScoreConfig",
        "RandomProjectionConfig",
        "TeacherConfig",
    ),
    *("SpeechEncoder", "SpeechSSLError", "StepContext", "Timed", "TrainConfig", "Transcript", "Units", "Utterance"),
    *("__version__", "cluster", "finetune", "fit", "load", "pretrain", "read_manifest", "score"),
    "write_manifest",
)


def test_public_names_are_these():
    assert dir(speechssl) == sorted(NAMES), "a name that is taken away breaks somebody's code: say so in CHANGELOG"
    assert sorted(speechssl.__all__) == sorted(NAMES)


def test_type_checkers_know_the_same_names():
    stub = ast.parse(Path(speechssl.__file__).with_name("__init__.pyi").read_text(encoding="utf-8"))
    imported = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in ast.walk(stub)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    declared = {node.target.id for node in ast.walk(stub) if isinstance(node, ast.AnnAssign)}
    assert sorted([*imported, *declared]) == sorted(NAMES)
    for name, where in imported.items():
        assert where == f"speechssl.{speechssl._NAMES[name]}.{name}"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"__version__"}))
def test_every_public_name_is_there_and_documented(name):
    documented = inspect.getdoc(getattr(speechssl, name))
    assert documented and documented.partition("\n")[0].endswith(".")


@pytest.mark.parametrize("name", ["Encoder", "Pretrained", "Recogniser", "KMeans", "Features", "Units", "LogProbs"])
def test_every_public_method_is_documented(name):
    public = [method for method in vars(getattr(speechssl, name)).items() if not method[0].startswith("_")]
    undocumented = [key for key, value in public if callable(value) and not inspect.getdoc(value)]
    assert not undocumented


def test_no_module_hides_a_public_name():
    """Python sets a package's attribute when a module of it is imported: `speechssl.score` would turn into one."""
    here = Path(speechssl.__file__).parent
    assert not [name for name in NAMES if (here / name).is_dir() or (here / f"{name}.py").exists()]


def test_texts_are_scored():
    found = speechssl.score(["one two", "three"], ["one too", "three"])
    assert (found.wer, found.total.words.errors.substitutions) == (pytest.approx(1 / 3), 1)


def test_what_is_no_text_is_not_scored():
    with pytest.raises(ValueError, match=r"hypotheses: expected texts, found NoneType at 0; give its \.text"):
        speechssl.score(["a"], [None])


def test_a_name_that_lacks_its_package_says_what_to_install():
    code = (
        "import sys; sys.modules['rapidfuzz'] = None; import speechssl\n"
        "try: speechssl.score\n"
        "except speechssl.SpeechSSLError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = "speechssl.score needs rapidfuzz, which is not installed: pip install 'speechssl[score]'"
    assert done.stdout.strip() == expected


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'speechssl' has no attribute 'extractor'"):
        speechssl.extractor  # noqa: B018
    assert not hasattr(speechssl, "extractor")


def test_importing_costs_nothing_until_a_name_is_used():
    code = (
        "import sys, speechssl; dir(speechssl); speechssl.__version__\n"
        "assert not {'torch', 'numpy', 'soundfile'} & sys.modules.keys()\n"
        "speechssl.read_manifest\n"
        "assert 'torch' not in sys.modules\n"
        "from speechssl import load\n"
        "assert 'torch' in sys.modules\n"
        "import speechssl.train.loop, speechssl.units.kmeans\n"
        "assert callable(speechssl.fit) and callable(speechssl.load)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Mean(nn.Module):
    """Somebody's own module: learns the mean of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.ones(()))

    def forward(self, batch: object, context: speechssl.StepContext) -> LossSum:
        error: Tensor = (batch.waveforms - self.mean).square().sum()
        return LossSum(value=error, count=torch.tensor(batch.waveforms.numel()), parts={})


@dataclass
class Noise:
    """Batches of noise around 3, from any position."""

    def __call__(self, epoch: int, position: int):
        while True:
            position += 1
            noise = 3 + 0.1 * torch.randn(100, generator=torch.Generator().manual_seed(position))
            yield epoch, position, collate([Example(id=str(position), waveform=noise)])


def test_a_module_of_ones_own_is_trained_and_goes_on(tmp_path):
    optim = speechssl.OptimConfig(lr=0.2, warmup=0.0)
    config = speechssl.TrainConfig(steps=60, log=LogConfig(tensorboard=False))
    halfway = speechssl.TrainConfig(steps=30, save_every=30, log=config.log)
    at_once, in_two = Mean(), Mean()
    speechssl.fit(speechssl.Run(at_once, out=str(tmp_path / "once"), optim=optim, config=config), Noise())
    assert at_once.mean.item() == pytest.approx(3, abs=0.3)
    speechssl.fit(speechssl.Run(Mean(), out=tmp_path / "two", optim=optim, config=halfway), Noise())
    last = speechssl.fit(speechssl.Run(in_two, out=tmp_path / "two", optim=optim, config=config), Noise())
    assert last.name == "step_00000060"
    assert in_two.mean.item() == pytest.approx(3, abs=0.3)
    with pytest.raises(TypeError, match=r"expected a Run, found Mean: call fit\(Run\(model, out="):
        speechssl.fit(Mean(), Noise())
