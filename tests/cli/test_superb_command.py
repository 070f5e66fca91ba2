"""The command `superb`: settings, and input that cannot be used."""

import pytest

from speechssl.__main__ import main


def command_of(tmp_path, *more: str) -> list[str]:
    return ["superb", "no-model", "--data", f"ml_superb={tmp_path}", "--out", str(tmp_path / "out"), *more]


def test_settings_are_shown_without_a_run(tmp_path, capsys):
    assert main(command_of(tmp_path, "--dry-run", "er.steps=7")) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["er.steps", "7", "*"] in lines
    assert any(line[:2] == ["er.lr", "0.0001"] for line in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), "no-model"),
        (("lid.steps=ten",), "lid.steps: Input should be a valid integer"),
        (("data.voxceleb2=x",), "unknown key data.voxceleb2; did you mean data.voxceleb1?"),
        (("tasks=[asr]",), "tasks"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path, capsys, more, expected):
    assert main(command_of(tmp_path, *more)) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.strip().splitlines()) == 1
