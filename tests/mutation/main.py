"""Mutates the pure modules that decide who runs a VM, runs their tests against each mutant, and reports who lives.

    tests/mutation/run [TARGET...] [--jobs 2] [--json F] [--report F] [--keep DIR]

A mutant that changes only a sentence for people or a log line is not counted: no decision depends on it. Of the others
at least 95 % must be killed, and every survivor is argued in tests/mutation/argued.toml.
Exit status: 0 it is so, 1 it is not, 2 wrong usage, or a test fails without any mutant.
The tool is mutmut, the extra `mutation`: pip install -c constraints.txt -e '.[mutation]'. It works on a copy of the
checkout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.mutation.judge import Mutant, mutants
from tests.mutation.targets import TARGETS, Target

ROOT: Final = Path(__file__).resolve().parents[2]
LEAST_KILLED: Final = 0.95
_SURVIVED, _NO_TESTS, _FAILED_BEFORE_ANY = 0, 33, 2
_CONFIGURATION: Final = """
[tool.mutmut]
source_paths = ["services", "shared"]
only_mutate = {modules}
also_copy = ["tests", "vmport", "deploy", "docs", "services", "shared", "README.md"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-m", "not servers and not lab", "-x"{left_out}]
pytest_add_cli_args_test_selection = {tests}
"""


class MutationError(Exception):
    """The run says nothing: mutmut did not work, or the tests fail by themselves."""


@dataclass(slots=True)
class Result:
    """One target. `argued` and `unargued` are the survivors."""

    target: str
    mutants: int = 0
    killed: int = 0
    of_words: int = 0
    argued: list[tuple[Mutant, str]] = field(default_factory=list)
    unargued: list[Mutant] = field(default_factory=list)

    @property
    def share(self) -> float:
        """How many of the counted mutants were killed."""
        return self.killed / self.mutants if self.mutants else 1.0

    @property
    def passed(self) -> bool:
        """Enough killed, and every survivor argued."""
        return self.share >= LEAST_KILLED and not self.unargued


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _options(argv)
    arguments = tomllib.loads((ROOT / "tests/mutation/argued.toml").read_text()).get("argued", [])
    results = []
    for name in options.targets or TARGETS:
        with tempfile.TemporaryDirectory(prefix="vmport-mutation-") as folder:
            copy = Path(folder) / "vmport"
            try:
                found = _run(TARGETS[name], copy, jobs=options.jobs)
            except MutationError as error:
                print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # for people
                return 2
        result = judge(name, found, arguments)
        results.append(result)
        _print(result)
    if options.json is not None:
        options.json.write_text(json.dumps([_as_json(result) for result in results], indent=1) + "\n")
    if options.report is not None:
        options.report.write_text(report(results))
    return int(not all(result.passed for result in results))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/mutation/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="mutants that are tested at the same time (default: 2)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures and the survivors there")
    parser.add_argument("--report", type=Path, metavar="F", help="write a table in Markdown there")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.targets) - set(TARGETS)):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    if find_spec("mutmut") is None:
        parser.error("mutmut is not installed: pip install -c constraints.txt -e '.[mutation]'")
    return options


# ---- running ----


def _run(target: Target, copy: Path, *, jobs: int) -> Iterable[tuple[Mutant, int]]:
    """Each mutant with what its tests ended with."""
    _copy_checkout(copy)
    with (copy / "pyproject.toml").open("a") as file:
        left_out = "".join(f", {json.dumps(f'--deselect={test}')}" for test in target.left_out)
        file.write(
            _CONFIGURATION.format(modules=json.dumps(target.modules), tests=json.dumps(target.tests), left_out=left_out)
        )
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(jobs)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, errors="replace", check=False)
    found: list[tuple[Mutant, int]] = []
    for meta in sorted((copy / "mutants").glob("**/*.py.meta")):
        path = meta.with_suffix("").relative_to(copy / "mutants")
        module = ".".join(path.with_suffix("").parts)
        known = mutants(module, meta.with_suffix("").read_text())
        ended: Mapping[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
        for key, status in ended.items():
            if status is None:
                raise MutationError(f"mutmut did not come to {key}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            found.append((known[key], status))
    if not found:
        raise MutationError(f"mutmut made no mutant:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found


def _copy_checkout(copy: Path) -> None:
    """The files of this checkout as they are now, but none that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / name)


# ---- judging ----


def judge(name: str, found: Iterable[tuple[Mutant, int]], arguments: Sequence[Mapping[str, str]]) -> Result:
    """Count; a survivor is looked up in the arguments."""
    why = {(entry["function"], entry["was"].strip(), entry["became"]): entry["why"] for entry in arguments}
    result = Result(name)
    for mutant, status in found:
        if mutant.words:
            result.of_words += 1
            continue
        result.mutants += 1
        if status not in {_SURVIVED, _NO_TESTS}:
            result.killed += 1
            continue
        reason = why.get((f"{mutant.module}.{mutant.function}", mutant.was, mutant.became))
        if reason is None:
            result.unargued.append(mutant)
        else:
            result.argued.append((mutant, reason))
    return result


# ---- telling ----


def _print(result: Result) -> None:
    print(  # noqa: T201  # for people
        f"{result.target}: {result.killed} of {result.mutants} killed ({100 * result.share:.1f} %),"
        f" {len(result.argued)} argued, {len(result.unargued)} not argued; {result.of_words} of words not counted",
        flush=True,
    )
    for mutant in result.unargued:
        print(f"  {mutant.module}.{mutant.function}\n    - {mutant.was}\n    + {mutant.became}")  # noqa: T201  # for people


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "target": result.target,
        "mutants": result.mutants,
        "killed": result.killed,
        "share": round(result.share, 4),
        "of_words": result.of_words,
        "argued": len(result.argued),
        "survivors": [
            {"function": f"{mutant.module}.{mutant.function}", "was": mutant.was, "became": mutant.became}
            for mutant in (*(mutant for mutant, _ in result.argued), *result.unargued)
        ],
    }


def report(results: Iterable[Result]) -> str:
    """A table for people, and the argued survivors."""
    lines = ["| modules | mutants | killed | share | survivors, argued |", "|---|--:|--:|--:|--:|"]
    argued = []
    for result in results:
        lines.append(
            f"| {result.target} | {result.mutants} | {result.killed} | {100 * result.share:.1f} % |"
            f" {len(result.argued)} |"
        )
        argued += [f"* `{mutant.module}.{mutant.function}`: {why}" for mutant, why in result.argued]
    if argued:
        lines += ["", *dict.fromkeys(argued)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
