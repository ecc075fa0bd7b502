"""``vmport-broker settle``: refused while both nodes answer, else one step of the port, beside a running broker too."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select

from services.broker import ledger, registry
from services.broker.main import main
from services.broker.saga import CommitEpoch, Owner, SagaState, Settled, Timing
from services.broker.settle import NotSettled, settle, who_decides
from services.broker.tables import port_events
from shared.exit_codes import ExitCode
from shared.messages.nodes import CapacityReported, InventoryReported
from shared.messages.porting import SwitchoverGranted
from shared.messages.service_change import PortCompleted, PortFailed, PortPhase
from shared.parties import BROKER
from shared.store import Store, outbox, timers
from shared.testing import ManualClock
from tests.support.broker_ledger import add, load, open_ledger, owners
from tests.support.broker_samples import (
    ACME,
    BETA,
    BETA_NODE,
    NOW,
    PORT,
    VM,
    Conversation,
    capacity,
    inventory,
    request,
)
from tests.support.broker_world import World

P = PortPhase
WITHIN = timedelta(seconds=120)


def resolving() -> SagaState:
    """A port whose recipient does not speak."""
    return Conversation.begin(request()).switching().deadline().state


async def commit(store: Store, state: SagaState) -> None:
    """The port, and its epoch in the ownership log."""
    await add(store, state)
    async with store.transaction() as tx:
        await ledger.commit_epoch(tx, CommitEpoch(VM, 2, "beta", "beta-1"), PORT)


async def hear(store: Store, *, donor_s: float | None, recipient_s: float | None) -> None:
    """What the providers' agents report of their nodes, in seconds of silence."""
    alpha: InventoryReported = inventory(NOW).model_copy(
        update={"nodes_silent_s": {} if donor_s is None else {"alpha-1": donor_s}}
    )
    beta: CapacityReported = capacity(NOW).model_copy(
        update={"nodes_silent_s": {} if recipient_s is None else {"beta-1": recipient_s}}
    )
    async with store.transaction() as tx:
        await registry.take_inventory(tx, "alpha", alpha)
        await registry.take_capacity(tx, "beta", beta)


async def decide(store: Store, owner: Owner, *, dry_run: bool = False) -> str:
    """The operator's decision."""
    event = Settled(owner=owner, by="root@broker-1", evidence="beta-1 burnt down")
    return await settle(store, PORT, event, timing=Timing(), answering_within=WITHIN, dry_run=dry_run)


async def sent(store: Store) -> list[str]:
    """The types of all stored messages."""
    async with store.reading() as connection:
        return [row.type for row in await connection.execute(select(outbox.c.type).order_by(outbox.c.id))]


async def test_given_back(store: Store) -> None:
    """State, epoch, record, timers and messages are one transaction; the operator reads what it did."""
    await commit(store, resolving())
    text = await decide(store, Owner.DONOR)
    state = (await load(store)).state
    assert (state.phase, state.owner, state.epoch) == (P.ABORTING, "alpha", 3)
    assert await owners(store) == [(1, "alpha"), (2, "beta"), (3, "alpha")]
    assert await sent(store) == ["SwitchoverState", "AbortTransfer", "AbortTransfer"]
    async with store.reading() as connection:
        line = (await connection.execute(select(port_events))).one()
        armed = {row.key.rsplit(":", 1)[1] for row in await connection.execute(select(timers))}
    assert (line.type, line.sender, line.verdict) == ("Settled", str(BROKER), "handled")
    assert "root@broker-1" in line.detail
    assert "beta-1 burnt down" in line.detail
    assert armed == {"deadline", "wake"}
    assert "epoch 3 committed to alpha, node alpha-1" in text
    assert "alpha owns the VM by epoch 3" in text


async def test_dry_run_changes_nothing(store: Store) -> None:
    """It says the same, and that is all."""
    await commit(store, resolving())
    before = await load(store)
    text = await decide(store, Owner.DONOR, dry_run=True)
    assert "epoch 3 committed to alpha" in text
    assert await load(store) == before
    assert await sent(store) == []


@pytest.mark.parametrize(
    ("donor_s", "recipient_s", "refused"),
    [(5, 7, True), (5, 121, False), (121, 7, False), (None, 7, False), (5, None, False)],
)
async def test_refused_while_both_answer(
    store: Store, donor_s: float | None, recipient_s: float | None, *, refused: bool
) -> None:
    """Two nodes that are there settle it themselves; the refusal says what to do."""
    await commit(store, resolving())
    await hear(store, donor_s=donor_s, recipient_s=recipient_s)
    if not refused:
        await decide(store, Owner.RECIPIENT)
        assert (await load(store)).state.phase is P.FINISHING
        return
    with pytest.raises(NotSettled, match="stop the node agent of the side that does not have the VM") as caught:
        await decide(store, Owner.RECIPIENT)
    assert caught.value.exit_code is ExitCode.REFUSED
    assert "node.alpha.alpha-1 5 s ago, node.beta.beta-1 7 s ago" in str(caught.value)
    assert (await load(store)).state.phase is P.RESOLVING


