"""Noise is told from what compresses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from services.node_agent.page_codec.memory.incompressible import is_incompressible


def test_random_pages_are_noise_and_programs_are_not() -> None:
    """Nearly all of either kind; text and zeros never."""
    random = np.random.default_rng(1).integers(0, 256, (500, 4096), dtype=np.uint8)
    assert is_incompressible(random).mean() > 0.99
    code = np.frombuffer(Path(sys.executable).read_bytes()[: 500 * 4096], dtype=np.uint8)
    assert is_incompressible(code[: len(code) // 4096 * 4096].reshape(-1, 4096)).mean() < 0.1
    text = np.frombuffer((b"a line of text, with words in it\n" * 125)[:4096], dtype=np.uint8)
    assert not is_incompressible(np.stack([text, np.zeros(4096, dtype=np.uint8)])).any()
