"""Figures of a manifest, and their picture."""

from dataclasses import replace

import pytest

from speechssl.corpus.stats import count, describe_stats, plot_durations


@pytest.fixture
def rows(make_utterances):
    made = make_utterances([16_000 * seconds for seconds in (1, 2, 3, 4, 3590)])
    languages = ("nl", "nl", "ru", "ru", "ru")
    return [
        replace(row, language=of, text="a" if of == "nl" else None) for row, of in zip(made, languages, strict=True)
    ]


def test_hours_are_summed_and_sorted_and_quantiles_are_of_durations(rows):
    stats = count(rows)
    assert (stats.utterances, stats.with_text, stats.hours) == (5, 2, pytest.approx(1.0))
    assert list(stats.hours_by_language.items()) == [
        ("ru", pytest.approx(3597 / 3600)),
        ("nl", pytest.approx(3 / 3600)),
    ]
    assert (stats.quantiles_s["0"], stats.quantiles_s["0.5"], stats.quantiles_s["1"]) == (1, 3, 3590)
    assert stats.hours_by_rate == {"16000": pytest.approx(1.0)}
    assert stats.hours_by_speaker == {"": pytest.approx(1.0)}


def test_the_lines_name_what_is_there_and_what_is_not_said(rows):
    text = "\n".join(describe_stats(count(rows)))
    assert "5, 2 with text" in text
    assert "language    2: ru 1.00 h, nl 0.00 h" in text
    assert "speaker     not said" in text
    many = [replace(row, speaker=f"s{i}") for i, row in enumerate(rows * 3)]
    assert "and 5 more" in "\n".join(describe_stats(count(many)))


def test_parts_of_files_are_counted(rows):
    assert (count(rows).files, count(rows).parts) == (5, 0)
    assert not any(line.startswith("files") for line in describe_stats(count(rows)))
    parts = [replace(row, path="long.wav", start=i, file_samples=10**9) for i, row in enumerate(rows[:3])]
    found = count([*parts, *rows[3:]])
    assert (found.utterances, found.files, found.parts, found.hours) == (5, 3, 3, count(rows).hours)
    assert "files       3, 3 utterances are parts of theirs" in describe_stats(found)


def test_the_histogram_is_a_picture(rows, tmp_path):
    many = [replace(row, language=f"l{i}") for i, row in enumerate(rows * 3)]
    plot_durations(many, tmp_path / "new" / "durations.png")
    assert (tmp_path / "new" / "durations.png").read_bytes().startswith(b"\x89PNG")
