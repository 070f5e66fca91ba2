"""Commands as job arrays and on a cluster: what they write is what one run on one machine writes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.__main__ import main
from speechssl.data.manifest import read_manifest, write_manifest


@pytest.fixture
def speech(tmp_path, write_wav) -> Path:
    """Write short recordings, one of them broken, one a copy, and one of 30 s with pauses."""
    folder = tmp_path / "speech"
    for number in range(6):
        write_wav(folder / f"{number}.wav", 16_000 + number, seed=10 * (number % 5))
    write_wav(folder / "copy.wav", 16_001, seed=10)
    (folder / "broken.wav").write_bytes(b"RIFF, or so it says")
    random = np.random.default_rng(0)
    loud = np.repeat([0.3, 0.0] * 6, 40_000) * random.normal(0, 0.3, 480_000)
    soundfile.write(folder / "long.wav", loud.astype(np.float32), 16_000)
    return folder


def commands(speech: Path, out: Path) -> dict[str, list[str]]:
    listed = str(speech.parent / "listed.tsv")
    return {
        "build": ["build", str(speech), "-o", str(out / "m.tsv"), "--skip-bad"],
        "check": ["check", listed, "--root", str(speech), "--table", str(out / "t.tsv"), "--fix", str(out / "f.tsv")],
        "segment": ["segment", listed, "--root", str(speech), "-o", str(out / "s.tsv"), "--vad", "energy"],
    }


def run(arguments: list[str], capfd) -> tuple[int, str, str]:
    status = main(["manifest", *arguments])
    said = capfd.readouterr()
    return status, said.out, "\n".join(line for line in said.err.splitlines() if "skipped" in line)


def written(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."
    }


@pytest.fixture
def listed(speech, capfd) -> Path:
    """List what of the recordings has a header; and one more, which is gone when it is decoded."""
    assert main(["manifest", "build", str(speech), "-o", str(speech.parent / "listed.tsv"), "--skip-bad"]) == 0
    capfd.readouterr()
    return speech.parent / "listed.tsv"


@pytest.mark.parametrize("what", ["build", "check", "segment"])
def test_an_array_of_jobs_writes_what_one_job_writes(speech, listed, tmp_path, capfd, what):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    if what == "check":
        (speech / "3.wav").unlink()
    whole = run(commands(speech, tmp_path / "whole")[what], capfd)
    command = commands(speech, tmp_path / "parts")[what]
    before = {path for path in tmp_path.rglob("*") if path.name[0] != "."}
    for number in (2, 1, 3):
        assert main(["manifest", *command, "--shard", f"{number}/3"]) == 0
        assert f"{number}-of-3.jsonl: " in capfd.readouterr().err
    assert written(tmp_path / "parts").keys() <= {f"{number}-of-3.jsonl" for number in (1, 2, 3)}
    merged = run([*command, "--shard", "merge"], capfd)
    assert merged == (whole[0], whole[1].replace("/whole/", "/parts/"), whole[2])
    assert written(tmp_path / "parts") == written(tmp_path / "whole")
    left = {path for path in tmp_path.rglob("*") if path.name[0] != "."} - before
    assert {path.name for path in left} == written(tmp_path / "whole").keys()


def test_a_missing_job_is_named(speech, tmp_path, capfd):
    command = ["manifest", *commands(speech, tmp_path)["build"]]
    assert main([*command, "--shard", "1/2"]) == 0
    assert main([*command, "--shard", "merge"]) == 2
    assert "m.tsv.shards: missing 2/2; run those jobs again" in capfd.readouterr().err
    assert not (tmp_path / "m.tsv").exists()


def test_jobs_with_other_settings_are_refused(speech, listed, tmp_path, capfd):
    command = ["manifest", *commands(speech, tmp_path)["segment"]]
    assert main([*command, "--shard", "1/1"]) == 0
    assert main([*command, "--shard", "merge", "--max-s", "10"]) == 2
    assert "1 shards were made from other files or settings: 1-of-1.jsonl" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_writes_what_one_machine_writes(speech, listed, tmp_path, capfd):
    ray = pytest.importorskip("ray", reason="the extra `ray`")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="error")
    try:
        for what in ("build", "check", "segment"):
            for folder, engine in ((tmp_path / f"local-{what}", "local"), (tmp_path / f"ray-{what}", "ray")):
                folder.mkdir()
                run([*commands(speech, folder)[what], "--engine", engine], capfd)
            assert written(tmp_path / f"local-{what}") == written(tmp_path / f"ray-{what}") != {}
    finally:
        ray.shutdown()


def test_the_fixture_has_something_to_find(speech, listed, tmp_path, capfd):
    assert "long" in {row.id for row in read_manifest(listed).utterances}
    _, said, _ = run(commands(speech, tmp_path)["check"], capfd)
    assert "duplicate" in said
    write_manifest(tmp_path / "x.tsv", read_manifest(listed).utterances)
    run(commands(speech, tmp_path)["segment"], capfd)
    assert len(read_manifest(tmp_path / "s.tsv").utterances) > len(read_manifest(listed).utterances)
