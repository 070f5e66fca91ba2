"""Tables of runs: one row per run, and the settings in which they differ."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from speechssl.report.read_runs import Run, differences

__all__ = ["Cell", "console_tables", "print_runs", "summarize"]

_LONGEST = 60  # characters shown of a setting on the console

_FIGURES = {  # metrics for each column: the first one that a run has; for several label streams that of the first
    "loss": ("loss",),
    "dev loss": ("dev_loss",),
    "accuracy": ("masked_accuracy", "masked_accuracy_0", "accuracy"),
    "dev accuracy": ("dev_masked_accuracy", "dev_masked_accuracy_0", "dev_accuracy"),
    "perplexity": ("code_perplexity",),
    "rank of features": ("feature_rank",),
}
_BEST = {"best dev CER": "dev_cer", "best dev WER": "dev_wer"}  # metrics whose best value is shown


@dataclass(frozen=True)
class Cell:
    """Text of a table cell, and its sort key; None sorts last."""

    text: str
    value: float | str | None


def summarize(runs: Sequence[Run]) -> tuple[list[str], list[list[Cell]]]:
    """Return the columns that are not empty for all runs, and the cells of each run."""
    rows = [_row(run) for run in runs]
    columns = [name for name in rows[0] if any(row[name].text for row in rows)]
    return columns, [[row[name] for name in columns] for row in rows]


def console_tables(runs: Sequence[Run], console: Console) -> list[Table]:
    """Return the table of the runs, and that of the configuration keys in which they differ, if any.

    Each run has a row, or a column if the console is too narrow for that.
    """
    columns, rows = summarize(runs)
    lines = [[_styled(column, cell) for column, cell in zip(columns, cells, strict=True)] for cells in rows]
    table = _table(columns, lines, right=range(2, len(columns)))
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum > console.width:
        head, *rest = zip(columns, *lines, strict=True)
        table = _table([*map(str, head)], rest, right=())
    different = differences(runs)
    if not different:
        return [table]
    shown = [
        [key, *(v if len(v) <= _LONGEST else f"...{v[3 - _LONGEST :]}" for v in row)] for key, row in different.items()
    ]
    settings = _table(["key", *(run.name for run in runs)], shown, right=())
    settings.title, settings.title_justify = "Settings that differ", "left"
    return [table, settings]


def print_runs(runs: Sequence[Run]) -> None:
    """Print both tables to standard output: as wide as the terminal, or in full width without a terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(80, 30 * (2 + len(runs)), 220))
    for table in console_tables(runs, console):
        console.print(table)


def _row(run: Run) -> dict[str, Cell]:
    hours, wall_s = run.last("hours_seen"), run.last("wall_s")
    row = {
        "run": Cell(run.name, run.name),
        "method": Cell(run.method, run.method),
        "steps": Cell(f"{run.step}/{run.steps_planned}", run.step),
    }
    for column, names in _FIGURES.items():
        row[column] = _number(next((value for name in names if (value := run.last(name)) is not None), None), ".4g")
    for column, name in _BEST.items():
        points = run.figures.get(name, {})
        row[column] = _number(min(points.values(), default=None), ".1%")
    row["hours seen"] = _number(hours, ".2f")
    row["wall time"] = Cell("" if wall_s is None else _clock(wall_s), wall_s)
    row["device"] = _text(f"{each['devices']} x {each['device']}" for each in run.machines)
    row["cores"] = _text(str(each["cores"]) for each in run.machines)
    row["device-hours"] = _number(run.device_hours, ".2f")
    row["audio-s/s"] = _number(3600 * hours / wall_s if hours and wall_s else None, ".1f")
    row["alarms"] = Cell(str(len(run.alarms)), len(run.alarms))
    return row


def _text(values: Iterable[str]) -> Cell:
    text = ", ".join(dict.fromkeys(values))
    return Cell(text, text or None)


def _number(value: float | None, form: str) -> Cell:
    return Cell("" if value is None else format(value, form), value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _styled(column: str, cell: Cell) -> Text:
    return Text(cell.text, style="red" if column == "alarms" and cell.value else "")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Container[int]) -> Table:
    """Lay out a table, with the columns in `right` aligned to the right; long cells are folded."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table
