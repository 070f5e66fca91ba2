"""One run a folder, one process at a time."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechssl.data.batching import BatchConfig
from speechssl.errors import CheckpointError, ConfigError
from speechssl.parallel import Ranks
from speechssl.stages.cluster import ClusterConfig
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.text.policy import TextConfig
from speechssl.train.checkpoint import read_config
from speechssl.train.run_folder import claim_run_folder, hold_run_folder, holds_work, locked

CONFIG = PretrainConfig(out=Path("run"), data=DataConfig(manifests=(Path("a.tsv"),)))
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
HOLDER = """
import os, sys, time
from pathlib import Path
from speechssl.train.run_folder import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # as a process that reads audio, which may outlive a killed run
        time.sleep(3)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Yield a process that holds the lock of a run folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_number_of_the_first_until_that_is_killed(tmp_path, holder):
    message = rf"run: process {holder.pid} on .* works in this folder; wait until it ends"
    with pytest.raises(CheckpointError, match=message), locked(tmp_path / "run"):
        pytest.fail("two processes in one folder")
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run"):  # though a child of it still lives
        pass


def test_a_folder_is_free_again_after_its_block(tmp_path):
    config = PretrainConfig(out=tmp_path / "run", data=DataConfig(manifests=(Path("a.tsv"),)))
    for _ in range(2):
        with hold_run_folder(config.out, config, ALONE):
            assert (config.out / "config.json").exists()


def test_a_run_begun_with_a_word_that_is_no_language_goes_on_without_and_begins_no_more(tmp_path):
    data = DataConfig(manifests=(Path("a.tsv"),))
    config = FinetuneConfig(out=tmp_path / "run", checkpoint=tmp_path, data=data)
    with hold_run_folder(config.out, config, ALONE):
        path = config.out / "config.json"
        path.write_text(path.read_text(encoding="utf-8").replace('"language": null', '"language": "English"'))
    with hold_run_folder(config.out, config, ALONE):
        pass
    with pytest.raises(ConfigError, match=r"text\.language: 'English' .*; a run started with it continues with null"):
        TextConfig(language="English")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    message = r"file/run: cannot be written \(Not a directory\); name another out"
    with pytest.raises(CheckpointError, match=message), locked(tmp_path / "file" / "run"):
        pytest.fail("locked what cannot be written")


def test_a_new_run_folder_takes_the_configuration(tmp_path):
    claim_run_folder(tmp_path / "run", CONFIG)
    assert read_config(tmp_path / "run")["data"]["manifests"] == ["a.tsv"]


def test_the_same_configuration_finds_its_folder_again(tmp_path):
    claim_run_folder(tmp_path / "run", CONFIG)
    before = (tmp_path / "run/config.json").read_bytes()
    claim_run_folder(tmp_path / "run", CONFIG)
    assert (tmp_path / "run/config.json").read_bytes() == before


def test_a_run_folder_that_was_moved_is_still_the_same_run(tmp_path):
    claim_run_folder(tmp_path / "run", CONFIG)
    (tmp_path / "run").rename(tmp_path / "moved")
    claim_run_folder(tmp_path / "moved", dataclasses.replace(CONFIG, out=tmp_path / "moved"))


def test_what_changes_no_number_may_change_between_two_calls(tmp_path):
    claim_run_folder(tmp_path / "run", CONFIG)
    train = dataclasses.replace(CONFIG.train, workers=3, keep=7, save_every=5, log_every=9, accumulate=2)
    claim_run_folder(tmp_path / "run", dataclasses.replace(CONFIG, train=train))


def step_reported(out: Path) -> None:
    """Write the files of a run at its first report."""
    (out / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')


def test_another_configuration_is_refused_with_the_keys_that_differ(tmp_path):
    claim_run_folder(tmp_path / "run", CONFIG)
    step_reported(tmp_path / "run")
    other = dataclasses.replace(CONFIG, seed=3, batch=BatchConfig(seconds=50.0))
    message = (
        r"run: holds a run of another configuration \(batch\.seconds was 87\.5, is 50\.0, seed was 0, is 3\); name"
    )
    with pytest.raises(CheckpointError, match=message):
        claim_run_folder(tmp_path / "run", other)


def test_a_run_from_before_a_default_changed_is_told_how_to_go_on(tmp_path):
    before = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, max_grad_norm=None))
    claim_run_folder(tmp_path / "run", before)
    step_reported(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"go on as it began, with optim\.max_grad_norm=null$"):
        claim_run_folder(tmp_path / "run", CONFIG)


