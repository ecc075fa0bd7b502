"""What tests/bench/wan plans, counts and prints, without a lab."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from services.node_agent.page_codec.hello import Technique as CodecTechnique
from services.node_agent.settings import NodeSettings
from shared.config import load
from tests.bench.wan_bench import report
from tests.bench.wan_bench.__main__ import Results, open_results, steps
from tests.bench.wan_bench.guest import writer_pages_per_s
from tests.bench.wan_bench.options import Options, parse
from tests.bench.wan_bench.plots import draw_all
from tests.bench.wan_bench.rows import Row, best_stock, ratio, read_rows, summaries, write_rows
from tests.bench.wan_bench.stock import bytes_by_kind
from tests.bench.wan_bench.variants import (
    TECHNIQUES,
    VARIANTS,
    System,
    UnknownName,
    absent,
    find_variants,
    overrides,
)
from tests.bench.wan_bench.vmport_run import byte_counters, route_fault

ISSUE_FIELDS = {
    "system",
    "variant",
    "workload",
    "run",
    "wire_bytes",
    "total_s",
    "downtime_ms",
    "outage_ms",
    "mismatches",
    "disk_identical",
}


def _row(variant: str = "plain", run: int = 1, **changed: Any) -> Row:
    system = "vmport" if variant.startswith(("relay", "direct")) else "stock"
    facts: dict[str, Any] = {
        "workload": "idle",
        "outcome": "completed",
        "wire_bytes": 100_000_000 + run,
        "total_s": 40.0 + run,
        "downtime_ms": 300.0,
        "outage_ms": 400.0,
        "mismatches": 0,
        "disk_identical": True,
    }
    return Row(system=system, variant=variant, run=run, **{**facts, **changed})


def _options(tmp_path: Path, *words: str) -> Options:
    return parse(["--out", str(tmp_path / "out"), *words])


def test_runs_are_interleaved_and_only_of_variants_that_are_there(tmp_path: Path) -> None:
    """Each round has every variant of every workload once; a variant that is absent has a reason and no run."""
    planned = steps(_options(tmp_path, "--runs", "2", "--workloads", "idle,writer"))
    there = [variant for variant in VARIANTS if absent(variant) is None]
    assert len(planned) == len({step.key() for step in planned}) == 2 * 2 * len(there)
    assert {step.run for step in planned[: 2 * len(there)]} == {1}
    assert all(absent(variant) for variant in VARIANTS if variant not in there)


def test_quick_is_one_run_each_of_two_variants_and_may_be_narrowed(tmp_path: Path) -> None:
    """--quick sets other defaults; what is given by itself is kept."""
    quick = _options(tmp_path, "--quick")
    assert (quick.workloads, [variant.name for variant in quick.variants], quick.runs) == (
        ("idle",),
        ["direct-cold", "direct-base"],
        1,
    )
    assert _options(tmp_path, "--quick", "--runs", "2", "--variants", "direct-cold").runs == 2


def test_ablation_adds_each_technique_by_itself_to_vmports_variants(tmp_path: Path) -> None:
    """Stock has nothing to switch off."""
    words = ("--ablation", "--runs", "1", "--workloads", "idle", "--variants", "plain,relay-cold")
    planned = steps(_options(tmp_path, *words))
    assert sum(step.variant.system is System.STOCK for step in planned) == 1
    assert {step.without for step in planned if step.variant.system is System.VMPORT} == {
        (),
        *((name,) for name in TECHNIQUES),
    }


def test_every_technique_can_be_switched_off_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A node agent takes the variables, and then does without."""
    file = tmp_path / "node.toml"
    file.write_text('[bus]\nurl = "amqp://node.alpha.alpha-1:x@h:5672/v"\n')
    for name, value in overrides(find_variants(("relay-cold",))[0], TECHNIQUES, base_image_dir="/images").items():
        monkeypatch.setenv(name, value)
    node = load(NodeSettings, file).node
    assert set(node.without) == set(CodecTechnique)
    assert not node.auto_converge


