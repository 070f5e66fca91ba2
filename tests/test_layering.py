"""Imports go one way, modules import quietly, and none needs an optional package."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import speechssl

SOURCES = Path(speechssl.__file__).parent
LAYERS = (  # a module may import from the layers before its own, and from its own part
    {"atomic", "errors", "fingerprint", "memory", "provenance"},
    {"config", "extras", "processor"},
    {"audio", "parallel", "text", "model"},
    {"data"},
    {"corpus", "tasks", "units"},
    {"asr", "features", "train"},
    {"downstream", "hub"},
    {"stages"},
    {"inference", "plan", "report"},
    {"cli"},
    {"__main__"},
)
SEPARATE = [
    ("audio", "text"),
    ("model", "data"),
    ("parallel", "data"),
    ("tasks", "parallel"),
    ("train", "units"),
    ("asr", "tasks"),
    ("corpus", "units"),
    ("plan", "report"),
    ("downstream", "hub"),
    ("downstream", "train"),
]
SHARED_NAMES = {
    "__init__",
    "attention",
    "dropout",
    "positions",
}  # a kernel of model/fast is called as its plain form is
MODULES = sorted(SOURCES.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(["speechssl", *path.relative_to(SOURCES).with_suffix("").parts]).removesuffix(".__init__")


def part_of(module: str) -> str:
    """Return the part of the package that a module belongs to: `speechssl.audio.reading` is of `audio`."""
    return module.split(".")[1] if module.startswith("speechssl.") else ""


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            yield node.module
            if part_of(node.module) or node.module == "speechssl":  # `from speechssl.data import x` may name a module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    return {part_of(module) for module in imported(path) if module.split(".")[0] == "speechssl"} - {""}


def layer_of(part: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if part in layer)


def test_every_part_of_the_package_has_a_layer():
    parts = {part_of(name_of(path)) for path in MODULES} - {""}
    known = set().union(*LAYERS)
    assert parts <= known, f"give {parts - known} a place in LAYERS"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_its_own_part_and_the_layers_below(path):
    part = part_of(name_of(path))
    wrong = {other for other in own_imports(path) if part and other != part and layer_of(other) >= layer_of(part)}
    assert not wrong, f"{name_of(path)} imports {wrong}"


def test_no_module_imports_itself_by_way_of_others():
    names = {name_of(path) for path in MODULES}
    imports = {name_of(path): names & {*imported(path)} - {name_of(path)} for path in MODULES}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(
            f"a circle of imports, within functions and for type checkers counted: {' <- '.join(error.args[1])}"
        )


def test_a_module_is_found_by_its_name_alone():
    names = [path.stem for path in MODULES if path.stem not in SHARED_NAMES]
    assert sorted(names) == sorted({*names})


@pytest.mark.parametrize(("one", "other"), SEPARATE)
def test_two_parts_know_nothing_of_each_other(one, other):
    for part, foreign in ((one, other), (other, one)):
        for path in MODULES:
            if part_of(name_of(path)) == part:
                assert foreign not in own_imports(path), f"{name_of(path)} imports {foreign}"


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("atomic", set()),
        ("fingerprint", set()),
        ("errors", set()),
        ("config", {"errors"}),
        ("parallel", set()),
        ("memory", set()),
        ("provenance", set()),
        ("extras", {"errors"}),
        ("processor", {"errors"}),
        ("audio", {"audio", "config", "errors", "extras"}),
        ("text", {"text", "config", "errors"}),
        ("model", {"model", "config", "errors", "processor"}),
        ("data", {"data", "audio", "text", "config", "errors", "extras", "atomic", "fingerprint"}),
        ("tasks", {"tasks", "model", "data", "text", "config", "errors"}),
        ("corpus", {"corpus", "data", "audio", "text", "config", "errors", "atomic", "fingerprint"}),
        ("asr", {"asr", "corpus", "data", "audio", "text", "config", "errors", "atomic"}),
        ("features", {"features", "corpus", "units", "data", "audio", "config", "errors", "atomic"}),
        (
            "downstream",
            {"downstream", "asr", "units", "tasks", "model", "data", "audio", "text", "config", "errors", "atomic"},
        ),
    ],
)
def test_what_a_low_part_may_know_is_listed_here(module, allowed):
    for path in MODULES:
        if part_of(name_of(path)) == module:
            assert own_imports(path) <= allowed, name_of(path)


def test_model_and_objective_read_no_files_and_no_yaml():
    for path in MODULES:
        if part_of(name_of(path)) in ("model", "tasks"):
            assert not {"yaml", "json", "pathlib", "os", "soundfile"} & set(imported(path)), name_of(path)


def test_only_the_configuration_reads_yaml():
    assert [name_of(path) for path in MODULES if "yaml" in imported(path)] == ["speechssl.config"]


def test_nothing_unpickles():
    for path in MODULES:
        assert not {"pickle", "joblib", "dill"} & set(imported(path)), name_of(path)
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not {"np.load", "numpy.load"} & {ast.unparse(call.func) for call in calls}, name_of(path)
        for call in calls:
            if ast.unparse(call.func) == "torch.load":
                assert "weights_only=True" in map(ast.unparse, call.keywords), name_of(path)


IMPORT_ALL = """
import importlib, os, sys
for name in {blocked!r}:
    sys.modules[name] = None
before = dict(os.environ)
for name in {modules!r}:
    importlib.import_module(name)
assert dict(os.environ) == before, "an import changed the environment"
import logging, torch
assert not logging.getLogger().handlers, "an import set up logging"
assert torch.distributed.is_initialized() is False
assert torch.cuda.is_initialized() is False
"""


def test_every_module_imports_quietly_without_optional_packages():
    modules = [name_of(path) for path in MODULES if path.name != "__main__.py"]
    blocked = ["fairseq2", "transformers", "fairseq", "onnx", "onnxscript", "onnxruntime", "s3prl", "wandb", "pytest"]
    blocked += ["lhotse", "datasets", "pyarrow", "fsspec", "aiohttp", "ray", "silero_vad", "kenlm", "flashlight"]
    blocked += ["sentencepiece", "peft", "h5py"]
    code = IMPORT_ALL.format(blocked=blocked, modules=[*modules, "speechssl.__main__"])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_package_itself_imports_nothing_heavy():
    code = "import sys, speechssl; print(sorted({'torch', 'numpy', 'soundfile', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
