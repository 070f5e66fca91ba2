"""Put the rows of all parts together: one JSON file and one Markdown table, every cell that was not measured named so.

report.py OUT                 OUT/gpu.json and OUT/table.md, from OUT/parts
report.py OUT --readme        and the table into README.md beside this file, gpu.json beside it as measured.json
report.py --empty             print the table with nothing measured
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from card import facts
from plan import AGREEMENT, CLUSTERING, OURS, RECOGNISING, STEPPING, TRACING, Rows

__all__ = ["END", "FRONT", "MEASURED", "NOT_YET", "README", "START", "head", "summary", "tables"]

FOLDER = Path(__file__).resolve().parent
README, MEASURED = FOLDER / "README.md", FOLDER / "measured.json"
FRONT = FOLDER.parents[1] / "docs/how_to/long_runs.md"
START, END = "<!-- measured: written by report.py -->", "<!-- end -->"
NOT_YET = "not measured yet"
Found = Mapping[str, Sequence[Mapping[str, Any]]]  # rows of each part


@dataclass(frozen=True)
class Table:
    """What a part measures: its rows, in order, and the columns that are shown."""

    title: str
    part: str
    expected: Rows
    columns: Mapping[str, str]  # heading by name of the value
    ratio: str = ""  # value of which ours is compared with another's, shown as the last column

    def lines(self, rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
        """Lay the rows out; those that were found and not expected come last."""
        heads = ["work", "who", *self.columns.values(), *(["times as fast as it"] if self.ratio else [])]
        yield f"### {self.title}\n"
        yield f"| {' | '.join(heads)} |"
        yield "|" + "---|" * len(heads)
        found = {(row["work"], row["who"]): row["values"] for row in rows}
        for work, who in dict.fromkeys([*self.expected, *found]):
            values = found.get((work, who))
            yield f"| {' | '.join([work, who, *self._cells(values, found.get((work, 'speechssl')))])} |"
        yield ""

    def _cells(self, values: Mapping[str, Any] | None, ours: Mapping[str, Any] | None) -> list[str]:
        width = len(self.columns) + bool(self.ratio)
        if values is None:
            return [NOT_YET] * width
        if "failed" in values:
            return [values["failed"].replace("|", "/"), *[""] * (width - 1)]
        cells = [_shown(values.get(name)) if name else _rest(values, self.columns) for name in self.columns]
        if self.ratio:
            is_peer = values is not ours and ours is not None and self.ratio in values and self.ratio in ours
            cells.append(f"{ours[self.ratio] / values[self.ratio]:.2f}" if is_peer else "")
        return cells


def tables(rows: Found) -> str:
    """Lay out all tables in Markdown, with the rows that there are."""
    laid_out = (
        Table("Right", "agreement", AGREEMENT, {"holds": "holds", "": "found"}),
        Table(
            "k-means",
            "clustering",
            CLUSTERING,
            {
                "points_per_s": "points/s",
                "iteration_s": "s an iteration",
                "assignment_s": "s of it assigning",
                "of_products": "of the products' bound",
                "of_reading": "of the reading's bound",
                "inertia": "inertia over ours",
            },
            ratio="points_per_s",
        ),
        Table(
            "Pretraining",
            "stepping",
            STEPPING,
            {
                "hours_an_hour": "h of audio an hour",
                "of_products": "of the measured product rate",
                "of_peak": "of 989 TFLOP/s",
                "batch_s": "s of audio a batch",
                "step_s": "s a step",
                "peak_gib": "GiB",
            },
            ratio="hours_an_hour",
        ),
        Table(
            "Recognition",
            "recognising",
            RECOGNISING,
            {"times_real_time": "times real time", "": "more"},
            ratio="times_real_time",
        ),
        Table("Where a step goes", "tracing", TRACING, {"seconds": "s", "share": "of the device's time", "": "more"}),
    )
    return "\n".join(line for table in laid_out for line in table.lines(rows.get(table.part, ())))


def summary(rows: Found) -> str:
    """Lay out the few figures that the front page shows."""
    asked = (
        (
            "BASE pretraining, wav2vec 2.0, bfloat16",
            "stepping",
            STEPPING[0][0],
            "hours_an_hour",
            "hours of audio an hour",
        ),
        (
            "k-means, 2,000,000 x 768, K=500, bfloat16",
            "clustering",
            CLUSTERING[5][0],
            "points_per_s",
            "points a second",
        ),
        ("transcription, BASE, bfloat16", "recognising", RECOGNISING[2][0], "times_real_time", "times real time"),
    )
    lines = ["| on one GPU | speechssl |", "|---|---|"]
    for title, part, work, name, unit in asked:
        found = [row["values"] for row in rows.get(part, ()) if row["work"] == work and row["who"].startswith(OURS)]
        values = [each[name] for each in found if name in each]
        lines.append(f"| {title} | {f'{_shown(max(values))} {unit}' if values else NOT_YET} |")
    return "\n".join(lines)


def written(path: Path, text: str) -> None:
    """Put a text between the marks of a page."""
    before, _, rest = path.read_text("utf-8").partition(START)
    path.write_text(f"{before}{START}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def head(about: Mapping[str, Any]) -> str:
    """Say in a line what measured, on which card and when."""
    versions = ", ".join(f"{name} {each}" for name, each in about["versions"].items())
    kind = "**A rehearsal without a GPU: the figures mean nothing.** " if about["is_rehearsal"] else ""
    return f"{kind}{about['date']}, {about['card']}, commit {about['commit']}, seed {about['seed']}; {versions}.\n"


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "**no**"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case _:
            return str(value)


def _rest(values: Mapping[str, Any], named: Mapping[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in values.items() if name not in named)


def main() -> None:
    """Read the parts, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--about", action="store_true", help="write OUT/about.json, what describes the device, alone")
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.empty:
        print(tables({}))
        return
    if options.out is None:
        parser.error("name the folder that run.sh wrote")
    if options.about:
        described = facts(torch.device(options.device), options.seed)
        (options.out / "about.json").write_text(json.dumps(described) + "\n", encoding="utf-8")
        return
    report = options.out / "gpu.json"
    if (options.out / "parts").is_dir():
        parts = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(options.out.glob("parts/*.json"))}
        about = json.loads((options.out / "about.json").read_text("utf-8"))
        content = json.dumps({"about": about, "parts": parts}, indent=1, ensure_ascii=False) + "\n"
        report.write_text(content, encoding="utf-8")
        (options.out / "table.md").write_text(f"{head(about)}\n{tables(parts)}", encoding="utf-8")
    content = report.read_text("utf-8")
    about, parts = (json.loads(content)[key] for key in ("about", "parts"))
    text = f"{head(about)}\n{tables(parts)}"
    print(text)
    if options.readme:
        if about["is_rehearsal"]:
            sys.exit("a rehearsal: README.md is left as it is")
        written(README, text)
        written(FRONT, f"{summary(parts)}\n")
        MEASURED.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
