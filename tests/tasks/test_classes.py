"""Classes of utterances, from a column of the manifests to a head that tells them apart."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.__main__ import main
from speechssl.config import from_dict, to_dict
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance
from speechssl.errors import LabelError, ManifestError
from speechssl.hub.saved import SavedModel
from speechssl.model.encoder import EncoderConfig
from speechssl.stages.pretrain import PretrainConfig, pretrain
from tests.tasks.test_installed import install


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: EncoderConfig, monkeypatch) -> Callable[..., PretrainConfig]:
    """Give a function that reads a recipe over tones of two languages, a low one and a high one."""
    install(tmp_path / "site", {"classifier": "tests.tasks.classifier:TASK"})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    random, rows = np.random.default_rng(0), []
    for number in range(16):
        language = ("la", "hi")[number % 2]
        time = np.arange(6400) / 16_000
        tone = np.sin(2 * np.pi * (200 if language == "la" else 2500) * time) + 0.1 * random.standard_normal(6400)
        soundfile.write(tmp_path / f"{number}.wav", 0.3 * tone, 16_000)
        rows.append(
            Utterance(
                id=f"u{number}",
                path=f"{number}.wav",
                sample_rate=16_000,
                num_samples=6400,
                channels=1,
                language=language,
            )
        )
    write_manifest(tmp_path / "train.tsv", rows[:12])
    write_manifest(tmp_path / "dev.tsv", rows[12:])

    def read(name: str, **changes: object) -> PretrainConfig:
        values = {
            "out": str(tmp_path / name),
            "data": {"manifests": [str(tmp_path / "train.tsv")]},
            "dev": {"manifests": [str(tmp_path / "dev.tsv")]},
            "classes": "language",
            "encoder": to_dict(tiny_encoder),
            "objective": {"kind": "classifier"},
            "batch": {"seconds": 2.5, "max_crop_s": 0.4, "min_s": 0.1},
            "optim": {"lr": 5e-3, "warmup": 0.0},
            "train": {"steps": 30, "log_every": 10, "eval_every": 30, "log": {"tensorboard": False}},
        }
        return from_dict(values | changes, PretrainConfig, where="recipe")

    return read


def test_classes_are_learned_and_scored_on_held_out_utterances(recipe) -> None:
    config = recipe("run")
    model = SavedModel.read(pretrain(config))
    assert model.description.classes == ("hi", "la")
    scores = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    assert [row["dev_accuracy"] for row in scores if "dev_accuracy" in row] == [1.0]


def test_a_task_of_classes_is_planned(recipe, tmp_path, capsys) -> None:
    arguments = ["--hours", "1", "--days", "1", "--method", "classifier", "--size", "small"]
    assert main(["plan", *arguments]) == 0
    assert "M parameters, classifier" in capsys.readouterr().out


def test_what_is_missing_or_too_much_is_named(recipe) -> None:
    with pytest.raises(ManifestError, match=r"data: 12 utterances have no speaker, .*u0, u1, u2; fill the column"):
        pretrain(recipe("speaker", classes="speaker"))
    with pytest.raises(LabelError, match=r"objective\.kind=classifier needs two classes .*found 0; name the manifest"):
        pretrain(recipe("none", classes=None))
    contrastive = {"kind": "contrastive", "dim": 8, "quantizer": {"entries": 4, "dim": 8}}
    with pytest.raises(LabelError, match=r"objective\.kind=contrastive takes no classes; remove the key classes"):
        pretrain(recipe("other", objective=contrastive))


def test_a_class_that_is_never_trained_on_is_refused(recipe, tmp_path) -> None:
    config = recipe("run")
    rows = [dataclasses.replace(row, language="xx") for row in read_manifest(tmp_path / "dev.tsv").utterances]
    write_manifest(tmp_path / "dev.tsv", rows)
    with pytest.raises(ManifestError, match=r"dev: language 'xx' of u12 is of no .*\(hi, la\); take it"):
        pretrain(config)


def test_a_head_of_other_classes_is_not_taken_over(recipe, tmp_path) -> None:
    first = pretrain(recipe("run", train={"steps": 1, "log": {"tensorboard": False}}))
    for name in ("train", "dev"):
        rows = read_manifest(tmp_path / f"{name}.tsv").utterances
        renamed = [dataclasses.replace(row, language=f"x{row.language}") for row in rows]
        write_manifest(tmp_path / f"{name}.tsv", renamed)
    with pytest.raises(LabelError, match=r"its head tells hi, la apart, .* xhi, xla; set fresh_head"):
        pretrain(recipe("again", checkpoint=str(first), encoder=None))
    assert pretrain(
        recipe("fresh", checkpoint=str(first), encoder=None, fresh_head=True, train={"steps": 1, "log": {}})
    )
