"""pydantic's findings in vmport's words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared.config_phrases import in_words


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    whole: int = 0
    some: Annotated[float, Field(gt=1, le=9)] = 2
    few: Annotated[int, Field(ge=1, lt=5)] = 1
    yes: bool = True
    text: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    shaped: Annotated[str, Field(pattern="^a+$")] = "a"
    one_of: Literal["a", "b"] = "a"
    names: Annotated[tuple[str, ...], Field(max_length=1)] = ()
    inner: Table | None = None
    entries: dict[str, int] = {}
    file: Path = Path()
    id: UUID | None = None
    own: int = 0

    @field_validator("own")
    @classmethod
    def _own(cls, value: int) -> int:
        if value:
            raise ValueError("has words of its own")
        return value


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("whole", "many", "expected a whole number"),
        ("whole", 1.5, "expected a whole number"),
        ("some", "x", "expected a number"),
        ("some", 1, "expected more than 1.0"),
        ("some", 10, "expected at most 9.0"),
        ("few", 0, "expected at least 1"),
        ("few", 5, "expected less than 5"),
        ("yes", "perhaps", "expected true or false"),
        ("text", 1, "expected text"),
        ("text", "a", "expected at least 2 characters"),
        ("text", "abcd", "expected at most 3 characters"),
        ("shaped", "b", "expected text that matches ^a+$"),
        ("one_of", "c", "expected 'a' or 'b'"),
        ("names", "a", "expected a list"),
        ("names", ["a", "b"], "expected at most 1 entries"),
        ("inner", 1, "expected a table"),
        ("entries", 1, "expected a table"),
        ("file", 1, "expected a path"),
        ("id", "x", "expected a UUID"),
        ("own", 1, "has words of its own"),
        ("surprise", 1, "is no setting; see --print-config for all of them"),
    ],
)
def test_phrases(key: str, value: Any, expected: str) -> None:
    """What is allowed, in words that fit behind a key."""
    with pytest.raises(ValidationError) as caught:
        Table.model_validate({key: value})
    (finding,) = caught.value.errors()
    assert in_words(finding) == expected


def test_other_files_have_other_phrases() -> None:
    """A policy has no --print-config."""
    with pytest.raises(ValidationError) as caught:
        Table.model_validate({"surprise": 1})
    assert in_words(caught.value.errors()[0], others={"extra_forbidden": "is no key"}) == "is no key"
