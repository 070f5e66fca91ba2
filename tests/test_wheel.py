"""The wheel holds the whole package, and each of its modules can be the first that a program imports."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import speechssl

ROOT = Path(__file__).parents[1]
PACKAGE = Path(speechssl.__file__).parent


def listed(*patterns: str) -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z", *patterns], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.split("\0")[:-1]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the installed wheel holds; in a checkout, what one built from it does."""
    if not (ROOT / "speechssl").exists():
        files = importlib.metadata.files("speechssl") or []
        return {file.as_posix() for file in files if file.parts[0] == "speechssl" and file.suffix != ".pyc"}
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in listed("speechssl", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("speechssl/")}


def test_the_wheel_holds_every_file_of_the_package(shipped: set[str]) -> None:
    assert {"speechssl/py.typed", "speechssl/report/runs_page.html", "speechssl/asr/scoring/error_page.html"} <= shipped
    assert len(shipped) > 240
    assert shipped == set(listed("speechssl"))


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)


FIRST = """
import importlib, os, sys, traceback
# once for all: they take seconds, and are not ours
import fontTools.unicodedata, jiwer, matplotlib.figure, numpy, pydantic, rapidfuzz, rich.progress, safetensors.torch
import soundfile, torch, torch.distributed.fsdp, torch.export, torch.utils.data, typer, xxhash, yaml
failed = []
for name in {modules}:
    assert not any(module.startswith("speechssl") for module in sys.modules)
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        failed.append(name)
print(failed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process a module, each forked")
def test_every_module_can_be_imported_first() -> None:
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in sorted(PACKAGE.rglob("*.py"))]
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    code = FIRST.format(modules=modules)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=900)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
