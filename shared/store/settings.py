"""The ``[store]`` section of every service that keeps state."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from shared.config import Section
from shared.config_files import Finding, not_appendable
from shared.store.engine import StoreUnusable, async_url
from shared.store.sqlite_file import no_database


class StoreSettings(Section):
    """Where durable state lies and how long its traces are kept."""

    url: SecretStr = Field(
        description="sqlite:////absolute/path/file.db, or postgresql://user:password@host/database.",
        examples=["sqlite:////var/lib/vmport/state.db"],
    )
    keep_inbox_days: float = Field(
        default=14,
        gt=0,
        le=36_500,
        description="How long ids of handled messages are remembered, to recognise duplicates.",
    )
    keep_sent_hours: float = Field(
        default=24, gt=0, le=876_000, description="How long published messages stay in the outbox table."
    )
    give_up_days: float = Field(
        default=7,
        gt=0,
        le=3650,
        description="An outgoing message that could not be delivered for so long is dropped with an error in the log.",
    )

    def problems(self) -> list[Finding]:
        """Besides what the section's paths need: SQLite makes its file, not the directory around it, and takes over
        no file of another kind.
        """
        found = super().problems()
        url = async_url(self.url.get_secret_value())
        if url.get_backend_name() == "sqlite" and url.database:
            file = Path(url.database)
            why = not_appendable(file) or (no_database(file) if file.exists() else None)
            if why is not None:
                found.append(Finding(("url",), why))
        return found

    @field_validator("url")
    @classmethod
    def _usable(cls, value: SecretStr) -> SecretStr:
        try:
            async_url(value.get_secret_value())
        except StoreUnusable as error:
            raise ValueError(error.reason) from error
        return value
