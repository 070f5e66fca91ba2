"""The core runs without extras; errors name missing extras, and torch and torchaudio versions that do not match."""

import importlib
import importlib.metadata
import re
import subprocess
import sys

import pytest

from speechssl import extras
from speechssl.cli.commands import COMMANDS
from speechssl.cli.lazy import Group
from speechssl.errors import PackageError
from speechssl.extras import MODULES, import_torchaudio, missing_extra

OF_EXTRAS = sorted({module for modules in MODULES.values() for module in modules})


def required(extra: str) -> set[str]:
    """The modules of the packages that the installed metadata name for an extra."""
    lines = importlib.metadata.requires("speechssl") or []
    names = {re.match(r"[\w-]+", line)[0] for line in lines if f'extra == "{extra}"' in line}
    return {{"fonttools": "fontTools", "imageio-ffmpeg": "imageio_ffmpeg"}.get(name, name) for name in names}


@pytest.mark.parametrize("extra", MODULES)
def test_the_extras_are_those_of_the_metadata(extra):
    assert set(MODULES[extra]) == required(extra)


def test_all_brings_every_one_of_them():
    assert required("all") == set(OF_EXTRAS)


def test_the_core_names_none_of_them():
    lines = [line for line in importlib.metadata.requires("speechssl") or [] if "extra ==" not in line]
    names = {re.match(r"[\w-]+", line)[0] for line in lines}
    assert names == {
        *("torch", "torchaudio", "numpy", "soundfile", "safetensors"),  # models and their audio
        *("pydantic", "pyyaml", "rich", "typer"),  # recipes and the command line
        "langcodes",  # a model's policy of texts may name its language
    }


def without(modules: list[str], code: str) -> subprocess.CompletedProcess[str]:
    blocked = f"import sys\nfor name in {modules}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-W", "ignore", "-c", blocked + code], capture_output=True, text=True)


def entries(group: Group, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The extras of every command, by its words."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for name, entry in group.table.items():
        found |= entries(entry, (*words, name)) if isinstance(entry, Group) else {(*words, name): entry.extras}
    return found


EXTRAS_OF = entries(COMMANDS)


def test_every_command_explains_itself_without_any_extra():
    code = """
from speechssl.__main__ import main
for words in {commands}:
    status = main([*words, "--help"])
    assert status == 0, words
"""
    done = without(OF_EXTRAS, code.format(commands=[*EXTRAS_OF]))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "command", "extras"),
    [
        (["score", "a.tsv", "b.tsv"], "score", "score"),
        (["finetune", "a.yaml"], "finetune", "train"),
        (["preflight", "a.yaml"], "preflight", "train"),
        (["replay", "skipped_step_3"], "replay", "train"),
        (["runs", "run"], "runs", "train,plots"),
        (["sweep", "a.yaml"], "sweep", "plots"),
        (["hubert", "a.yaml"], "hubert", "train,plots"),
        (["manifest", "check", "a.tsv"], "manifest check", "check"),
        (["lm", "tune", "m", "dev.tsv", "--lm", "a.arpa", "-o", "out"], "lm tune", "score,plots"),
        (["plot", "a.tsv", "--manifest", "b.tsv", "-o", "c.png"], "plot", "plots"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_command_whose_extra_is_missing_says_which_one_in_one_line(arguments, command, extras):
    done = without(OF_EXTRAS, f"from speechssl.__main__ import main\nsys.exit(main({arguments}))")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(rf"speechssl: {command} needs \w+, which is not installed: (.*)", line)
    assert line.endswith(f": pip install 'speechssl[{extras}]'")


def test_a_missing_module_that_no_extra_brings_is_a_fault_of_ours():
    assert missing_extra(ModuleNotFoundError("No module named 'torchx'", name="torchx"), "x", ()) is None
    assert missing_extra(ModuleNotFoundError("", name="speechssl.nothing"), "x", ()) is None


def test_an_extra_is_found_by_its_module_where_the_command_names_none():
    error = ModuleNotFoundError("", name="fontTools.unicodedata")
    assert missing_extra(error, "this command", ()) == (
        "this command needs fontTools, which is not installed: pip install 'speechssl[train]'"
    )


@pytest.mark.parametrize(
    ("torch", "cure"),
    [
        ("2.9.1", "pip install torch==2.9.1 torchaudio==2.9.1"),
        ("2.10.0", "pip install torch==2.10.0 torchaudio==2.10.0"),
        ("2.11.0", "pip install torch==2.11.0 torchaudio==2.11.0"),
        ("2.12.0", "pip install torch==2.12.0 torchaudio==2.11.0"),
        ("2.15.0", "pip install torch==2.15.0 torchaudio==2.11.1"),
        (
            "2.13.0+cpu",
            "pip install --force-reinstall torchaudio==2.11.1 --index-url ADDRESS (from which torch+cpu came)",
        ),
    ],
)
def test_torch_and_torchaudio_that_do_not_fit_are_named_with_the_cure(monkeypatch, torch, cure):
    def broken(name: str) -> None:
        raise OSError("Could not load this library: lib.so") from OSError(f"{name}: undefined symbol: torch_what")

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(extras, "_version", {"torch": torch, "torchaudio": "2.11.0"}.__getitem__)
    with pytest.raises(PackageError) as caught:
        import_torchaudio("functional")
    first, one, other = str(caught.value).splitlines()
    assert first == (
        f"torchaudio 2.11.0 cannot be loaded beside torch {torch} (torchaudio.functional: undefined symbol: "
        "torch_what); install two that fit:"
    )
    assert one.strip() == cure
    assert other.strip() == "pip install --upgrade 'torch>=2.13' 'torchaudio>=2.11.1'"


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_without_tensorboard_nothing_is_claimed_before_it_is_said(stage, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    keys = "checkpoint: nowhere\n" if stage == "finetune" else ""
    recipe.write_text(f"out: {tmp_path / 'run'}\n{keys}data: {{manifests: [{tmp_path / 'gone.tsv'}]}}\n")
    done = without(["tensorboard"], f"from speechssl.__main__ import main\nsys.exit(main(['{stage}', '{recipe}']))")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "speechssl: TensorBoard cannot be imported (it is not installed): pip install 'speechssl"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["filter", "gone.tsv", "-o", "b.parquet"], "parquet"), (["stats", "gone.tsv", "--png", "a.png"], "plots")],
)
def test_what_writes_the_result_is_looked_for_before_the_work(arguments, said):
    code = f"from speechssl.__main__ import main\nsys.exit(main({['manifest', *arguments]}))"
    done = without(["pyarrow", "matplotlib"], code)
    assert done.returncode == 2
    assert f"pip install 'speechssl[{said}]'" in done.stderr
    assert "gone.tsv" not in done.stderr
