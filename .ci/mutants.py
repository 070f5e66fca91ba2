"""Measure what the tests notice: change one place of the code at a time and run the tests of its folder.

cosmic-ray knows the changes, makes them and runs the tests. This draws a sample of places with one change for each, and
says which tests belong to a module: its own, then its doctests and all of `tests/FOLDER`. Left out are annotations, and
changes that no test can see (`is` for `==`) or every test must (a shift of floats). Run it in a copy of the checkout:
`make mutants`.
"""

import argparse
import ast
import random
import re
import shlex
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.work_item import MutationSpec, TestOutcome

CHANGES = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_FloorDiv|Pow_Mul|BitAnd_BitOr)"
    r"|ReplaceBinaryOperator_BitOr_BitAnd|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)"
    r"|ReplaceComparisonOperator_(Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt)"
    r"|ReplaceUnaryOperator_(USub_UAdd|Delete_\w+)|AddNot|Replace(True|False|And|Or|Break|Continue)With\w+"
    r"|NumberReplacer|ExceptionReplacer|ZeroIterationForLoop|RemoveDecorator)"
)


@dataclass
class Tests:
    """How the tests of a folder are run, and what they found."""

    python: str
    folder: str
    limit_s: float  # after which a mutant counts as killed: it may loop for ever
    killed: int = 0
    survivors: list[str] = field(default_factory=list)

    def command(self, module: Path | None = None) -> str:
        """Return the command line that tests a module of the folder, the tests most likely to fail first."""
        run = shlex.join([self.python, "-m", "pytest", "-x", "-p", "no:cacheprovider"])
        every = f"{run} tests/{self.folder}"
        if module is None:
            return every
        own = Path("tests", self.folder, f"test_{module.stem}.py")
        first = f"{run} {own} && " if own.exists() else ""
        return shlex.join(["sh", "-c", f"{first}{every} {module}"])

    def pass_unchanged(self) -> bool:
        """Say whether the tests of the folder pass with nothing changed; that a mutant survived shows the same."""
        if self.survivors:
            return True
        done = subprocess.run(shlex.split(self.command()), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            print(done.stdout)
        return done.returncode == 0


def main() -> None:
    """Test a sample of mutants; print each, then the survivors and the share killed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="+", help="folders or modules below speechssl/, as units or units/seeding.py")
    parser.add_argument("--python", required=True, help="interpreter that has what the tests need")
    parser.add_argument("--mutants", type=int, default=400, help="places to change")
    parser.add_argument("--minutes", type=float, default=600, help="no mutant is begun after this time")
    parser.add_argument("--limit", type=float, default=900, help="seconds that the tests of one mutant may take")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    args = parser.parse_args()
    start = time.monotonic()
    places = find_places([path for name in args.modules for path in modules_of(Path("speechssl", name))])
    draw = random.Random(args.seed)
    mutants = [draw.choice(changes) for changes in draw.sample(places, min(args.mutants, len(places)))]
    print(f"{len(places)} places, {len(mutants)} of which are changed", flush=True)
    folders: dict[str, Tests] = {}
    for mutant in mutants:
        if time.monotonic() - start > 60 * args.minutes:
            break
        name = mutant.module_path.parts[1]
        if name not in folders:
            folders[name] = Tests(args.python, name, args.limit)
        test_mutant(mutant, folders[name])
    for tests in folders.values():
        print("", *tests.survivors, sep="\n")
    broken = [name for name, tests in folders.items() if not tests.pass_unchanged()]
    print(f"\n| folder | mutants | killed | % |\n{'|---' * 4}|")
    for tests in folders.values():
        report(tests.folder, tests.killed, tests.killed + len(tests.survivors))
    total = sum(tests.killed for tests in folders.values())
    report("all", total, total + sum(len(tests.survivors) for tests in folders.values()))
    if broken:
        raise SystemExit(f"tests of {', '.join(broken)} fail with nothing changed: what they killed says nothing")


def modules_of(path: Path) -> list[Path]:
    """List the modules of a folder, or the module itself."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def find_places(modules: list[Path]) -> list[list[MutationSpec]]:
    """Ask cosmic-ray for the changes, and group them by the place that they change."""
    places: dict[tuple, list[MutationSpec]] = {}
    operators = {name: get_operator(name)() for name in operator_names() if CHANGES.fullmatch(name)}
    for path in modules:
        notes, nodes = annotated(path), [*ast_nodes(get_ast_from_path(path))]
        for name, operator in operators.items():
            spans = (span for node in nodes for span in operator.mutation_positions(node))
            for number, (start, end) in enumerate(spans):
                if not any(first <= start < last for first, last in notes):
                    change = MutationSpec(
                        module_path=path, operator_name=name, occurrence=number, start_pos=start, end_pos=end
                    )
                    places.setdefault((path, start), []).append(change)
    return [places[key] for key in sorted(places)]


def annotated(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """List where the annotations of a module begin and end, as (line, column)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        note = getattr(node, "returns", None) or getattr(node, "annotation", None)
        if isinstance(note, ast.AST):
            found.append(((note.lineno, note.col_offset), (note.end_lineno, note.end_col_offset)))
    return found


def test_mutant(mutant: MutationSpec, tests: Tests) -> None:
    """Make one change, run the tests, undo it, and note what came of it."""
    result = mutate_and_test([mutant], tests.command(mutant.module_path), tests.limit_s)
    where = f"{mutant.module_path}:{mutant.start_pos[0]}: {mutant.operator_name.removeprefix('core/')}"
    if result.test_outcome == TestOutcome.KILLED:
        tests.killed += 1
        print(f"killed    {where}", flush=True)
        return
    changed = [line for line in (result.diff or result.output or "").splitlines() if re.match(r"[-+](?![-+]{2})", line)]
    tests.survivors.append("\n    ".join([where, *changed]))
    print(f"survived  {where}", flush=True)


def report(name: str, killed: int, number: int) -> None:
    """Print a row of the table."""
    print(f"| {name} | {number} | {killed} | {100 * killed / max(1, number):.0f} |")


if __name__ == "__main__":
    main()
