"""What the demo proves and reports."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.labkit.connection_report import EchoReport, KindReport, Report, Silence
from deploy.labkit.connections import KINDS
from deploy.labkit.demo import Proof, Snapshot, parser, port_options, proofs, summary
from deploy.labkit.disk_compare import Comparison
from deploy.labkit.echo_probe import Seen
from deploy.labkit.network import LinkBytes
from deploy.labkit.port_run import PhaseTime, PortRun, phase_times
from shared.messages.network import NetworkMode

UUID = "51822974-d710-4fa1-8163-83b4fd1ccd7b"
MAC = "52:54:00:00:00:01"
SAME = Comparison(compared_bytes=2 << 30, rewritten_blocks=3, differences=())


def _report(**changed: Any) -> dict[str, Any]:
    report = {
        "boot_id": "b",
        "uptime_s": 20.0,
        "uuid": UUID,
        "mac": MAC,
        "mismatches": 0,
        "page_checks": 5,
        "block_checks": 1,
        "service_requests": 0,
    }
    return {**report, **changed}


def _snapshot(provider: str, **changed: Any) -> Snapshot:
    return Snapshot(provider, _report(**changed), "ab" * 32, UUID, (MAC,), Path("disk.raw"))


def _run(**changed: Any) -> PortRun:
    sla = {"measured_total_s": 12.5, "measured_downtime_ms": 210, "measured_outage_ms": 240}
    result = {"port_id": "p", "outcome": "completed", "sla": sla, "memory_bytes": 10, "disk_bytes": 20, **changed}
    return PortRun("p", result["outcome"], result, {}, Seen(100, 90, 250.0, 5.0, 40), LinkBytes(300, 30))


def _failing(found: list[Proof]) -> list[str]:
    return [proof.name for proof in found if not proof.holds]


def _proofs(
    after: Snapshot, *, last: dict[str, Any] | None = None, comparison: Comparison = SAME, at_donor: str | None = None
) -> list[Proof]:
    last = _report(uptime_s=40.0) if last is None else last
    return proofs(_snapshot("alpha"), after, last=last, comparison=comparison, at_donor=at_donor, done=_run())


def test_a_good_port_proves_everything() -> None:
    """Nothing is left unproved when all is as promised."""
    assert _failing(_proofs(_snapshot("beta", uptime_s=30.0))) == []


@pytest.mark.parametrize(
    ("after", "name"),
    [
        (_snapshot("alpha"), "runs at beta"),
        (_snapshot("beta", boot_id="other"), "same boot"),
        (_snapshot("beta", uuid="other"), "UUID kept"),
        (_snapshot("beta", mac="other"), "MAC kept"),
        (replace(_snapshot("beta"), disk_sha256="cd" * 32), "same static data, read by the guest"),
    ],
)
def test_a_changed_identity_is_not_proved(after: Snapshot, name: str) -> None:
    """Each part of the identity is a proof of its own."""
    assert _failing(_proofs(after)) == [name]


def test_what_is_found_after_the_port_counts() -> None:
    """A reboot, a mismatch, a differing disk and a domain left at the donor each fail their proof."""
    beta = _snapshot("beta")
    assert _failing(_proofs(beta, last=_report(uptime_s=3.0))) == ["uptime goes on"]
    assert _failing(_proofs(beta, last=_report(uptime_s=40.0, mismatches=1))) == ["no mismatch"]
    assert _failing(_proofs(beta, comparison=replace(SAME, differences=(0,)))) == ["disk identical"]
    assert _failing(_proofs(beta, at_donor="shut off")) == ["donor no longer has it"]


def _fared(*, lost: int = 0) -> Report:
    kinds = {kind: KindReport(count, count, 9, 310.0) for kind, count in KINDS.items()}
    kinds["http"] = replace(kinds["http"], kept=30 - lost, errors=("ipv6: the guest closed it",) * bool(lost))
    udp = {"ipv4": EchoReport(100, 90, 250.0, 1000.25), "ipv6": EchoReport(100, 90, 260.0, 1000.26)}
    return Report(50, 50 - lost, kinds, udp)


def test_every_connection_must_be_kept() -> None:
    """One that is lost fails the proof, which says of which family and why."""
    before, after = _snapshot("alpha"), _snapshot("beta", uptime_s=30.0)
    last = _report(uptime_s=40.0)
    for lost, failing in ((0, []), (1, ["connections kept"])):
        done = replace(_run(), connections=_fared(lost=lost))
        found = proofs(before, after, last=last, comparison=SAME, at_donor=None, done=done)
        assert _failing(found) == failing
    assert found[-1].found == "49 of 50; ipv6: the guest closed it"


def test_the_summary_says_how_connections_fared() -> None:
    """Counts, the longest gap per kind, and the outage of UDP per family."""
    found = summary(replace(_run(), connections=_fared()), [], None, parser().parse_args(["--network", "extend"]))
    assert (found["connections"], found["connections_kept"], found["network"]) == (50, 50, "extend")
    assert found["connection_kinds"]["idle"]["longest_gap_ms"] == 310.0
    assert found["udp_outage_ms"] == {"ipv4": 250.0, "ipv6": 260.0}
    assert found["udp_answered_again_at"] == {"ipv4": 1000.25, "ipv6": 1000.26}


def test_the_switchover_has_an_outage_of_its_own() -> None:
    """A longer silence at another time is none of its; the guest's own downtime is taken off."""
    at = "1970-01-01T00:16:{:02}+00:00"
    phases = ((30, "transferring"), (41, "switching"), (42, "finishing"), (43, "completed"))
    record = {"events": [{"at": at.format(second), "phase": phase} for second, phase in phases]}
    silences = (Silence(985.0, 986.4, 1400.0), Silence(1000.8, 1001.3, 500.0), Silence(1002.1, 1002.2, 95.0))
    udp = {"ipv4": EchoReport(9, 8, 1400.0, 986.4, silences), "ipv6": EchoReport(9, 8, 0.0, None)}
    done = replace(_run(), record=record, connections=replace(_fared(), udp=udp))
    found = summary(done, [], None, parser().parse_args([]))
    assert found["switchover_outage_ms"] == {"ipv4": 500.0, "ipv6": 0.0}
    assert found["beyond_downtime_ms"] == {"ipv4": 290.0, "ipv6": -210.0}
    for without in (replace(done, record={}), replace(done, connections=None)):
        assert summary(without, [], None, parser().parse_args([]))["beyond_downtime_ms"] == {}


