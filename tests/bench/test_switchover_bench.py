"""tests/bench/switchover: its command line, its figures, and a short cut of it on real servers."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from shared.messages import open_envelope
from shared.messages.porting import GuestPaused, RequestSwitchover
from tests.bench.switchover_bench import words
from tests.bench.switchover_bench.__main__ import main, parse
from tests.bench.switchover_bench.figures import CpuMeter, percentile
from tests.bench.switchover_bench.players import DONOR_NODE, RECIPIENTS, node_of


def test_command_line() -> None:
    """Defaults are those of the promise: 100 ports, one broker."""
    options = parse([])
    assert (options.ports, options.ledger, options.brokers, options.json) == (100, "sqlite", 1, None)


@pytest.mark.parametrize("arguments", [["--ports", "0"], ["--brokers", "2"], ["--ledger", "mysql"]])
def test_wrong_usage(arguments: list[str]) -> None:
    """What cannot be measured ends with code 2."""
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2


def test_percentiles() -> None:
    """Of the values themselves, none invented between them."""
    assert percentile(range(1, 101), 0.5) == 51
    assert percentile(range(1, 101), 0.99) == 100
    assert percentile([7], 0.99) == 7
    assert math.isnan(percentile([], 0.5))


def test_cpu_meter_counts_this_process() -> None:
    """A process that works is seen to."""
    meter = CpuMeter(lambda: {"this": [os.getpid()], "gone": [2**22 + 1]})
    sum(index * index for index in range(300_000))
    cores = meter.read()
    assert cores["this"] > 0
    assert cores["gone"] == 0


def test_phrases_are_messages() -> None:
    """What a player says is read by everybody, and is about the port and the VM that were filled in."""
    host = node_of(RECIPIENTS[0])
    for sender, message in (
        (DONOR_NODE, GuestPaused(port_id=words.PORT, vm_uuid=words.VM, epoch=2)),
        (host, RequestSwitchover(port_id=words.PORT, vm_uuid=words.VM, epoch=2)),
    ):
        port, vm = uuid4(), uuid4()
        now = datetime.now(UTC)
        envelope = open_envelope(words.Phrase(sender, message).body(port, vm, uuid4(), now))
        assert envelope.sender == sender
        assert envelope.correlationid == port
        assert envelope.time == now
        assert not envelope.expired(now)
        assert envelope.data == type(message)(port_id=port, vm_uuid=vm, epoch=2)


@pytest.mark.servers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ledger", ["sqlite", "postgresql"])
def test_short_cut(tmp_path: Path, ledger: str) -> None:
    """A few ports run to their end on real servers, each with a grant. No time is asserted here."""
    found = tmp_path / "figures.json"
    few = ["--ports", "4", "--grants", "6", "--warm-up", "2", "--transfer", "0.5"]
    assert main([*few, "--ledger", ledger, "--json", str(found)]) == 0
    figures = json.loads(found.read_text())
    assert set(figures["ends"]) == {"completed"}
    assert figures["grants"] > 0
    assert figures["p50_ms"] > 0
