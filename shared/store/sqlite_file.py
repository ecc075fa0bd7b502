"""SQLite's file: why it can be no database for us, and what a person can do about it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

_NO_DATABASE = (
    "{file} is no SQLite database: name another file in the URL, or move this one away and a new database is made"
)
_NOT_WRITABLE = "{file} cannot be written: SQLite needs the right to write the file and its directory"
_LASTING = {
    sqlite3.SQLITE_NOTADB: _NO_DATABASE,
    sqlite3.SQLITE_CORRUPT: "{file} is damaged: put a backup of it in its place",
    sqlite3.SQLITE_CANTOPEN: "{file} cannot be opened: the URL must name a file, in a directory that is there and "
    "that this user may write",
    sqlite3.SQLITE_READONLY: _NOT_WRITABLE,
    sqlite3.SQLITE_PERM: _NOT_WRITABLE,
}
"""By SQLite's primary result code. A file that is locked, or a disk that is full, may be usable at the next try."""


def lasting_problem(error: BaseException | None, file: str) -> str | None:
    """Why the file stays unusable until a person acts; None where another try may help, or for another error."""
    code = getattr(error, "sqlite_errorcode", None)
    text = _LASTING.get(code & 0xFF) if isinstance(code, int) else None
    return text.format(file=file) if text else None


def no_database(file: Path) -> str | None:
    """Why a file that exists is no database, as far as one sees without changing anything."""
    # Immutable: else SQLite makes files beside it, which would be those of whoever looks. What it then calls damaged
    # may be whole with the log beside it, so that only the file's header is judged.
    try:
        database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            database.execute("PRAGMA schema_version").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            return lasting_problem(error, str(file))
    return None
