"""The page of a scoring holds all, asks for nothing, and no text becomes markup: speechssl.asr.scoring.error_page."""

import base64
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from speechssl.asr.scoring.error_page import PathToken, Recording, Report, System, write_score_page
from speechssl.asr.scoring.evaluate import Reference, ScoreConfig, evaluate, judge

TEXTS = {"a": "one two three", "b": "one two", "c": "שלום לכולם", "d": "ten  one"}
HEARD = {"a": "one too three", "b": "", "c": "שלום לכל היום", "d": "ten one"}
HOSTILE = "</script><script>alert(1)</script><!-- <b>&amp;__AUDIO__ __DATA__"


class Scripts(HTMLParser):
    """Collects what a browser would take for a script, and every attribute that names another place."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.places: list[str | None] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.places += [value for name, value in attrs if name in ("src", "href")]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"] and self.cdata_elem == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)


def report(texts: dict[str, str], heard: dict[str, str], **others: object) -> Report:
    rows = [Reference(id=key, text=text, groups={"kind": key}) for key, text in texts.items()]
    systems = [System(name="first", evaluation=evaluate(rows, heard, ScoreConfig(samples=50)))]
    given = {"durations_s": {}, "confidences": {}, "recordings": {}, "name": "test", "systems": systems, **others}
    return Report(references=rows, **given)  # type: ignore[arg-type]


def written(given: Report, folder: Path) -> tuple[str, Scripts, dict]:
    write_score_page(given, folder / "page.html")
    text = (folder / "page.html").read_text(encoding="utf-8")
    found = Scripts()
    found.feed(text)
    return text, found, json.loads(next(body for at, body in found.scripts if at.get("id") == "data"))


def unfolded(runs: str) -> str:
    return "".join(kind * int(count or 1) for count, kind in re.findall(r"(\d*)(\D)", runs))


def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    text, found, _ = written(report(TEXTS, HEARD), tmp_path)
    assert all(place.startswith(("#", "data:")) for place in found.places if place is not None)
    assert "http" not in text
    assert "@import" not in text and "url(" not in text
    assert [each for each in ("fetch(", "XMLHttpRequest", "import(", "innerHTML", "outerHTML") if each in text] == []


def test_totals_groups_and_settings_are_in_it(tmp_path: Path) -> None:
    given = report(TEXTS, HEARD, notes=["no sound"])
    _, _, data = written(given, tmp_path)
    total = given.systems[0].evaluation.total
    assert data["systems"][0]["wer"]["rate"] == total.words.errors.rate
    assert data["systems"][0]["cer"]["low"] == total.characters.interval.low
    assert [group["name"] for group in data["groups"]["kind"]] == ["a", "b", "c", "d"]
    assert data["groups"]["kind"][1]["systems"][0]["wer"]["D"] == 2
    said = json.dumps(data["facts"])
    assert "texts as they are" in said and "levenshtein" in said and "50 times, seed 0" in said
    assert data["notes"] == ["no sound"]
    assert data["differences"] == []


def test_two_systems_stand_side_by_side(tmp_path: Path) -> None:
    one, two = report(TEXTS, HEARD), report(TEXTS, TEXTS)
    both = [System(name="first", evaluation=one.systems[0].evaluation), *two.systems]
    differences = judge(one.references, both[0].evaluation, both[1].evaluation)
    _, _, data = written(report(TEXTS, HEARD, systems=both, differences=differences), tmp_path)
    assert [each["wer"]["rate"] for each in data["systems"]] == [5 / 9, 0]
    assert data["differences"][0]["difference"] == -5 / 9
    assert [len(row["heard"]) for row in data["utterances"]] == [2] * 4
    assert data["groups"]["kind"][0]["systems"][1]["wer"]["rate"] == 0
    assert data["confusions"][1]["words"] == []
    assert ["substitution", "two", "too", 1, 2] in data["confusions"][0]["words"]


def test_alignments_can_be_followed_step_by_step(tmp_path: Path) -> None:
    given = report(TEXTS, HEARD)
    _, _, data = written(given, tmp_path)
    for row, compared in zip(data["utterances"], given.systems[0].evaluation.utterances, strict=True):
        text, words, characters = row["heard"][0]
        for runs, steps in ((words, compared.words), (characters, compared.characters)):
            assert unfolded(runs) == "".join("=" if step.kind == "hit" else step.kind[0].upper() for step in steps)
        assert text == compared.hypothesis
    assert data["utterances"][3]["reference"] == ["ten  one", ["ten", "one"]]  # a text its spaces do not split


def test_no_text_becomes_markup_or_a_place_of_the_template(tmp_path: Path) -> None:
    texts = {HOSTILE: f"one {HOSTILE}", "b": "two"}
    named = report(
        texts, {HOSTILE: HOSTILE, "b": HOSTILE}, name=HOSTILE, notes=[HOSTILE], recordings={"b": Recording(flac=b"x")}
    )
    _, plain, _ = written(report(TEXTS, HEARD, recordings={"b": Recording(flac=b"x")}), tmp_path)
    _, hostile, data = written(named, tmp_path)
    assert hostile.tags == plain.tags
    assert len(hostile.scripts) == 3
    assert data["name"] == data["notes"][0] == data["utterances"][0]["id"] == HOSTILE
    assert data["utterances"][1]["heard"][0][0] == HOSTILE
    assert data["groups"]["kind"][0]["name"] == HOSTILE


def test_sound_and_tokens_belong_to_their_utterance(tmp_path: Path) -> None:
    path = [PathToken("o", 3, 2, 0.98765), PathToken("|", 7, 1, 0.5)]
    recordings = {"c": Recording(flac=b"fLaC\x00\xff", path=path)}
    given = report(TEXTS, HEARD, recordings=recordings, durations_s={"c": 1.23456}, confidences={"c": 0.5})
    _, found, data = written(given, tmp_path)
    sounds = {at["id"]: body for at, body in found.scripts if at.get("type") == "text/plain"}
    assert {key: base64.b64decode(body) for key, body in sounds.items()} == {"audio-2": b"fLaC\x00\xff"}
    row = data["utterances"][2]
    assert row["path"] == [["o", 3, 2, 0.988], ["|", 7, 1, 0.5]]
    assert (row["s"], row["confidence"]) == (1.235, 0.5)
    assert not {"path", "s", "confidence"} & set(data["utterances"][0])


@pytest.mark.parametrize("character", ["\u2028", "\x00", "\u200f", "👩‍👩‍👧"])
def test_any_character_comes_back_as_it_was(tmp_path: Path, character: str) -> None:
    _, _, data = written(report({"a": f"x{character}y"}, {"a": f"z{character}"}), tmp_path)
    assert data["utterances"][0]["reference"] in (f"x{character}y", [f"x{character}y", ["x", "y"]])
