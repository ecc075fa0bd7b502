"""`tests/run`: which of its ways needs root and installs, and which works for anybody."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


class Checkout:
    """A checkout whose tools only note that they were called."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.called = folder / "called"
        for name in ("tests", "deploy", ".venv/bin", "bin"):
            (self.root / name).mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "run", self.root / "tests" / "run")
        tools = ("ruff", "mypy", "lint-imports", "codespell", "python", "vmport", "zensical")
        for name in ("deploy/venv", "deploy/bootstrap", *(f".venv/bin/{tool}" for tool in tools)):
            self._stub(name, f'echo "{name} $*" >>"{self.called}"')
        # Whoever runs these tests, the script is run by nobody.
        self._stub("bin/id", f"echo {NOBODY}")

    def _stub(self, name: str, body: str) -> None:
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it."""
        environment = {**os.environ, "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(
            [self.root / "tests" / "run", *arguments], env=environment, capture_output=True, text=True, check=False
        )

    def calls(self) -> list[str]:
        """What was called, with its arguments."""
        return self.called.read_text().splitlines() if self.called.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """One of its own."""
    return Checkout(tmp_path)


@pytest.mark.parametrize("way", ["--quick", "--lint"])
def test_the_quick_ways_need_no_root_and_install_nothing_on_the_machine(checkout: Checkout, way: str) -> None:
    """They make .venv, and call nothing that only Debian or root has."""
    done = checkout.run(way)
    calls = checkout.calls()
    assert "deploy/venv " in calls
    assert not [call for call in calls if call.startswith("deploy/bootstrap")]
    tests = [call for call in calls if "pytest" in call]
    assert [call for call in tests if "not servers and not lab" in call] == tests
    assert bool(tests) is (way == "--quick")
    assert "needs root" not in done.stdout + done.stderr
    assert "== summary" in done.stdout


def test_the_whole_run_says_that_it_needs_root(checkout: Checkout) -> None:
    """And names the way that does not."""
    done = checkout.run()
    assert done.returncode == 1
    assert done.stderr == "tests/run: needs root; tests/run --quick does not\n"
    assert checkout.calls() == []


@pytest.mark.parametrize(("way", "status"), [("--help", 0), ("--nonsense", 2)])
def test_help_is_printed_and_nothing_done(checkout: Checkout, way: str, status: int) -> None:
    """Also for a way that there is not."""
    done = checkout.run(way)
    assert done.returncode == status
    assert "tests/run --quick" in done.stdout
    assert checkout.calls() == []
