"""Network terms in a few words."""

from __future__ import annotations

from typing import Any

import pytest

from shared.client.limits import NetworkChoice
from shared.client.network_words import MODES_HELP, TAKEN_AS_ONE, days_text, short_terms, terms_text
from shared.messages.network import NetworkMode, NetworkTerms


@pytest.mark.parametrize(
    ("terms", "short", "text"),
    [
        (None, "as one", TAKEN_AS_ONE),
        ({"carry": "joined"}, "joined", "joined: joined networks"),
        (
            {"carry": "extend", "then_announce": True, "ends_after_s": 2592000, "price": "5.00"},
            "extend, announce",
            (
                "extend: an extension of the donor's network; then announced by the recipient; "
                "for 30 days after the port; 5.00 EUR for that time"
            ),
        ),
        ({"carry": "anchor"}, "anchor", "anchor: gateways of a neutral prefix"),
    ],
)
def test_terms(terms: dict[str, Any] | None, short: str, text: str) -> None:
    """For a column, and for a line."""
    value = None if terms is None else NetworkTerms.model_validate(terms)
    assert (short_terms(value), terms_text(value, "EUR")) == (short, text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(2592000, "30 days"), (129600, "36 hours"), (90, "90 s"), (150, "2.5 minutes")]
)
def test_times(seconds: float, text: str) -> None:
    """In the largest unit of which there are at least two."""
    assert days_text(seconds) == text


def test_the_help_names_every_mode() -> None:
    """And the command line takes all of them."""
    assert [mode.value for mode in NetworkMode] == [choice.value for choice in NetworkChoice][1:]
    assert all(choice.value in MODES_HELP for choice in NetworkChoice)
