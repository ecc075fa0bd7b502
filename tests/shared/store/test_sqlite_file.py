"""What is said of SQLite's file, without touching it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from shared.store.sqlite_file import lasting_problem, no_database


def test_looking_at_a_file_makes_none(tmp_path: Path) -> None:
    """Whoever looks may be root: a file of theirs beside the database would lock its owner out."""
    file = tmp_path / "state.db"
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE t (x)")
    database.close()
    assert no_database(file) is None
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_cut_short_is_left_to_the_start(tmp_path: Path) -> None:
    """After a loss of power its log may make it whole, so that the check must not keep the service from its start."""
    file = tmp_path / "state.db"
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE t (x)")
    database.close()
    file.write_bytes(file.read_bytes()[:4000])
    assert no_database(file) is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sqlite3.SQLITE_NOTADB, "/x.db is no SQLite database"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "/x.db is damaged"),
        (sqlite3.SQLITE_READONLY, "/x.db cannot be written"),
        (sqlite3.SQLITE_BUSY, None),
        (sqlite3.SQLITE_FULL, None),
    ],
)
def test_only_what_a_person_must_mend_lasts(code: int, said: str | None) -> None:
    """A lock or a full disk may be gone at the next try."""
    error = sqlite3.OperationalError()
    error.sqlite_errorcode = code
    found = lasting_problem(error, "/x.db")
    assert found is None if said is None else (found or "").startswith(said)
