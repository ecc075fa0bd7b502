"""How plans are shown to a person."""

from __future__ import annotations

import io

from rich.console import Console

from shared.client import render
from shared.client.plan_tables import plan_tables, plans_table
from shared.messages.plans import MoveState, PlanState
from tests.support.plan_samples import RESULT, shown_plan


def text_of(*tables: object) -> str:
    out = io.StringIO()
    render.show(Console(file=out, width=160), *tables)  # type: ignore[arg-type]  # tables, as they are made
    return out.getvalue()


def test_a_plan_with_its_figures() -> None:
    """What to reserve, what it costs, how good that is, and who was not considered."""
    text = text_of(*plan_tables(shown_plan(result=RESULT)))
    for said in (
        "expected cost over the horizon, EUR", "17691.03", "to reserve", "27", "180.00", "VSS 69.74", "EVPI, by 40",
        "17634.31 to 17732.81", "gap 0.00%", "VMs in the mean month", "1.4", "not considered", "in USD",
    ):  # fmt: skip
        assert said in text
    assert "\x1b" not in text


def test_nothing_to_reserve() -> None:
    """It is said."""
    assert "nothing is to be reserved" in text_of(
        *plan_tables(shown_plan(result=RESULT.model_copy(update={"reservations": ()})))
    )


def test_progress() -> None:
    """Each VM; how many have completed and how many have not."""
    shown = shown_plan(
        PlanState.STOPPED,
        MoveState.COMPLETED,
        MoveState.FAILED,
        failure="the port of shop failed",
        at_once=2,
        on_failure="go_on",
    )
    text = text_of(*plan_tables(shown))
    for said in ("stopped", "1 of 2 completed, 1 not", "the port of shop failed", "no room", "go on"):
        assert said in text


def test_a_list() -> None:
    """One line each."""
    text = text_of(plans_table([shown_plan().summary]))
    assert "cccc1111" in text
    assert "spring" in text
