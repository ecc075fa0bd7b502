"""How a trace of the host model is held to a recorded one: what the model knows must be the same. Pure.

What it leaves out on purpose stands here, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from tests.simulation.calibration.trace import Moment, Place, Trace, differences

EVENTS: Final = ("suspended", "resumed", "stopped")
"""The lifecycle events of the model. The others make no difference to a node agent, nor do their details."""
CALLS: Final = ("migrate", "destroy")
"""The calls whose end the model knows; of an error it does not know the number."""

LEFT_OUT: Final[Mapping[tuple[str, str, str], str]] = {}
"""What differs: (situation, step, host and field, or `calls`), and why that is left so."""


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
        if not any(is_about(line, *key) for key in LEFT_OUT):
            yield line


def is_about(line: str, situation: str, step: str, field: str) -> bool:
    """Whether a difference is the one that a key of `LEFT_OUT` names."""
    return line.startswith(f"{situation}, ") and f"({step}): {field}" in line
