"""What VMs brought with them by ports is known where they are now."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.kept import KeptAddresses
from services.recipient_agent.testing import MAC
from shared.messages.network import CardAddress, CardNetwork, CardPlan, NetworkPlan, NetworkTerms
from shared.messages.porting import Side
from tests.support.transfer_pair import DOMAIN, make_agreement

VM = UUID(int=7)


def brought(
    tmp_path: Path, address: str, *, epoch: int, side: Side = Side.INBOUND, there: bool = True
) -> NetworkRecord:
    """A port's record, whose VM has this address."""
    card = CardNetwork(mac=MAC, addresses=(CardAddress(address=address),), segment="home")
    plan = NetworkPlan(
        terms=NetworkTerms.model_validate({"carry": "extend"}),
        cards=(CardPlan(card=card, bridge="vmp0123456789a0"),),
    )
    agreement = make_agreement(tmp_path / "x.raw", domain_xml=DOMAIN % "/x.raw")
    changes = {"network": plan, "epoch": epoch, "vm_uuid": VM, "port_id": UUID(int=epoch)}
    return NetworkRecord(side=side, agreement=agreement.model_copy(update=changes), there=there)


def test_the_newest_port_that_brought_the_vm_counts(tmp_path: Path) -> None:
    """Not one that has not arrived, nor one by which it left; before the first there is nothing."""
    journal = NetworkJournal(tmp_path / "network")
    kept = KeptAddresses(journal)
    assert kept.by_vm() == {}
    for record in (
        brought(tmp_path, "192.0.2.2", epoch=2),
        brought(tmp_path, "192.0.2.4", epoch=4),
        brought(tmp_path, "192.0.2.3", epoch=3, side=Side.OUTBOUND),
        brought(tmp_path, "192.0.2.9", epoch=9, there=False),
    ):
        journal.store(record)
    ((uuid, found),) = kept.by_vm().items()
    (card,) = found.cards
    assert (uuid, card.addresses[0].address, card.segment) == (VM, "192.0.2.4", "home")


@pytest.mark.parametrize(
    ("carry", "changes", "helped"),
    [
        ("extend", {}, True),
        ("translate", {}, True),
        ("extend", {"announced": True}, False),
        ("extend", {"closed": True}, False),
        ("anchor", {}, False),
    ],
)
def test_who_helps_with_its_addresses(tmp_path: Path, carry: str, changes: dict[str, bool], *, helped: bool) -> None:
    """The donor, until they are announced here, or its help has ended."""
    journal = NetworkJournal(tmp_path / "network")
    record = brought(tmp_path, "192.0.2.2", epoch=2)
    plan = record.plan.model_copy(update={"terms": NetworkTerms.model_validate({"carry": carry})})
    agreement = record.agreement.model_copy(update={"network": plan})
    journal.store(record.model_copy(update={**changes, "agreement": agreement}))
    (found,) = KeptAddresses(journal).by_vm().values()
    assert found.helped_by == (agreement.donor if helped else "")