@pytest.mark.parametrize(
    "words",
    [
        ("--link", "fast"),
        ("--rtt", "x"),
        ("--workloads", "none"),
        ("--variants", "a"),
        ("--without", "b"),
        ("--runs", "0"),
    ],
)
def test_wrong_words_are_wrong_usage(tmp_path: Path, words: tuple[str, str]) -> None:
    """Code 2, before anything is touched."""
    with pytest.raises(SystemExit) as ended:
        _options(tmp_path, *words)
    assert ended.value.code == 2
    assert not (tmp_path / "out").exists()


def test_variants_by_name_label_or_system() -> None:
    """All ways of naming; a wrong one lists what there is."""
    assert find_variants(("plain", "stock/plain")) == (VARIANTS[0],)
    assert len(find_variants(("stock", "vmport"))) == len(VARIANTS)
    with pytest.raises(UnknownName, match="relay-cold"):
        find_variants(("fast",))


def test_rows_have_the_promised_fields_and_survive_the_file(tmp_path: Path) -> None:
    """`results.json` is a list of rows; what was written is read again."""
    rows = [
        _row(without=("dedup",), techniques={"a": 1.0}, peak_memory_mib={"donor": 2.0}),
        _row("relay-cold", downtime_ms=None),
    ]
    write_rows(tmp_path / "results.json", rows)
    raw = json.loads((tmp_path / "results.json").read_text())
    assert set(raw[0]) >= ISSUE_FIELDS
    assert read_rows(tmp_path / "results.json") == rows
    (tmp_path / "bad.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="does not hold rows"):
        read_rows(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, None),
        ({"mismatches": 2}, "2 mismatches"),
        ({"mismatches": None}, "no report"),
        ({"disk_identical": False, "disk_check": "blocks"}, "blocks"),
        ({"disk_identical": None}, "not compared"),
        ({"outcome": "failed", "detail": "because"}, "because"),
        ({"outcome": "timeout", "disk_identical": None}, None),
    ],
)
def test_gates(changed: dict[str, Any], fault: str | None) -> None:
    """A row counts only with no mismatch and, once moved, an identical disk; one that did not end counts as that."""
    found = _row(**changed).faults()
    assert bool(found) == (fault is not None)
    assert fault is None or fault in found[0]


def test_medians_shares_and_the_best_stock_variant() -> None:
    """The best stock variant is chosen per figure among those that end; what did not end has no total time."""
    rows = [
        *(_row(run=run) for run in (1, 2, 3)),
        *(_row("xbzrle", run, wire_bytes=80_000_000) for run in (1, 2)),
        _row("post-copy", wire_bytes=1, outcome="timeout", disk_identical=None),
        _row("relay-cold", wire_bytes=40_000_000, total_s=21.0),
        _row("relay-cold", 2, wire_bytes=1, mismatches=1),
    ]
    found = {summary.label: summary for summary in summaries(rows)}
    assert found["stock/plain"].total_s == 42.0
    assert found["stock/plain"].spread["total_s"] == (41.0, 43.0)
    assert found["stock/post-copy"].total_s is None
    best = best_stock(found.values(), "idle", "wire_bytes")
    assert best is found["stock/xbzrle"]
    assert ratio(found["vmport/relay-cold"], best, "wire_bytes") == 0.5
    assert ratio(found["vmport/relay-cold"], found["stock/post-copy"], "total_s") is None
    assert ratio(found["vmport/relay-cold"], found["stock/post-copy"], "wire_bytes") is None


def test_the_document_says_all() -> None:
    """Table, ablation, what did not end, what does not count, and what is absent with its reason."""
    rows = [
        _row(),
        _row("relay-cold", wire_bytes=50_000_000),
        _row("relay-cold", wire_bytes=75_000_000, without=("dedup",)),
        _row("xbzrle", outcome="timeout", disk_identical=None, detail="aborted after 600 s"),
        _row("relay-cold", 2, mismatches=3),
        _row("direct-cold", peak_memory_mib={"donor": 201.0, "recipient": 90.0}),
        _row("direct-cold", 2, peak_memory_mib={"donor": 150.0, "recipient": 99.6}),
    ]
    text = report.document(rows, {"vmport/direct-base": "no catalogue"}, "Conditions.")
    assert "| vmport/relay-cold " in text
    assert "0.50" in text
    assert "+25.0" in text
    assert "idle stock/xbzrle run 1: aborted after 600 s" in text
    assert "idle vmport/relay-cold run 2: 3 mismatches" in text
    assert "- vmport/direct-base: no catalogue" in text
    assert re.search(r"\| idle +\| vmport/direct-cold +\| +201 \| +100 \|", text)


