"""``vmport plan`` against a scripted broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.exit_codes import ExitCode
from shared.messages import AnyEnvelope, Message
from shared.messages.plans import (
    ApplyPlan,
    CancelPlan,
    CreatePlan,
    ListPlans,
    Move,
    MoveState,
    PlanShown,
    PlansListed,
    PlanState,
    ShowPlan,
)
from tests.support.plan_samples import PLAN, RESULT, shown_plan
from tests.support.scripted_broker import WEB, Cli, ScriptedBroker

DEMAND = """\
[[classes]]
name = "web"
vcpus = 1
memory_mib = 512
disk_gib = 2
vms = ["web"]
demand = { distribution = "uniform", least = 1, most = 9 }
"""


@pytest.fixture
def asked(broker: ScriptedBroker) -> list[Any]:
    """What the broker is asked about plans; `shown` is what it answers."""
    return answer(broker, shown_plan())


def answer(broker: ScriptedBroker, *shown: PlanShown) -> list[Any]:
    questions: list[Any] = []
    turns = list(shown)

    def say(to: ScriptedBroker, envelope: AnyEnvelope) -> None:
        questions.append(envelope.data)
        reply: Message = turns[0]
        if isinstance(envelope.data, ListPlans):
            reply = PlansListed(plans=(turns[0].summary,))
        elif len(turns) > 1:
            turns.pop(0)
        to.say(reply, cause=envelope)

    broker.on_command = say
    return questions


def test_a_plan_of_own_moves(vmport: Cli, asked: list[Any], tmp_path: Path) -> None:
    """The file's name is the plan's; how to go on is said."""
    (tmp_path / "spring.csv").write_text("vm,to\nweb,beta\n")
    assert vmport("plan", "create", "--moves", str(tmp_path / "spring.csv")) == ExitCode.OK
    (create,) = asked
    assert isinstance(create, CreatePlan)
    assert (create.name, create.moves, create.demand) == ("spring", (Move(vm_uuid=WEB.uuid, recipient="beta"),), None)
    assert "vmport plan apply" in vmport.err
    assert "waiting" in vmport.out


def test_a_plan_for_a_demand(vmport: Cli, broker: ScriptedBroker, tmp_path: Path) -> None:
    """Options reach the request; the result is shown, or is JSON."""
    questions = answer(broker, shown_plan(result=RESULT))
    (tmp_path / "demand.toml").write_text(DEMAND)
    options = ("--demand", str(tmp_path / "demand.toml"), "--horizon", "1y", "--risk", "0.25", "--scenarios", "99")
    assert vmport("plan", "create", *options, "--seed", "5", "--name", "2027") == ExitCode.OK
    (create,) = questions
    assert create.name == "2027"
    assert create.demand is not None
    found = (create.demand.horizon_months, create.demand.risk, create.demand.scenarios, create.demand.seed)
    assert found == (12, 0.25, 99, 5)
    assert "VSS 69.74" in vmport.out
    assert vmport("--format", "json", "plan", "create", *options) == ExitCode.OK
    assert PlanShown.model_validate(json.loads(vmport.out)).result == RESULT


def test_no_plan(vmport: Cli, broker: ScriptedBroker, tmp_path: Path) -> None:
    """File, key and reason; exit code 3."""
    answer(broker, shown_plan(PlanState.UNSOLVABLE, failure="classes.web.demand: 2 VMs fit nowhere"))
    file = tmp_path / "demand.toml"
    file.write_text(DEMAND)
    assert vmport("plan", "create", "--demand", str(file)) == ExitCode.REFUSED
    assert f"vmport: {file}: classes.web.demand: 2 VMs fit nowhere" in vmport.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--demand FILE or --moves FILE, one of them"),
        (("--demand", "a", "--moves", "b"), "one of them"),
        (("--demand", "a", "--horizon", "0m"), "--horizon: '0m' is not valid"),
        (("--demand", "a", "--horizon", "12 weeks"), "a number of months or years"),
        (("--demand", "missing.toml"), "missing.toml: cannot be read"),
        (("--demand", "a", "--risk", "2"), "--risk"),
    ],
)
def test_bad_options(vmport: Cli, asked: list[Any], options: tuple[str, ...], said: str) -> None:
    """Nothing is asked for."""
    assert vmport("plan", "create", *options) == ExitCode.USAGE
    assert said in vmport.err
    assert asked == []


def test_apply(vmport: Cli, broker: ScriptedBroker) -> None:
    """By name, with limits for each port; --follow tells each change, and how it ended."""
    done, failed, under_way = MoveState.COMPLETED, MoveState.FAILED, MoveState.UNDER_WAY
    questions = answer(
        broker,
        shown_plan(PlanState.APPLYING, under_way, MoveState.WAITING),
        shown_plan(PlanState.PARTLY, done, failed, failure="it was"),
    )
    options = ("--at-once", "4", "--on-failure", "go-on", "--max-downtime", "500ms", "--follow")
    assert vmport("plan", "apply", "spring", *options) == ExitCode.PORT_FAILED
    apply = next(each for each in questions if isinstance(each, ApplyPlan))
    assert (apply.plan_id, apply.at_once, apply.on_failure) == (PLAN, 4, "go_on")
    assert apply.limits.max_downtime_ms == 500
    assert "shop alpha -> beta: failed: no room" in vmport.err
    assert "plan cccc1111: partly: it was" in vmport.err
    assert "1 of 2 completed, 1 not" in vmport.out


def test_apply_without_following(vmport: Cli, asked: list[Any]) -> None:
    """By the beginning of the id; the plan goes on by itself."""
    assert vmport("plan", "apply", str(PLAN)[:8]) == ExitCode.OK
    assert "--follow' follows it" in vmport.err
    assert [type(each).__name__ for each in asked] == ["ListPlans", "ApplyPlan"]


@pytest.mark.parametrize(
    ("state", "code"), [(PlanState.COMPLETED, ExitCode.OK), (PlanState.CANCELLED, ExitCode.CANCELLED)]
)
def test_follow_ends_as_the_plan_does(vmport: Cli, broker: ScriptedBroker, state: PlanState, code: ExitCode) -> None:
    """By its exit code; JSON is one line per change."""
    answer(broker, shown_plan(state, MoveState.COMPLETED, MoveState.COMPLETED))
    assert vmport("--format", "json", "plan", "show", str(PLAN), "--follow") == code
    (line,) = vmport.out.splitlines()
    assert PlanShown.model_validate_json(line).summary.state is state


def test_show_list_and_cancel(vmport: Cli, asked: list[Any]) -> None:
    """What is asked, and what is shown."""
    assert vmport("plan", "show", str(PLAN)) == ExitCode.OK
    assert vmport("plan", "list") == ExitCode.OK
    assert "spring" in vmport.out
    assert vmport("plan", "cancel", str(PLAN), "--reason", "no") == ExitCode.OK
    assert asked == [ShowPlan(plan_id=PLAN), ListPlans(), CancelPlan(plan_id=PLAN, reason="no")]


def test_unknown_plan(vmport: Cli, asked: list[Any]) -> None:
    """The list is named."""
    assert vmport("plan", "show", "winter") == ExitCode.NOT_FOUND
    assert "you have no plan 'winter'" in vmport.err
    assert "vmport plan list" in vmport.err
    assert len(asked) == 1
