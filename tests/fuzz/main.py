"""Fuzzes the parsers of the page stream, its decoders, the lane protocol and network extensions, one by one.

    tests/fuzz/run [TARGET...] [--seconds 600] [--engine atheris|hypothesis]
    tests/fuzz/run TARGET --replay FILE

Exit status: 0 nothing was found, 1 something was (its input is kept, and how to replay it is printed), 2 wrong usage.
The engine atheris is the extra `fuzz`; VMPORT_PYTHON names the interpreter that has it, if not that of the
checkout's .venv.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.fuzz import by_hypothesis
from tests.fuzz.targets import TARGETS

ENGINES: Final = ("atheris", "hypothesis")
HANG_S: Final = 30
"""An input that takes longer is a finding."""
MEMORY_MIB: Final = 2048
MAX_INPUT_BYTES: Final = 4096
"""Inputs are mostly decisions; what is built of them is far larger."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _options(argv)
    if options.replay is not None:
        TARGETS[options.targets[0]].check(options.replay.read_bytes())
        print(f"{options.targets[0]}: nothing is wrong with this input")  # noqa: T201  # for people
        return 0
    folder = options.findings or Path(tempfile.mkdtemp(prefix="vmport-fuzz-findings-"))
    folder.mkdir(parents=True, exist_ok=True)
    found = False
    for name in options.targets or TARGETS:
        begun_s = time.monotonic()
        if options.engine == "atheris":
            finding = _by_atheris(name, options.seconds, folder)
        else:
            finding = _by_hypothesis(name, options.seconds, folder)
        spent = f"{name}, {options.engine}, {time.monotonic() - begun_s:.0f} s"
        if finding is None:
            print(f"{spent}: nothing found", flush=True)  # noqa: T201  # for people
            continue
        found = True
        print(f"{spent}: FOUND {finding}", flush=True)  # noqa: T201  # for people
        print(f"replay it with: tests/fuzz/run {name} --replay {finding}", flush=True)  # noqa: T201  # for people
    return int(found)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/fuzz/run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=600, help="per target (default: 600)")
    parser.add_argument("--engine", choices=ENGINES, default="atheris")
    parser.add_argument("--findings", type=Path, metavar="DIR", help="where inputs are kept (default: a new folder)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="only this input, without an engine")
    options = parser.parse_args(argv)
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"unknown target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if options.replay is not None and len(options.targets) != 1:
        parser.error("--replay needs one target")
    if options.replay is None and options.engine == "atheris" and find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install -e '.[node,dev,fuzz]', or --engine hypothesis")
    return options


def _by_atheris(name: str, seconds: int, folder: Path) -> Path | None:
    """In a process of its own: libFuzzer ends the one that it runs in."""
    with tempfile.TemporaryDirectory(prefix="vmport-fuzz-corpus-") as corpus:
        for number, seed in enumerate(TARGETS[name].seeds()):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        before = set(folder.iterdir())
        limits = [f"-max_total_time={seconds}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MIB}"]
        kept = [f"-artifact_prefix={folder}/{name}-", f"-max_len={MAX_INPUT_BYTES}", "-len_control=0"]
        call = [sys.executable, "-m", "tests.fuzz.by_atheris", name, *limits, *kept, "-print_final_stats=1", corpus]
        status = subprocess.run(call, check=False).returncode
        fresh = sorted(set(folder.iterdir()) - before)
    if fresh:
        return fresh[0]
    if status != 0:
        raise RuntimeError(f"atheris ended with {status} and left no input")
    return None


def _by_hypothesis(name: str, seconds: int, folder: Path) -> Path | None:
    target = TARGETS[name]
    finding = by_hypothesis.search(target.check, target.seeds(), seconds=seconds, hang_s=HANG_S)
    print(f"{name}: {finding.inputs} inputs", flush=True)  # noqa: T201  # for people
    if finding.data is None:
        return None
    path = folder / f"{name}-{hashlib.sha256(finding.data).hexdigest()[:16]}"
    path.write_bytes(finding.data)
    print(finding.trace, flush=True)  # noqa: T201  # for people
    return path


if __name__ == "__main__":
    sys.exit(main())
