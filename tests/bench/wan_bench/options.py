"""The command line of `tests/bench/wan`. Pure: checks words, touches nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.labkit.guests import WORKLOADS
from deploy.labkit.network import parse_rate, parse_rtt
from tests.bench.wan_bench.guest import GuestChoice
from tests.bench.wan_bench.variants import TECHNIQUES, VARIANTS, UnknownName, Variant, check_techniques, find_variants

_DESCRIPTION = """\
Move a running guest between two providers over one shaped link, by stock libvirt and by vmport, and compare.
Runs are interleaved: every variant once, then every variant again. Each run has a new guest. DIR gets results.json
(a list of rows), summary.md (tables), conditions.json, timelines.json, and plots as SVG and PNG. Rows that DIR has
already are kept, so that a call that was interrupted, or is repeated with more --runs, goes on where it stood.
"""
_EPILOG = """\
A row counts only if the guest's own checkers found no mismatch and both images were shown to be identical; blocks or
files that the guest wrote after the switchover must be whole and newer. wire_bytes come from the donor's uplink's
counters, both directions, with all headers; outage_ms from a 5 ms UDP echo of a client of the guest; total_s from the
caller's clock around the command. Stock libvirt runs `virsh migrate --live --p2p --copy-storage-all` onto a disk made
before; its few setting-up calls pass a byte forwarder, memory and disk go by QEMU's own TCP connections.
vmport is asked never to use post-copy.

Exit code: 0 all rows count; 1 some do not, or the lab failed; 2 wrong usage.
"""

QUICK_WORKLOADS = "idle"
QUICK_VARIANTS = "direct-cold,direct-base"


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    out: Path
    link: str
    rtt: str
    workloads: tuple[str, ...]
    variants: tuple[Variant, ...]
    runs: int
    without: tuple[str, ...]
    ablation: bool
    timeout_s: float
    unended_once: bool
    settle_s: float
    back_after_s: float
    max_downtime_ms: int | None
    guest: GuestChoice
    lab: str
    keep_lab: bool

    def conditions(self) -> dict[str, Any]:
        """What must be equal for rows to be compared."""
        files = (self.guest.disk, self.guest.kernel, self.guest.initrd)
        return {
            "link": self.link,
            "rtt": self.rtt,
            "memory_mib": self.guest.memory_mib,
            "disk_kernel_initrd": [None if file is None else str(file) for file in files],
            "cmdline": self.guest.cmdline,
            "timeout_s": self.timeout_s,
            "settle_s": self.settle_s,
            "back_after_s": self.back_after_s,
            "max_downtime_ms": self.max_downtime_ms,
        }


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tests/bench/wan",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = ", ".join(variant.label for variant in VARIANTS)
    top.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go; made if it is missing")
    top.add_argument("--link", default="100mbit", metavar="RATE", help="each uplink's rate, or none (default: 100mbit)")
    top.add_argument("--rtt", default="20ms", metavar="TIME", help="round trip between providers (default: 20ms)")
    top.add_argument("--workloads", metavar="A,B", help=f"default: {','.join(WORKLOADS)}")
    top.add_argument("--runs", type=int, metavar="N", help="runs of each (default: 3)")
    top.add_argument(
        "--variants",
        metavar="A,B",
        help=f"names, or all of a system, of {names} (default: all)",
    )
    top.add_argument(
        "--quick",
        action="store_true",
        help=f"one run each of {QUICK_VARIANTS} with {QUICK_WORKLOADS}; compare before and after a change",
    )
    top.add_argument("--without", default="", metavar="A,B", help=f"vmport without some of {', '.join(TECHNIQUES)}")
    top.add_argument("--ablation", action="store_true", help="vmport's variants also without each technique by itself")
    top.add_argument("--timeout", type=float, default=600.0, metavar="S", help="abort a move after this (default: 600)")
    top.add_argument("--unended-once", action="store_true", help="do not repeat a move that did not end in its time")
    top.add_argument("--settle", type=float, default=15.0, metavar="S", help="after the guest's boot (default: 15)")
    top.add_argument("--back-after", type=float, default=600.0, metavar="S", help="direct-back's stay (default: 600)")
    top.add_argument(
        "--max-downtime", type=int, metavar="MS", help="ask both systems for this limit (default: each its own default)"
    )
    top.add_argument("--memory", type=int, default=512, metavar="MIB", help="the guest's memory (default: 512)")
    for name, text in (("disk", "this disk"), ("kernel", "this kernel"), ("initrd", "this initrd")):
        top.add_argument(f"--{name}", type=Path, metavar="F", help=f"{text} instead of the Debian guest's")
    top.add_argument("--cmdline", metavar="S", help="kernel command line instead of the Debian guest's")
    top.add_argument("--lab", default="wanbench", metavar="NAME", help="the lab to make (default: wanbench)")
    top.add_argument("--keep-lab", action="store_true", help="leave the lab up")
    return top


def parse(argv: Sequence[str]) -> Options:
    """Options from words; ends the process with code 2 and a sentence for words that it cannot take."""
    parser = _parser()
    words = parser.parse_args(argv)
    defaults = (QUICK_WORKLOADS, QUICK_VARIANTS, 1) if words.quick else (",".join(WORKLOADS), "stock,vmport", 3)
    runs = defaults[2] if words.runs is None else words.runs
    try:
        parse_rate(words.link)
        parse_rtt(words.rtt)
        workloads = _names(defaults[0] if words.workloads is None else words.workloads)
        for workload in workloads:
            if workload not in WORKLOADS:
                raise UnknownName("workload", workload, WORKLOADS)
        variants, without = (
            find_variants(_names(defaults[1] if words.variants is None else words.variants)),
            _names(words.without),
        )
        check_techniques(without)
    except ValueError as error:
        parser.error(str(error))
    if runs < 1:
        parser.error("--runs: at least 1")
    return Options(
        out=words.out,
        link=words.link,
        rtt=words.rtt,
        workloads=workloads,
        variants=variants,
        runs=runs,
        without=without,
        ablation=words.ablation,
        timeout_s=words.timeout,
        unended_once=words.unended_once,
        settle_s=words.settle,
        back_after_s=words.back_after,
        max_downtime_ms=words.max_downtime,
        guest=GuestChoice(words.memory, words.disk, words.kernel, words.initrd, words.cmdline),
        lab=words.lab,
        keep_lab=words.keep_lab,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
