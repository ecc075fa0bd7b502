"""Figures and tables as people read them."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from shared.client.render import human_bytes, human_seconds, json_text, show


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (512 * 2**20, "512 MiB"),
        (2**31, "2 GiB"),
        (2**31 + 2**30 // 2, "2.5 GiB"),
        (2**63, "8192 PiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    """Binary units, few digits."""
    assert human_bytes(count) == text


@given(st.integers(0, 2**63))
def test_any_number_of_bytes_is_short(count: int) -> None:
    """No figure is longer than a column expects."""
    assert len(human_bytes(count)) <= 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (185, "3 min 05 s"),
        (3600, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    """Durations in the two units that matter."""
    assert human_seconds(seconds) == text


def test_ndjson_is_one_line() -> None:
    """A compact document has no line break, whatever its text holds."""
    value = {"detail": "two\nlines", "n": 1}

    assert "\n" not in json_text(value, compact=True)
    assert json.loads(json_text(value, compact=True)) == json.loads(json_text(value)) == value


def test_tables_are_not_cut_on_a_pipe() -> None:
    """Into a pipe a long value is written whole."""
    out = io.StringIO()
    table = Table("ID")
    table.add_row("x" * 150)

    show(Console(file=out), table)
    assert "x" * 150 in out.getvalue()
