"""How a VM's addresses are shown to people."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from shared.client.network_tables import network_tables
from shared.client.render import show
from shared.messages.addresses import NetworkShown
from shared.messages.network import CardNetwork
from tests.support.broker_samples import plan
from tests.support.scripted_broker import NOW, PORT, WEB


def shown(**changes: Any) -> str:
    """The tables as text."""
    facts = {
        "port_id": PORT,
        "vm_uuid": WEB.uuid,
        "vm_name": "web",
        "provider": "beta",
        "epoch": 2,
        "plan": plan("extend"),
    }
    written = io.StringIO()
    console = Console(file=written, width=240)
    show(console, *network_tables(NetworkShown.model_validate(facts | changes)))
    return written.getvalue()


@pytest.mark.parametrize(
    ("extension", "says"),
    [
        (None, None),
        ({"state": "open", "since": NOW}, "until somebody ends it"),
        ({"state": "ending", "since": NOW, "reason": "its time is up"}, "ending: its time is up"),
    ],
)
def test_the_donors_help(extension: dict[str, Any] | None, says: str | None) -> None:
    """Whether it is there, until when, and why it ends."""
    text = shown(extension=extension)
    assert ("donor's help" in text) is (extension is not None)
    assert says is None or says in text


def test_findings_are_shown() -> None:
    """What was not kept, and why; nothing where all sources agree."""
    assert "differed" not in shown()
    text = shown(findings=("52:54:00:00:00:01: 192.0.2.9 (guest) is not kept: it is not declared",))
    assert "where the sources of addresses differed" in text
    assert "192.0.2.9 (guest) is not kept" in text


def test_a_card_whose_addresses_nobody_knows() -> None:
    """It is there all the same."""
    planned = plan("joined")
    card = planned.cards[0].model_copy(update={"card": CardNetwork(mac="52:54:00:00:00:01")})
    text = shown(plan=planned.model_copy(update={"cards": (card,)}))
    assert "52:54:00:00:00:01" in text
    assert "unknown" in text
