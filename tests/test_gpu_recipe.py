"""recipes/gpu, rehearsed as on a machine without a GPU, and what its page says where nothing was measured."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes" / "gpu"
PARTS = ("agreement", "clustering", "stepping", "recognising", "tracing")


def run(out: Path, folder: Path = FOLDER, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OUT": str(out), "PYTHON": sys.executable, "DEVICE": "cpu", "OMP_NUM_THREADS": "2"}
    environment |= {"PYTHONPYCACHEPREFIX": str(out.parent / "compiled"), **settings}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the parts import the same modules, one after the other
    return subprocess.run(
        ["bash", str(folder / "run.sh")], env=environment, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory) -> dict[str, dict[tuple[str, str], dict]]:
    """Give the rows of all parts, by work and who."""
    out = tmp_path_factory.mktemp("gpu")
    done = run(out)
    log = out / "log.txt"
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + (log.read_text() if log.exists() else "")
    report = json.loads((out / "gpu.json").read_text())
    assert report["about"]["is_rehearsal"] is True
    table = (out / "table.md").read_text()
    assert table.startswith("**A rehearsal without a GPU: the figures mean nothing.**")
    assert sorted(path.name for path in out.iterdir()) == ["gpu.json", "log.txt", "table.md"]  # all that has to travel
    return {part: {(row["work"], row["who"]): row["values"] for row in rows} for part, rows in report["parts"].items()}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(ROOT / "recipes" / "benchmarks")
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def test_every_check_of_the_rehearsal_holds(rehearsal):
    rows = rehearsal["agreement"]
    assert {key: values for key, values in rows.items() if values.get("holds") is not True} == {}
    assert len(rows) == 12 + 4 + 6 + 6 + 1


def test_every_part_finds_what_it_is_to_find(rehearsal):
    assert sorted(rehearsal) == sorted(PARTS)
    failed = {
        (part, *key): values["failed"]
        for part, rows in rehearsal.items()
        for key, values in rows.items()
        if "failed" in values
    }
    assert set(failed.values()) <= {"needs a GPU"}, failed
    ours = [values for part in PARTS[1:] for (_, who), values in rehearsal[part].items() if who.startswith("speechssl")]
    assert len(ours) > 20
    steps = rehearsal["stepping"]
    assert {who for _, who in steps} == {
        "speechssl",
        "transformers",
        "speechssl, packed",
        "speechssl, compiled",
        "speechssl, packed, compiled",
    }
    assert all(values["hours_an_hour"] > 0 for values in steps.values())
    inertia = [row["inertia"] for (_, who), row in rehearsal["clustering"].items() if row.get("inertia")]
    assert inertia == pytest.approx([1.0] * len(inertia), rel=2e-3)


HANGS = """
import sys, time
from pathlib import Path
rows = '[{"work": "BASE ctc", "who": "here", "values": {"holds": true}}]'
Path(sys.argv[sys.argv.index("--out") + 1]).write_text(rows)
time.sleep(600)
"""


def test_a_part_that_hangs_or_fails_leaves_its_rows_and_the_others_go_on(tmp_path):
    there = tmp_path / "recipes"
    (there / "gpu").mkdir(parents=True)
    for name in ("run.sh", "report.py", "card.py", "plan.py"):
        shutil.copy(FOLDER / name, there / "gpu" / name)
    shutil.copytree(ROOT / "recipes" / "benchmarks", there / "benchmarks")
    for part, source in zip(PARTS, ("import missing_package", HANGS, "", "", ""), strict=True):
        (there / "gpu" / f"{part}.py").write_text(source)
    out = tmp_path / "out"
    done = run(out, there / "gpu", PARTS="agreement tracing clustering stepping", SECONDS_IN_ALL="36")
    assert done.returncode == 1
    said = re.findall(r"gpu: (\w+ (?:done|failed|cut short))|no time left for (\w+)", done.stdout)
    assert said[0] == ("agreement failed", "")
    assert ("tracing done", "") in said
    assert ("clustering cut short", "") in said
    assert said[-1] == ("", "stepping")
    assert "gpu: not done: agreement clustering" in done.stderr
    assert "No module named 'missing_package'" in (out / "log.txt").read_text()
    report = json.loads((out / "gpu.json").read_text())
    assert report["parts"] == {"clustering": [{"work": "BASE ctc", "who": "here", "values": {"holds": True}}]}
    assert "not measured yet" in (out / "table.md").read_text()


def test_the_page_holds_what_was_measured_and_nothing_else(script):
    report = script("report")
    shown, front = (
        re.search(f"{report.START}\n\n(.*?)\n{report.END}", page.read_text("utf-8"), re.DOTALL)[1]
        for page in (report.README, report.FRONT)
    )
    if not report.MEASURED.exists():
        assert shown == report.tables({})
        assert front == f"{report.summary({})}\n"
        assert front.count(report.NOT_YET) == 3
        assert set(re.findall(r"\| ([^|]*\d[^|]*) \|$", shown, re.MULTILINE)) == set()
        return
    measured = json.loads(report.MEASURED.read_text("utf-8"))
    assert measured["about"]["is_rehearsal"] is False
    assert shown == f"{report.head(measured['about'])}\n{report.tables(measured['parts'])}"
    assert front == f"{report.summary(measured['parts'])}\n"


def test_a_rehearsal_never_reaches_the_page(script, tmp_path, monkeypatch, capsys):
    report = script("report")
    (tmp_path / "parts").mkdir()
    about = {"date": "today", "card": "none", "commit": "abc", "seed": 0, "versions": {}, "is_rehearsal": True}
    (tmp_path / "about.json").write_text(json.dumps(about))
    page = tmp_path / "README.md"
    page.write_text(f"{report.START}\n\nold\n{report.END}\n")
    monkeypatch.setattr(report, "README", page)
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "--readme", "--device", "cpu"])
    with pytest.raises(SystemExit, match="rehearsal"):
        report.main()
    assert "old" in page.read_text()
    assert report.NOT_YET in capsys.readouterr().out


def test_what_was_measured_reaches_both_pages(script, tmp_path, monkeypatch):
    report = script("report")
    about = {"date": "2026-12-01", "card": "a card", "commit": "abc", "seed": 0, "versions": {"torch": "2.11"}}
    rows = [{"work": "BASE wav2vec2", "who": "speechssl, packed", "values": {"hours_an_hour": 4321.0}}]
    content = json.dumps({"about": about | {"is_rehearsal": False}, "parts": {"stepping": rows}})
    (tmp_path / "gpu.json").write_text(content)
    for name in ("README", "FRONT", "MEASURED"):
        monkeypatch.setattr(report, name, tmp_path / name)
        (tmp_path / name).write_text(f"before\n{report.START}\n\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "--readme", "--device", "cpu"])
    report.main()
    page, front = ((tmp_path / name).read_text() for name in ("README", "FRONT"))
    for text in (page, front):
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "\nold\n" not in text
    assert "| BASE pretraining, wav2vec 2.0, bfloat16 | 4,321 hours of audio an hour |" in front
    assert "2026-12-01, a card, commit abc, seed 0; torch 2.11." in page
    assert (tmp_path / "MEASURED").read_text() == content


def test_ratios_compare_ours_with_each_other(script):
    report = script("report")
    work = script("plan").STEPPING[0][0]
    rows = [
        {"work": work, "who": who, "values": {"hours_an_hour": speed}}
        for who, speed in (("speechssl", 6000.0), ("transformers", 2000.0))
    ]
    lines = report.tables({"stepping": rows}).splitlines()
    (peer,) = (line for line in lines if line.startswith(f"| {work} | transformers"))
    assert peer.endswith("| 3.00 |")
    assert sum(report.NOT_YET in line for line in lines) > 50
