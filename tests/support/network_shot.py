"""All that a kernel's network shows: what must be the same before a port and when nothing of it is to be left."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

_COMMANDS = (
    ("ip", "-j", "-d", "link", "show"),
    ("ip", "-j", "address", "show"),
    ("ip", "-j", "-4", "route", "show", "table", "all"),
    ("ip", "-j", "-6", "route", "show", "table", "all"),
    ("ip", "-j", "-4", "rule", "show"),
    ("ip", "-j", "-6", "rule", "show"),
    ("ip", "-j", "neigh", "show"),
    ("ip", "-j", "neigh", "show", "proxy"),
    ("nft", "-j", "list", "ruleset"),
)
_SETTINGS = ("proxy_ndp", "proxy_arp", "forwarding", "rp_filter", "arp_ignore", "accept_ra", "autoconf")
_PASSING = frozenset(
    {
        "ifindex",
        "link_index",
        "handle",
        "packets",
        "bytes",
        "used",
        "confirmed",
        "updated",
        "probes",
        "state",
        "operstate",
        "flags",
        "stats",
        "stats64",
        "expires",
        "valid_life_time",
        "preferred_life_time",
        "metainfo",
        "gc_timer",
        "hello_timer",
        "tcn_timer",
        "topology_change_timer",
        "topology_change_detected",
        "ref_cnt",
        "age",
        "users",
        "num_tx_queues",
        "num_rx_queues",
    }
)
"""What changes by itself, or says only how often something was made."""
_PASSING_NEIGHBOURS = frozenset({"REACHABLE", "STALE", "DELAY", "PROBE", "INCOMPLETE", "FAILED"})


def network_shot(namespace: str | None = None) -> dict[str, Any]:
    """What this thread's network has, or a named namespace's; equal ones have the same."""
    inside = [] if namespace is None else ["ip", "netns", "exec", namespace]
    shot: dict[str, Any] = {}
    for command in _COMMANDS:
        done = subprocess.run([*inside, *command], check=True, capture_output=True, text=True, timeout=20)
        listed = json.loads(done.stdout or "[]")
        entries = listed["nftables"] if isinstance(listed, dict) else listed
        kept = [_lasting(each) for each in entries if each and not _is_learned(each)]
        shot[" ".join(command)] = sorted(kept, key=lambda each: json.dumps(each, sort_keys=True))
    shot["settings"] = _settings(inside)
    return shot


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is there of the one and not of the other, a line each."""
    found = []
    for name, was in before.items():
        now = after[name]
        found += [f"{name}: gone: {json.dumps(each)[:400]}" for each in was if each not in now]
        found += [f"{name}: left: {json.dumps(each)[:400]}" for each in now if each not in was]
    return found


def _settings(inside: list[str]) -> list[str]:
    """Of every device; a device's own go with it."""
    names = " -o ".join(f"-name {name}" for name in _SETTINGS)
    script = f"cd /proc/sys/net && find ipv4/conf ipv6/conf \\( {names} \\) | sort | xargs grep -H ."
    done = subprocess.run([*inside, "sh", "-c", script], check=False, capture_output=True, text=True, timeout=20)
    return done.stdout.splitlines()


def _is_learned(entry: dict[str, Any]) -> bool:
    """A neighbour that was asked for, not set."""
    return "state" in entry and "dst" in entry and bool(_PASSING_NEIGHBOURS & set(entry["state"]))


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(each) for key, each in value.items() if key not in _PASSING}
    if isinstance(value, list):
        return [_lasting(each) for each in value]
    return value


def names(directory: Path) -> list[str]:
    """The files of a folder; empty where there is none."""
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
