"""The table of commands tells the truth of their functions, and help is printed from it alone."""

import inspect
import subprocess
import sys

import pytest

from speechssl.cli.commands import COMMANDS
from speechssl.cli.lazy import Command, Group, command_and_extras


def commands(group: Group, words: tuple[str, ...] = ()) -> list[tuple[str, Command]]:
    found: list[tuple[str, Command]] = []
    for name, entry in group.table.items():
        found += commands(entry, (*words, name)) if isinstance(entry, Group) else [(" ".join((*words, name)), entry)]
    return found


ALL = dict(commands(COMMANDS))


@pytest.mark.parametrize("name", ALL)
def test_what_help_says_of_a_command_is_the_first_line_of_its_docstring(name):
    entry = ALL[name]
    built = entry.built(name)
    assert inspect.getdoc(built.callback).splitlines()[0] == entry.summary
    assert built.name == name


@pytest.mark.parametrize(
    "arguments", [["--help"], ["manifest", "--help"], ["lm", "--help"], ["pretrain", "--help"], []]
)
def test_help_imports_nothing_heavy(arguments):
    heavy = {"torch", "torchaudio", "numpy", "soundfile", "safetensors", "matplotlib", "librosa", "jiwer"}
    code = f"""
import sys
from speechssl.__main__ import main
main({arguments})
print(sorted({heavy} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert "Usage: speechssl" in done.stdout + done.stderr


def test_the_extras_of_a_command_are_found_from_its_arguments():
    assert command_and_extras(COMMANDS, ["lm", "tune", "m"]) == ("lm tune", ("score", "plots"))
    assert command_and_extras(COMMANDS, ["score", "lm", "tune"]) == ("score", ("score",))
    assert command_and_extras(COMMANDS, []) == ("this command", ())


def test_an_unknown_command_is_refused_with_the_usage(capsys):
    from speechssl.__main__ import main

    assert main(["manifest", "biuld"]) == 2
    said = capsys.readouterr().err
    assert "No such command 'biuld'" in said
    assert "build" in said.partition("biuld")[2]  # the nearest is named


def test_the_help_of_score_names_the_groupings(capsys):
    from speechssl.__main__ import main
    from speechssl.stages.score import GROUPINGS

    assert main(["score", "--help"]) == 0
    assert ", ".join(GROUPINGS) in " ".join(capsys.readouterr().out.split())


def test_the_help_of_convert_names_the_formats(capsys):
    from speechssl.__main__ import main
    from speechssl.hub.model_formats import FORMATS

    assert main(["convert", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split()).replace("- ", "-")  # lines may break after a hyphen
    assert ", ".join(FORMATS) in shown


def test_the_help_of_plan_names_the_devices_and_their_utilisation(capsys):
    from speechssl.__main__ import main
    from speechssl.cli.runs_commands import plan_command
    from speechssl.plan.costs import DEVICES, UTILISATION

    assert main(["plan", "--help"]) == 0
    assert f"cpu, {', '.join(DEVICES)};" in " ".join(capsys.readouterr().out.split())
    assert inspect.signature(plan_command).parameters["utilisation"].default == UTILISATION


def test_no_command_s_help_needs_torch():
    code = f"""
import sys
for name in ("torch", "torchaudio", "scipy"):
    sys.modules[name] = None  # cannot be imported
from speechssl.__main__ import main
sys.exit([name for name in {[*ALL]} if main([*name.split(), "--help"])])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]", done.stderr


_COUNTED = """
import sys
from speechssl.__main__ import main
status = main(sys.argv[1:])
print("torch" in sys.modules, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "manifest --help",
        "manifest build --help",
        "manifest check --help",
        "manifest segment --help",
        "score --help",
        "runs --help",
        "manifest build . -o m.tsv --side-file texts.tsv",
        "manifest stats a.tsv",
        "manifest import a.tsv --from table -o m.tsv",
        "manifest export a.tsv nemo.json --to nemo",
        "score a.tsv texts.tsv --normaliser plain --by duration",
    ],
)
def test_lists_and_scores_do_without_torch_which_takes_a_second_to_start(tmp_path, write_wav, arguments):
    write_wav(tmp_path / "a.wav", 16_000)
    (tmp_path / "texts.tsv").write_text("id\ttext\na\thello you\n")
    (tmp_path / "a.tsv").write_text("id\tpath\tsamples\trate\tchannels\ttext\na\ta.wav\t16000\t16000\t1\thello you\n")
    done = subprocess.run(
        [sys.executable, "-c", _COUNTED, *arguments.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "False"), done.stderr