def test_only_a_routed_lab_asks_for_a_mode() -> None:
    """In a joined one the port is asked for as ever."""
    assert port_options(NetworkMode.JOINED) == ()
    assert port_options(NetworkMode.ANNOUNCE) == ("--network-mode", "announce")


def test_the_summary_has_what_the_issue_asks_for() -> None:
    """At least these keys, with the link's own count of bytes."""
    arguments = parser().parse_args(["--link", "100mbit", "--rtt", "20ms"])
    found = summary(_run(), _proofs(_snapshot("beta", uptime_s=30.0)), SAME, arguments)
    expected = {
        "port_id": "p",
        "outcome": "completed",
        "total_s": 12.5,
        "downtime_ms": 210,
        "outage_ms": 250.0,
        "measured_outage_ms": 240,
        "wire_bytes": 330,
        "memory_bytes": 10,
        "disk_bytes": 20,
        "mismatches": 0,
        "disk_identical": True,
        "proved": True,
        "link": "100mbit",
        "rtt": "20ms",
    }
    assert expected.items() <= found.items()


def test_a_failed_port_is_reported_and_proves_nothing() -> None:
    """The outcome and the reason are there; what was not measured is null."""
    failed = _run(outcome="failed", sla=None, detail="no room")
    found = summary(failed, [], None, parser().parse_args([]))
    assert (found["outcome"], found["detail"], found["proved"]) == ("failed", "no room", False)
    assert found["mismatches"] is found["disk_identical"] is found["downtime_ms"] is None


def test_phases_split_the_transfer_by_what_it_moves() -> None:
    """Times come from the record; within the transfer, from the node's progress; late progress changes nothing."""
    at = "2026-01-01T00:00:{:06.3f}+00:00"
    record = {
        "events": [
            {"at": at.format(0), "phase": "approval"},
            {"at": at.format(1), "phase": "approval"},
            {"at": at.format(2), "phase": "transferring"},
            {"at": at.format(8), "phase": "transferring"},
            {"at": at.format(10), "phase": "switching"},
            {"at": at.format(11), "phase": "completed"},
        ]
    }
    progress = [(3, "disk"), (5, "disk"), (7, "memory"), (10.5, "switchover")]
    events = [
        {"type": "PortProgressed", "time": at.format(second), "data": {"phase": phase}} for second, phase in progress
    ]
    assert phase_times(record, events) == [
        PhaseTime("approval", 2.0),
        PhaseTime("transferring", 1.0),
        PhaseTime("transferring: disk", 4.0),
        PhaseTime("transferring: memory", 3.0),
        PhaseTime("switching", 1.0),
    ]
