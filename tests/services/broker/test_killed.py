"""A broker that is killed at each of its transitions in turn never loses a port: the stories are `killed_stories`.

They run in a process of their own. A broker that dies in the middle of a statement leaves connections to the collector,
as a killed process leaves them to its host; in this process some later test would be blamed for them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STORIES = Path(__file__).with_name("killed_stories.py")


@pytest.mark.timeout(900)  # three stories of a hundred lives each
@pytest.mark.parametrize("ledger", ["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def test_no_port_is_lost(ledger: str, pytestconfig: pytest.Config) -> None:
    """On each way that a port can go, wherever the broker dies."""
    arguments = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestUnraisableExceptionWarning", "-k", ledger]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, str(STORIES)],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "3 passed" in done.stdout
