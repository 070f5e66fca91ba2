"""The notebook runs from top to bottom, on less, and ends with a picture of units under a spectrogram."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

from tests.docs.small import ROOT

NOTEBOOK = json.loads((ROOT / "docs/notebook.ipynb").read_text("utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: Any, capsys: Any, fetched: Callable[[Path], None]
) -> None:
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    fetch, *cells = CODE
    assert fetch == "!speechssl corpus pocketsphinx --out pocketsphinx"
    fetched(Path("pocketsphinx"))
    names: dict[str, Any] = {}
    few = [cell.replace("steps=60", "steps=3") for cell in cells]
    assert few != cells, "the number of steps is made small here"
    for number, cell in enumerate(few, start=2):
        exec(compile(cell, f"cell {number}", "exec"), names)
    above, below = names["figure"].axes
    assert len(above.images) == 1
    assert len(below.patches) == len(names["units"].segments()) > 0
    assert "units, repeats merged" in capsys.readouterr().out


def test_what_the_notebook_shows_is_of_one_run() -> None:
    counts = [cell["execution_count"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(CODE) + 1))
    outputs = [output for cell in NOTEBOOK["cells"] for output in cell.get("outputs", ())]
    assert [output["data"].keys() for output in outputs if "data" in output] == [{"image/png", "text/plain"}]
    text = "".join(line for output in outputs for line in output.get("text", ()))
    assert "ten of clubs" in text
    assert [word for word in ("Error", "/home/", "/tmp/") if word in text] == []
