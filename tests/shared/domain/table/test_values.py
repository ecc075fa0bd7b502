"""What a kind of value accepts."""

from __future__ import annotations

import pytest

from shared.domain.table.values import KINDS, kind_of


@pytest.mark.parametrize(
    "name", [kind.name for kind in KINDS.values() if kind.carried and kind.name not in ("line", "text")]
)
@pytest.mark.parametrize("value", ["/etc/shadow", "etc/shadow", "../x", "a\nb", "unix:///run/x", "x\u0000"])
def test_what_is_carried_names_nothing_of_a_host(name: str, value: str) -> None:
    """No path or address can be written in a value that is carried, but as text that only people and guests read."""
    assert not KINDS[name].accepts(value)


def test_one_of_some_words() -> None:
    """A row may list the words that are carried."""
    kind = kind_of("=yes|no")
    assert kind is not None
    assert [kind.accepts(value) for value in ("yes", "no", "yes|no", "on")] == [True, True, False, False]
    assert kind_of("nothing") is None