async def test_port_that_ends_by_itself(store: Store) -> None:
    """It is left alone."""
    await add(store, Conversation.begin(request()).transferring().state)
    with pytest.raises(NotSettled, match="not settled by hand") as caught:
        await decide(store, Owner.DONOR)
    assert caught.value.exit_code is ExitCode.REFUSED


async def test_unknown_port(store: Store) -> None:
    """There is nothing to settle."""
    with pytest.raises(NotSettled, match="there is no port") as caught:
        await decide(store, Owner.DONOR)
    assert caught.value.exit_code is ExitCode.NOT_FOUND


async def test_beside_a_running_broker(world: World) -> None:
    """The broker goes on with the port from where the operator has put it."""
    world.mute(BETA_NODE, SwitchoverGranted)
    await world.ask_for_port()
    await world.until_told(BETA_NODE, SwitchoverGranted)
    await world.broker.wait_idle()
    await world.deadline()
    await world.until_phase(P.RESOLVING)
    async with Store(world.url, BROKER, clock=world.clock) as beside:
        await decide(beside, Owner.RECIPIENT)
    await world.service.relay.flush()
    completed = (await world.until_told(ACME, PortCompleted)).data
    assert isinstance(completed, PortCompleted)
    assert any("beta-1 burnt down" in warning for warning in completed.warnings)


async def test_debt(world: World) -> None:
    """A recipient that is gone for good: the VM goes back, and the port ends although the recipient says nothing."""
    world.parts.pop((BETA_NODE, SwitchoverGranted))
    await world.ask_for_port()
    await world.until_told(BETA_NODE, SwitchoverGranted)
    await world.broker.wait_idle()
    await world.deadline()
    world.parts = {key: part for key, part in world.parts.items() if key[0] != BETA}
    async with Store(world.url, BROKER, clock=world.clock) as beside:
        await decide(beside, Owner.DONOR)
    await world.service.relay.flush()
    await world.broker.wait_idle()
    await world.deadline()
    failed = (await world.until_told(ACME, PortFailed)).data
    assert isinstance(failed, PortFailed)
    assert (failed.code, failed.vm_runs_at) == ("settled", "alpha")


class TestProgram:
    """The command line."""

    @pytest.fixture
    async def config(self, tmp_path: Path) -> Path:
        """Settings with a ledger that has a port to settle."""
        url = f"sqlite:///{tmp_path}/ledger.db"
        async with open_ledger(url, ManualClock(NOW)) as store:
            await commit(store, resolving())
        path = tmp_path / "broker.toml"
        path.write_text(f'[bus]\nurl = "amqp://broker:x@127.0.0.1:1/vmport"\n[store]\nurl = "{url}"\n')
        return path

    def test_settles(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Dry first, then in earnest; the record names the person and the machine."""
        arguments = ["settle", "--config", str(config), str(PORT), "--owner", "donor", "--evidence", "looked"]
        assert main([*arguments, "--dry-run"]) == ExitCode.OK
        assert capsys.readouterr().out.endswith("nothing was changed\n")
        assert main(arguments) == ExitCode.OK
        assert capsys.readouterr().out.endswith("settled\n")
        assert main(arguments) == ExitCode.REFUSED
        assert "ends by itself" in capsys.readouterr().err
        assert "@" in who_decides()

    def test_unknown_port(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The exit code says so."""
        arguments = ["--config", str(config), str(uuid4()), "--owner", "donor", "--evidence", "looked"]
        assert main(["settle", *arguments]) == ExitCode.NOT_FOUND
        assert "there is no port" in capsys.readouterr().err

    def test_other_schema(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The command migrates nothing, since brokers may run."""
        config.write_text(config.read_text().replace("ledger.db", "empty.db"))
        arguments = ["--config", str(config), str(PORT), "--owner", "donor", "--evidence", "looked"]
        assert main(["settle", *arguments]) == ExitCode.CONFIG
        assert "this release needs" in capsys.readouterr().err

    @pytest.mark.parametrize("evidence", ["", "  "])
    def test_evidence_is_needed(self, config: Path, evidence: str) -> None:
        """A decision without a reason is none."""
        arguments = ["--config", str(config), str(PORT), "--owner", "donor", "--evidence", evidence]
        with pytest.raises(SystemExit) as caught:
            main(["settle", *arguments])
        assert caught.value.code == ExitCode.USAGE