@pytest.mark.parametrize(("seed", "is_same"), [(0, True), (3, False)])
def test_a_run_from_before_there_was_a_key_had_its_default(tmp_path, seed, is_same):
    claim_run_folder(tmp_path / "run", dataclasses.replace(CONFIG, seed=seed))
    step_reported(tmp_path / "run")
    path = tmp_path / "run/config.json"
    before = json.loads(path.read_text())
    del before["seed"]
    path.write_text(json.dumps(before))
    if is_same:
        claim_run_folder(tmp_path / "run", dataclasses.replace(CONFIG, seed=seed))
        return
    with pytest.raises(CheckpointError, match=r"seed was 0, is 3"):
        claim_run_folder(tmp_path / "run", dataclasses.replace(CONFIG, seed=seed))


def test_a_key_that_one_of_two_configurations_lacks_is_a_difference(tmp_path):
    claim_run_folder(tmp_path / "run", CONFIG)
    step_reported(tmp_path / "run")
    path = tmp_path / "run/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1}))
    with pytest.raises(CheckpointError, match="extra was 1, is None"):
        claim_run_folder(tmp_path / "run", CONFIG)


OTHER = dataclasses.replace(CONFIG, seed=3)


def test_a_run_that_computed_nothing_gives_way_and_says_so(tmp_path, capfd):
    out = tmp_path / "run"
    claim_run_folder(out, CONFIG)
    for name in ("model.json", "log.jsonl", "alarms.jsonl", "recipe.yaml", "slurm-7.out", "tensorboard/events.1"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("" if name.endswith("jsonl") else "something")
    (out / ".step_00000001.tmp").mkdir()
    (out / "parts").mkdir()
    claim_run_folder(out, OTHER)
    assert read_config(out)["seed"] == 3
    assert capfd.readouterr().err == f"{out}: the run there computed nothing, so this one takes its place " + (
        "(seed was 0, is 3)\n"
    )
    assert not (out / "model.json").exists()  # its data and labels may have changed since
    assert (out / "recipe.yaml").exists()


@pytest.mark.parametrize(
    "name",
    [
        "step_00000003/model.safetensors",
        "damaged_step_00000003/state.json",
        "log.jsonl",
        "log.superseded.jsonl",
        "dev.tsv",
        "labels.tsv",
        "parts/000-00000.tsv",
        "kmeans.safetensors",
        "features/000/0.bin",
        "source-0.json",
        "what-we-do-not-know",
    ],
)
def test_what_was_computed_keeps_its_folder(tmp_path, name):
    out = tmp_path / "run"
    claim_run_folder(out, CONFIG)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("x")
    with pytest.raises(CheckpointError, match=r"another configuration .*name another out"):
        claim_run_folder(out, OTHER)
    assert read_config(out)["seed"] == 0
    assert (out / name).read_text() == "x"


def test_a_copy_of_given_centroids_is_nothing_computed(tmp_path):
    config = ClusterConfig(out=tmp_path / "run", data=CONFIG.data, kmeans=Path("a.safetensors"))
    claim_run_folder(config.out, config)
    (config.out / "kmeans.safetensors").write_text("a")
    claim_run_folder(config.out, dataclasses.replace(config, kmeans=None))
    assert not (config.out / "kmeans.safetensors").exists()
    (config.out / "kmeans.safetensors").write_text("fitted")
    with pytest.raises(CheckpointError, match="another configuration"):
        claim_run_folder(config.out, config)


def test_a_folder_that_could_not_be_locked_is_not_taken(tmp_path):
    claim_run_folder(tmp_path / "run", CONFIG)
    with pytest.raises(CheckpointError, match="another configuration"):
        claim_run_folder(tmp_path / "run", OTHER, may_replace=False)


def test_a_configuration_that_is_not_ours_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(CheckpointError, match="another configuration"):
        claim_run_folder(tmp_path, CONFIG)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "hubert"}'


def test_a_run_in_its_first_seconds_is_not_displaced(tmp_path, holder):
    (tmp_path / "run/config.json").write_text(json.dumps({"out": "run", "seed": 0}))
    with (
        pytest.raises(CheckpointError, match=rf"process {holder.pid} on .* works in this folder"),
        hold_run_folder(tmp_path / "run", OTHER, ALONE),
    ):
        pytest.fail("took the folder of a run that goes on")
    assert read_config(tmp_path / "run")["seed"] == 0
    assert not holds_work(tmp_path / "run")
