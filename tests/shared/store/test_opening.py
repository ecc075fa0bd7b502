"""A store at a service's start."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.config import ConfigError
from shared.parties import BROKER
from shared.store import StoreSettings, StoreUnusable, open_store

# The thread of an aiosqlite connection that could not be opened may outlive the test's loop by a moment.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


async def test_it_is_open_while_the_block_runs(tmp_path: Path) -> None:
    """An empty file is as good as none."""
    file = tmp_path / "state.db"
    file.touch()
    async with open_store(StoreSettings(url=SecretStr(f"sqlite:///{file}")), BROKER) as store:
        await store.check()


@pytest.mark.parametrize(
    ("name", "reason"), [("letter", "is no SQLite database"), ("none/state.db", "cannot be opened"), ("", "a file")]
)
async def test_a_file_that_cannot_be_used_is_a_wrong_configuration(tmp_path: Path, name: str, reason: str) -> None:
    """The file is named, and what to do."""
    (tmp_path / "letter").write_text("a letter")
    place = tmp_path / name
    with pytest.raises(ConfigError, match=rf"^store\.url: {place}.* {reason}"):
        async with open_store(StoreSettings(url=SecretStr(f"sqlite:///{place}")), BROKER):
            raise AssertionError("there is nothing to use")


async def test_a_database_that_is_away_is_no_wrong_configuration(tmp_path: Path) -> None:
    """It may come back, so that another start must be tried."""
    with pytest.raises(StoreUnusable):
        async with open_store(StoreSettings(url=SecretStr(f"postgresql://me:x@/db?host={tmp_path}")), BROKER):
            raise AssertionError("there is nothing to use")
