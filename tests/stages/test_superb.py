"""All tasks of `superb` on small folders laid out as published: scores, shared features, resumption, bad input."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from speechssl.__main__ import main
from speechssl.audio.reading import AudioConfig
from speechssl.corpus.layouts.speech_commands import TEN_WORDS
from speechssl.data.dataset import read_utterance
from speechssl.data.manifest import read_manifest, read_table
from speechssl.errors import CheckpointError, ConfigError, CorpusError
from speechssl.stages import head_probe, superb
from speechssl.stages.head_folder import load_head
from speechssl.stages.probe_config import HeadTrainConfig
from speechssl.stages.superb import run_superb, superb_table
from speechssl.stages.superb_config import CorpusFolders, SuperbConfig
from speechssl.stages.superb_tasks import planned_tasks, tasks_left_out
from tests.layouts import trees

SPEAKERS = ("id10270", "id10271")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_wav) -> dict[str, Path]:
    """Write all corpora, with all pairs of the tested speakers as cleaned trials of VoxCeleb1."""
    base = tmp_path_factory.mktemp("corpora")
    trees.voxceleb1(base / "voxceleb1", write_wav)
    names = sorted(
        path.relative_to(base / "voxceleb1/test/wav").as_posix()
        for path in (base / "voxceleb1/test/wav").glob("*/*/*.wav")
    )
    lines = [f"{int(a[:7] == b[:7])} {a} {b}" for a, b in combinations(names, 2)]
    (base / "voxceleb1/meta/veri_test2.txt").write_text("\n".join(lines) + "\n")
    trees.speech_commands(base / "speech_commands", write_wav)
    trees.fluent_commands(base / "fluent_speech_commands", write_wav)
    trees.iemocap(base / "iemocap", write_wav)
    trees.librispeech_phones(base / "librispeech_phones", write_wav, each=6)
    trees.ml_superb(base / "ml_superb", write_wav)
    return {path.name: path for path in base.iterdir()}


@pytest.fixture(scope="module")
def config(folders, pretrained, tmp_path_factory) -> SuperbConfig:
    return SuperbConfig(
        model=str(pretrained),
        out=tmp_path_factory.mktemp("superb") / "run",
        data=CorpusFolders(**folders),
        baselines=("mfcc",),
        steps=15,
        seeds=(0, 1),
    )


@pytest.fixture(scope="module")
def finished(config) -> dict:
    run_superb(config)
    return json.loads((config.out / "superb.json").read_text())


def row_of(finished: dict, task: str, kind: str = "model") -> dict:
    return next(row for row in finished["rows"] if row["task"] == task and row["kind"] == kind)


def test_every_task_with_data_has_a_score_for_every_model(finished):
    assert Counter(row["task"] for row in finished["rows"]) == dict.fromkeys(
        ("sid", "asv", "ks", "ic", "er", "pr", "lid"), 2
    )
    for row in finished["rows"]:
        assert row["low"] <= row["mean"] + 1e-9, row
        assert sum(row["weights"]) == pytest.approx(1)
        assert row["beside_superb"].startswith("no: ")
    assert row_of(finished, "sid")["tested"] == 8
    assert row_of(finished, "ks")["tested"] == 12
    assert row_of(finished, "asv")["tested"] == 12
    assert [*finished["left_out"]] == ["asr", "sf, sd, qbe, se, ss, st"]


def test_features_of_a_corpus_are_extracted_once_for_all_its_tasks(config, finished):
    found = [path.name.rpartition("-")[0] for path in (config.out / "features").iterdir()]
    corpora = 6
    assert Counter(found) == {finished["rows"][0]["model"].replace("/", "-"): corpora, "mfcc": corpora}


def test_the_table_holds_the_scores(config, finished):
    table = (config.out / "superb.md").read_text()
    assert table == superb_table(finished)
    lines = table.splitlines()
    assert lines[0].startswith("| features | SID accuracy, % | ASV EER, % | KS accuracy, % | IC accuracy, %")
    assert f" {100 * row_of(finished, 'lid', 'baseline')['mean']:.1f}" in lines[3]
    assert "| KS | keyword spotting, Speech Commands | 12 | utterances | 15 | no: 12 of 3081 test utterances |" in lines


def test_emotions_are_the_mean_of_five_folds_without_a_shared_session(config, finished):
    tables, sessions = [], set()
    for fold in range(1, 6):
        rows = read_manifest(config.out / f"data/er-fold-{fold}.tsv").utterances
        sides = {split: {row.id[:5] for row in rows if row.split == split} for split in ("train", "dev", "test")}
        assert [len(sides[split]) for split in ("train", "dev", "test")] == [3, 1, 1]
        assert not sides["train"] & (sides["dev"] | sides["test"])
        assert not sides["dev"] & sides["test"]
        sessions |= sides["test"]
        for path in sorted(config.out.glob(f"er/fold-{fold}/heads/0-*/seed-*/predictions.tsv")):
            cells = read_table(path, ("id",)).values()
            tables.append(np.mean([row["answer"] == row["predicted"] for row in cells]))
    assert len(sessions) == 5
    assert row_of(finished, "er")["mean"] == pytest.approx(np.mean(tables))
    assert row_of(finished, "er")["low"] <= np.mean(tables) <= row_of(finished, "er")["high"]


def test_verification_compares_what_the_output_of_the_head_reads(config, finished, folders):
    manifest = read_manifest(config.out / "data/asv.tsv")
    assert {row.split for row in manifest.utterances if row.speaker in SPEAKERS} == {"trials"}
    rows = [row for row in manifest.utterances if row.split == "trials"]
    rates = []
    for seed in (0, 1):
        (folder,) = config.out.glob(f"asv/heads/0-*/seed-{seed}")
        loaded = load_head(folder)
        vectors = {}
        for row in rows:
            layers = torch.stack(
                [*next(iter(loaded.source.compute([read_utterance(manifest, row, AudioConfig())])))[1]]
            )
            is_valid = torch.ones(1, layers.shape[1], dtype=torch.bool)
            vectors[row.id] = loaded.network.embedding(layers[None], is_valid)[0].detach().double()
        scores, targets = [], []
        for line in (folders["voxceleb1"] / "meta/veri_test2.txt").read_text().splitlines():
            same, one, other = line.split()
            one, other = (vectors[name.removesuffix(".wav").replace("/", "-")] for name in (one, other))
            scores.append(float(torch.cosine_similarity(one, other, 0)))
            targets.append(int(same))
        false, true, _ = roc_curve(targets, scores, drop_intermediate=False)
        place = int(np.nanargmin(np.abs(false - (1 - true))))
        rates.append((false[place] + 1 - true[place]) / 2)
    assert row_of(finished, "asv")["mean"] == pytest.approx(np.mean(rates), abs=0.03)  # EER between two points


def test_keywords_are_tested_on_the_separate_set(config, finished):
    rows = read_manifest(config.out / "data/ks.tsv").utterances
    answers = read_table(config.out / "data/speech_commands.answers.tsv", ("id",))
    tested = Counter(answers[row.id]["twelve"] for row in rows if row.split == "test")
    assert tested == dict.fromkeys((*TEN_WORDS, "_unknown_", "_silence_"), 1)
    assert {row.split for row in rows} == {"train", "dev", "test", "unused"}


def test_a_finished_run_trains_nothing_and_says_the_same(config, finished, monkeypatch):
    monkeypatch.setattr(head_probe, "train_head", lambda *_, **__: pytest.fail("trained again"))
    run_superb(config)
    assert json.loads((config.out / "superb.json").read_text()) == finished


def test_a_run_takes_another_folder_later(folders, pretrained, tmp_path):
    one = SuperbConfig(
        model=str(pretrained),
        out=tmp_path,
        data=CorpusFolders(fluent_speech_commands=folders["fluent_speech_commands"]),
        steps=2,
        seeds=(0,),
    )
    run_superb(one)
    both = CorpusFolders(fluent_speech_commands=folders["fluent_speech_commands"], ml_superb=folders["ml_superb"])
    run_superb(SuperbConfig(**vars(one) | {"data": both}))
    assert [row["task"] for row in json.loads((tmp_path / "superb.json").read_text())["rows"]] == ["ic", "lid"]
    other = CorpusFolders(fluent_speech_commands=folders["ml_superb"])
    with pytest.raises(CheckpointError, match=r"lists .*fluent_speech_commands, --data names .*ml_superb"):
        run_superb(SuperbConfig(**vars(one) | {"data": other}))


def test_hyper_parameters_are_those_of_superb_unless_steps_are_given(folders, tmp_path):
    config = SuperbConfig(model="m", out=tmp_path, data=CorpusFolders(**folders))
    train = {task.name: task.probes[0].train for task in planned_tasks(config)}
    assert (train["sid"].steps, train["sid"].lr, train["sid"].batch) == (200_000, 1e-4, 32)
    assert (train["er"].steps, train["er"].lr) == (30_000, 1e-4)
    assert (train["pr"].steps, train["pr"].lr) == (100_000, 1e-2)
    fewer = SuperbConfig(model="m", out=tmp_path, data=config.data, steps=10, ks=HeadTrainConfig(lr=1e-3))
    train = {task.name: task.probes[0].train for task in planned_tasks(fewer)}
    assert (train["er"].steps, train["er"].eval_every, train["er"].lr, train["ks"].lr) == (10, 10, 1e-4, 1e-3)


def test_only_whole_data_and_their_settings_stand_beside_superb(folders, tmp_path, monkeypatch):
    config = SuperbConfig(model="m", out=tmp_path, data=CorpusFolders(**folders), tasks=("ks",))
    (task,) = planned_tasks(config)
    whole = type(task)(**vars(task) | {"published": task.tested})
    assert superb._beside_superb(config, whole).startswith("yes, with care: classes are balanced by weights")
    fewer = SuperbConfig(**vars(config) | {"steps": 100})
    (task,) = planned_tasks(fewer)
    assert superb._beside_superb(fewer, type(task)(**vars(task) | {"published": 12})) == (
        "no: other steps or learning rate"
    )
    chosen = SuperbConfig(**vars(config) | {"layers": (3,)})
    assert superb._beside_superb(chosen, whole) == "no: chosen layers"


def test_tasks_without_folders_are_left_out_with_the_reason(folders, tmp_path):
    config = SuperbConfig(model="m", out=tmp_path, data=CorpusFolders(iemocap=folders["iemocap"]))
    assert [task.name for task in planned_tasks(config)] == ["er"]
    assert tasks_left_out(config)["sid"] == "no folder of voxceleb1"
    with pytest.raises(CorpusError, match="ks: needs the folder of speech_commands; add speech_commands=FOLDER"):
        planned_tasks(SuperbConfig(model="m", out=tmp_path, data=config.data, tasks=("er", "ks")))
    with pytest.raises(CorpusError, match="--data names no folder, expected some of voxceleb1"):
        planned_tasks(SuperbConfig(model="m", out=tmp_path, data=CorpusFolders()))
    with pytest.raises(ConfigError, match="steps must be 1 or more"):
        SuperbConfig(model="m", out=tmp_path, data=config.data, steps=0)


def test_the_command_writes_table_and_pictures(folders, pretrained, tmp_path, capsys):
    data, out = f"fluent_speech_commands={folders['fluent_speech_commands']}", tmp_path / "out"
    assert main(["superb", str(pretrained), "--data", data, "-o", str(out), "steps=2", "seeds=[0]"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("| features | IC accuracy, % |")
    assert said.splitlines()[-3:] == [str(out / name) for name in ("superb.md", "superb.png", "layer_weights.png")]
    assert (out / "superb.png").stat().st_size > 1000


def test_an_empty_class_is_named_before_anything_is_trained(tmp_path, pretrained, write_wav):
    root = trees.speech_commands(tmp_path / "sc", write_wav)
    for path in (root / "speech_commands_test_set_v0.01/_silence_").iterdir():
        path.unlink()
    config = SuperbConfig(model=str(pretrained), out=tmp_path / "out", data=CorpusFolders(speech_commands=root))
    with pytest.raises(CorpusError, match="no test utterance of _silence_"):
        run_superb(config)


def test_voxceleb_without_a_list_has_the_task_of_the_other(tmp_path, write_wav):
    root = trees.voxceleb1(tmp_path / "vox", write_wav)
    for path in (root / "veri_test.txt", root / "meta/veri_test2.txt"):
        path.unlink()
    data = CorpusFolders(voxceleb1=root)
    assert [t.name for t in planned_tasks(SuperbConfig(model="m", out=tmp_path / "a", data=data, tasks=("sid",)))]
    with pytest.raises(CorpusError, match=r"has no veri_test.txt, which ASV needs"):
        planned_tasks(SuperbConfig(model="m", out=tmp_path / "a", data=data, tasks=("asv",)))
