"""Memory that is not used any more goes back to the host."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import threading
from pathlib import Path
from services.node_agent.malloc import trim, use_one_arena

PIECES, PIECE_BYTES = 20_000, 2_000
last = []

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def work():
    pieces = [bytes(PIECE_BYTES) for _ in range(PIECES)]
    last.append(bytes(PIECE_BYTES))  # stays, above all the others

use_one_arena()
trim()
before = resident_bytes()
thread = threading.Thread(target=work)
thread.start()
thread.join()
trim()
print((resident_bytes() - before) / (PIECES * PIECE_BYTES))
"""


def test_what_a_thread_used_is_given_back() -> None:
    """All but a little of 40 MB, although something that came last stays."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60)
    assert float(done.stdout) < 0.3
