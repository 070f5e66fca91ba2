"""Fluent Speech Commands (Lugosch et al. 2019, arXiv:1904.03670): commands of three slots, action, object and location.

`data/{train,valid,test}_data.csv` name `wavs/speakers/SPEAKER/NAME.wav`, the speaker, the words and the slots. The
label `intent` joins the three slots: it is right if all three are, as SUPERB counts.
"""

import csv
from pathlib import Path

from speechssl.corpus.entries import Entry, text_lines
from speechssl.corpus.fetch.spoken_text import normalize_text
from speechssl.corpus.layouts.listing import Account, Listing, child_with
from speechssl.errors import CorpusError

__all__ = ["SLOTS", "find_fluent_commands"]

SLOTS = ("action", "object", "location")

_TABLES = {"train": "train_data.csv", "dev": "valid_data.csv", "test": "test_data.csv"}
_COLUMNS = ("path", "speakerId", "transcription", *SLOTS)


def find_fluent_commands(source: Path) -> Listing:
    """List the three splits; ids are the names of the files.

    Args:
        source: folder with `data/` and `wavs/`, or one above it.

    Raises:
        CorpusError: a table or all audio is missing, or a table lacks a column, or has an empty slot.
    """
    root = child_with(source, ("data", "wavs"), layout="data/train_data.csv, valid_data.csv, test_data.csv and wavs/")
    account = Account()
    entries: list[Entry] = []
    answers: dict[str, dict[str, str]] = {}
    for split, name in _TABLES.items():
        table = root / "data" / name
        if not table.is_file():
            raise CorpusError(f"{table}: not found, expected {', '.join(_TABLES.values())} there; unpack it again")
        reader = csv.DictReader(line for _, line in text_lines(table))
        lacking = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if lacking:
            raise CorpusError(f"{table}:1: expected {','.join(_COLUMNS)}, found no {', '.join(lacking)}; copy it again")
        for row in reader:
            where = f"{table}:{reader.line_num}"
            empty = [column for column in (*SLOTS, "speakerId", "path") if not row[column]]
            if empty:
                raise CorpusError(f"{where}: {', '.join(empty)} is empty, expected a value; copy the table again")
            if not (root / row["path"]).is_file():
                account.add(f"left out, in {name}, without audio", [row["path"]])
                continue
            spoken = normalize_text(row["transcription"], "en")
            key = Path(row["path"]).stem
            account.add(f"without text, {spoken.why_not}", [key] if spoken.text is None else [])
            entries.append(
                Entry(
                    where=where,
                    path=row["path"],
                    id=key,
                    text=spoken.text,
                    speaker=row["speakerId"],
                    language="en",
                    split=split,
                )
            )
            slots = {slot: row[slot] for slot in SLOTS}
            answers[key] = {**slots, "intent": " ".join(value.replace(" ", "-") for value in slots.values())}
    listed = {entry.path for entry in entries}
    audio = (path.relative_to(root).as_posix() for path in sorted((root / "wavs").rglob("*.wav")))
    account.add("left out, in none of the tables", (path for path in audio if path not in listed))
    if not entries:
        raise CorpusError(f"{root}: none of the recordings of its tables is in wavs/; unpack the archive again")
    return Listing(root=root, entries=entries, answers=answers, notes=account.notes())
