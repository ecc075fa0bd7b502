"""The ``[store]`` section."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import SecretStr, ValidationError

from shared.store import RelayPolicy, StoreSettings


def test_the_policy_of_the_relay_is_as_set() -> None:
    """Days and hours become durations."""
    settings = StoreSettings(url=SecretStr("sqlite:////x.db"), keep_inbox_days=2, keep_sent_hours=3, give_up_days=0.5)
    policy = RelayPolicy.from_settings(settings)
    assert (policy.keep_inbox, policy.keep_sent) == (timedelta(days=2), timedelta(hours=3))
    assert policy.give_up_after == timedelta(hours=12)


@pytest.mark.parametrize("url", ["sqlite://", "mysql://me:secret@host/db", "nonsense"])
def test_an_unusable_url_is_refused_at_once(url: str) -> None:
    """Before anything connects; the reason does not repeat the password."""
    with pytest.raises(ValidationError) as caught:
        StoreSettings(url=SecretStr(url))
    assert "secret" not in str(caught.value)
