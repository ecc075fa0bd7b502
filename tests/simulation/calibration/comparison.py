"""How a trace of the host model is held to a recorded one: what the model knows must be the same. Pure.

What it leaves out on purpose stands here, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from tests.simulation.calibration.situations import SITUATIONS
from tests.simulation.calibration.trace import Moment, Place, Trace, differences

EVENTS: Final = ("suspended", "resumed", "stopped")
"""The lifecycle events of the model. The others make no difference to a node agent, nor do their details."""
CALLS: Final = ("migrate", "destroy")
"""The calls whose end the model knows; of an error it does not know the number."""

LEFT_OUT: Final[Mapping[tuple[str, str, str], str]] = {
    ("donor-node-at-finish-fenced", "node_dies alpha", "calls"): "its node is dead: nobody hears how the call ends",
    ("donor-node-at-finish-fenced", "thaw alpha", "calls"): "its node is dead: nobody hears how the call ends",
    ("post-copy-recipient-libvirtd", "pages", "beta's events"): "all pages had come while libvirtd was away",
    ("post-copy-donor-libvirtd", "kill_libvirtd alpha", "beta's events"): "all pages had come until then",
    ("post-copy-donor-libvirtd", "pages", "beta's events"): "all pages had come before",
}
"""What differs: (situation, step, host and field, or `calls`), and why that is left so."""

VARIES: Final[Mapping[tuple[str, str], str]] = {
    (situation, "beta's vcpus"): "a guest in post-copy waits for pages now and then, and runs on in between"
    for situation in SITUATIONS
    if "post_copy" in SITUATIONS[situation]
}
"""What may differ from one recording to the next: (situation, host and field), and why."""


def known_to_the_model(trace: Trace) -> Trace:
    """A recorded trace without what the model does not have: reasons, details, numbers of errors."""
    return replace(trace, moments=tuple(map(_known, trace.moments)))


def _known(moment: Moment) -> Moment:
    places = {host: _place(place) for host, place in moment.places.items()}
    calls = {name: result.partition(" ")[0] for name, result in moment.calls.items() if name in CALLS}
    return replace(moment, places=places, calls=calls)


def _place(place: Place) -> Place:
    kinds = (event.partition(" ")[0] for event in place.events)
    return replace(place, reason="", events=tuple(kind for kind in kinds if kind in EVENTS))


def model_differs(recorded: Trace, modelled: Trace) -> Iterator[str]:
    """Each difference as one line, but for those that are left out."""
    for line in differences(known_to_the_model(recorded), known_to_the_model(modelled)):
        varies = (is_about(line, situation, "", field) for situation, field in VARIES)
        if not any(varies) and not any(is_about(line, *key) for key in LEFT_OUT):
            yield line


def is_about(line: str, situation: str, step: str, field: str) -> bool:
    """Whether a difference is the one that a key names; without a step it is that of any."""
    return line.startswith(f"{situation}, ") and (f"({step}): {field}" if step else f"): {field}") in line
