from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.donor_agent.testing import make_agreement
from services.node_agent.lanes.core.seal import SealError
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.keys import LaneKeys, load_lane_keys
from services.node_agent.settings import DirectSection, TlsSection
from shared.certificates import issue, make_authority
from shared.messages.porting import ServiceChangeAgreement
from shared.page_stream.bodies import LaneRole
from shared.parties import node
from shared.testing import make_lane_endpoint

NOW = datetime.now(UTC)


async def made(directory: Path, **direct: object) -> LaneKeys:
    """A node's keys, made at its first start."""
    section = DirectSection.model_validate(direct)
    return await load_lane_keys(TlsSection(), section, name="node.alpha.alpha-1", state_dir=directory)


def agreement(donor: LaneKeys, recipient: LaneKeys) -> ServiceChangeAgreement:
    """An agreement that pins both."""
    return make_agreement(donor_lane=donor.endpoint, recipient_lane=recipient.endpoint)


async def test_made_once_and_kept(tmp_path: Path) -> None:
    """The first start makes key and certificate; the second finds the same. Only their owner reads the key."""
    first = await made(tmp_path, advertise=["a.example:7070"])
    assert await made(tmp_path, advertise=["a.example:7070"]) == first
    assert stat.S_IMODE(first.identity.key_file.stat().st_mode) == 0o600
    assert first.endpoint.direct == ("a.example:7070",)


async def test_half_made_is_made_again(tmp_path: Path) -> None:
    """A crash between the files leaves no pair that does not fit."""
    first = await made(tmp_path)
    first.identity.certificate_file.unlink()
    again = await made(tmp_path)
    assert again.endpoint.certificate != first.endpoint.certificate
    again.tls(agreement(again, again), LaneRole.INITIATOR)


async def test_given_files_are_used(tmp_path: Path) -> None:
    """The provider's own authority: what the settings name is what the node shows."""
    authority = make_authority("provider alpha", now=NOW)
    pair = issue("node.alpha.alpha-1", authority, now=NOW)
    files = {name: tmp_path / name for name in ("certificate_file", "key_file", "authority_file")}
    for file, text in zip(files.values(), (pair.certificate, pair.key, authority.certificate), strict=True):
        file.write_text(text)
    keys = await load_lane_keys(TlsSection(**files), DirectSection(), name="x", state_dir=tmp_path / "none")
    assert keys.endpoint == make_lane_endpoint(certificate=pair.certificate, authority=authority.certificate)
    assert not (tmp_path / "none").exists()


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    """A node says at its start that its certificate has expired, not in the middle of a port."""
    authority = make_authority("provider alpha", now=NOW)
    pair = issue("node.alpha.alpha-1", authority, now=NOW, days=-0)
    files = {name: tmp_path / name for name in ("certificate_file", "key_file", "authority_file")}
    for file, text in zip(files.values(), (pair.certificate, pair.key, authority.certificate), strict=True):
        file.write_text(text)
    with pytest.raises(ValueError, match="expired"):
        await load_lane_keys(TlsSection(**files), DirectSection(), name="x", state_dir=tmp_path)


def test_files_are_given_all_or_none() -> None:
    """A certificate without its key is a slip."""
    with pytest.raises(ValueError, match="or none"):
        TlsSection(certificate_file=Path("/x"))


async def test_an_agreement_about_somebody_else_is_refused(tmp_path: Path) -> None:
    """A node opens no lane under an agreement that pins another certificate for it."""
    mine, other = await made(tmp_path / "a"), await made(tmp_path / "b")
    with pytest.raises(SealError, match="for this node"):
        mine.tls(agreement(other, mine), LaneRole.INITIATOR)


async def test_a_known_authority_outweighs_the_agreement(tmp_path: Path) -> None:
    """Who knows a provider's authority otherwise does not take another one from the broker."""
    mine, other = await made(tmp_path / "a"), await made(tmp_path / "b")
    fixed = agreement(mine, other)
    known = LaneKeys(mine.identity, mine.endpoint, {fixed.recipient: other.endpoint.authority})
    known.tls(fixed, LaneRole.INITIATOR)
    doubting = LaneKeys(mine.identity, mine.endpoint, {fixed.recipient: mine.endpoint.authority})
    with pytest.raises(SealError, match="another authority"):
        doubting.tls(fixed, LaneRole.INITIATOR)


HERE, THERE = make_lane_endpoint(direct=("here:1",)), make_lane_endpoint(direct=("there:1",))
NOWHERE = make_lane_endpoint()


@pytest.mark.parametrize(
    ("donor", "recipient", "donor_connects", "recipient_connects"),
    [
        (NOWHERE, NOWHERE, (), ()),
        (HERE, THERE, THERE.direct, ()),
        (NOWHERE, THERE, THERE.direct, ()),
        (HERE, NOWHERE, (), HERE.direct),
    ],
)
def test_one_end_connects(
    donor: object, recipient: object, donor_connects: tuple[str, ...], recipient_connects: tuple[str, ...]
) -> None:
    """Exactly one end connects where either can be reached, and the other one expects it."""
    fixed = make_agreement(donor_lane=donor, recipient_lane=recipient)
    ends = [LaneEnd(fixed, role) for role in (LaneRole.INITIATOR, LaneRole.ACCEPTOR)]
    assert [end.connects_to for end in ends] == [donor_connects, recipient_connects]
    assert [end.is_connected_to for end in ends] == [bool(recipient_connects), bool(donor_connects)]
    assert ends[0].peer == node("beta", "beta-1")
    assert ends[1].peer == node("alpha", "alpha-1")
