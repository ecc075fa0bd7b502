"""The core tier's host model does what real libvirt was recorded doing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.simulation.calibration.comparison import LEFT_OUT, is_about, known_to_the_model, model_differs
from tests.simulation.calibration.model_player import ModelPlayer
from tests.simulation.calibration.situations import HOSTS, SITUATIONS, VERBS, split
from tests.simulation.calibration.trace import TRACES, Trace, differences, kept


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_model_does_what_libvirt_does(situation: str) -> None:
    """States, vCPUs, events and ends of calls, step by step, besides what is left out for a reason."""
    assert list(model_differs(kept(situation), ModelPlayer(situation).play())) == []


def test_each_trace_is_of_a_situation_as_it_is_now() -> None:
    """No trace is left from another one, and each has the versions that it was recorded with."""
    assert {path.stem for path in TRACES.iterdir()} == set(SITUATIONS)
    for name, steps in SITUATIONS.items():
        trace = kept(name)
        assert tuple(moment.step for moment in trace.moments) == steps
        assert trace.libvirt
        assert trace.qemu
        assert "/" not in trace.to_json()


def test_steps_have_a_meaning() -> None:
    """Each verb is explained, and each host is one."""
    for steps in SITUATIONS.values():
        for step in steps:
            verb, host = split(step)
            assert verb in VERBS
            assert host in {"", *HOSTS}


def test_what_is_left_out_differs() -> None:
    """Each exception is of a step and a field that really differ, and says why."""
    for (situation, step, field), reason in LEFT_OUT.items():
        recorded = known_to_the_model(kept(situation))
        found = list(differences(recorded, known_to_the_model(ModelPlayer(situation).play())))
        assert any(is_about(line, situation, step, field) for line in found), (situation, step, field)
        assert reason


def test_a_difference_is_seen() -> None:
    """In a state, an event, a call, and where the steps are others."""
    trace = kept("good")
    moment = trace.moments[-1]

    def with_last(**changes: object) -> Trace:
        return replace(trace, moments=(*trace.moments[:-1], replace(moment, **changes)))  # type: ignore[arg-type]  # its fields

    beta = moment.places["beta"]
    assert list(model_differs(trace, trace)) == []
    for other in (
        replace(beta, state="paused"),
        replace(beta, vcpus="stand"),
        replace(beta, events=("stopped failed",)),
    ):
        assert len(list(model_differs(trace, with_last(places=moment.places | {"beta": other})))) == 1
    assert len(list(model_differs(trace, with_last(calls={"migrate": "error 1"})))) == 1
    assert list(model_differs(trace, with_last(step="refuse"))) == ["good: other steps"]
    assert Trace.from_json(trace.to_json()) == trace