def test_an_interrupted_call_goes_on_but_never_mixes_conditions(tmp_path: Path) -> None:
    """Rows that are there are kept; results of another link are not added to."""
    options = _options(tmp_path)
    results = open_results(options)
    results.rows.append(_row())
    results.save()
    again = open_results(options)
    assert isinstance(again, Results)
    assert again.rows == results.rows
    with pytest.raises(ValueError, match="another link"):
        open_results(dataclasses.replace(options, link="1gbit"))


def test_what_did_not_end_is_known(tmp_path: Path) -> None:
    """By variant and workload, whatever the run."""
    options = _options(tmp_path, "--workloads", "idle,writer", "--variants", "plain,relay-cold", "--runs", "2")
    results = open_results(options)
    results.rows += [_row(workload="writer", outcome="timeout"), _row(workload="idle")]
    found = {(step.workload, step.label, step.run) for step in steps(options) if results.unended(step)}
    assert found == {("writer", "stock/plain", 1), ("writer", "stock/plain", 2)}


def test_the_writer_dirties_faster_than_the_link() -> None:
    """Two pages per rewrite, at half again the link's rate, within what a guest can do."""
    assert writer_pages_per_s(12.5e6) * 2 * 4096 > 12.5e6
    assert writer_pages_per_s(1e3) == 500
    assert writer_pages_per_s(None) == writer_pages_per_s(1e10) == 4000


def test_counters_of_streams_are_read_from_metrics() -> None:
    """Counters with their labels, nothing else."""
    text = (
        "# TYPE vmport_stream_wire_bytes_total counter\n"
        'vmport_stream_wire_bytes_total{lane="disk",direction="outbound"} 5.0\n'
        "# TYPE vmport_lane_window_used_bytes gauge\nvmport_lane_window_used_bytes 3\n"
    )
    assert byte_counters(text) == {"vmport_stream_wire_bytes_total direction=outbound lane=disk": 5.0}


def test_a_run_over_another_route_is_no_run_of_the_variant() -> None:
    """A lane that fell back to the relay does not pass for a direct one."""
    grown = {
        "vmport_stream_wire_bytes_total direction=outbound lane=disk route=direct": 60.0,
        "vmport_stream_wire_bytes_total direction=outbound lane=disk route=relay": 40.0,
    }
    assert route_fault("direct", grown) == "only 60% of the lanes' bytes went by direct"
    assert route_fault("direct", {name: value for name, value in grown.items() if "route=direct" in name}) == ""
    assert route_fault("relay", {}) != ""


def test_libvirts_progress_in_bytes_by_kind() -> None:
    """What virsh prints with units; nothing while there is no job."""
    shown = {"Memory processed": "130.281 MiB", "File processed": "2.000 GiB", "Data total": "x"}
    assert bytes_by_kind(shown) == {"memory": 136_609_529, "disk": 2 << 30}
    assert bytes_by_kind({}) == {}


def test_plots_of_rows_with_and_without_an_end(tmp_path: Path) -> None:
    """Bars for all, bytes over time per workload, each as SVG and PNG."""
    rows = [_row(), _row(run=2), _row("post-copy", outcome="timeout", disk_identical=None), _row("relay-cold")]
    samples = [{"at_s": at, "wire_bytes": at * 10, "kinds": {"memory": at * 6, "disk": at * 3}} for at in (1, 2, 3)]
    files = draw_all(tmp_path, rows, {"idle stock/plain run 1": samples, "idle vmport/relay-cold run 1": []})
    assert {file.name for file in files} == {"bars.svg", "bars.png", "bytes-idle.svg", "bytes-idle.png"}
    assert all(file.stat().st_size > 1000 for file in files)
