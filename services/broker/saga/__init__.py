"""The saga of a port: a pure, table-driven state machine whose state is a value that can be saved.

``table`` has the theory and the table, ``machine`` runs it. ``state``, ``events``, ``effects`` and ``decision`` are
the values; ``approving``, ``choosing``, ``moving``, ``switching``, ``arrival``, ``finishing``, ``ending`` and
``settling`` are the handlers, one module per part of the conversation; ``networking`` is what they say of the VM's
addresses, ``obligations`` what the rules of a regime say at each step. ``quotes`` ranks offers, ``sla`` compares
promises with measurements, ``diagram`` draws the table. Nothing here knows a clock, a database or a bus.
"""

from services.broker.saga.approving import begin, begin_refused
from services.broker.saga.decision import Decision, Moment, SagaBug, Timing, Verdict
from services.broker.saga.effects import (
    Alarm,
    CloseLanes,
    CommitEpoch,
    Effect,
    KeepExtension,
    OpenLanes,
    RecordEnd,
    RuleBroken,
    Send,
)
from services.broker.saga.events import DeadlinePassed, Event, Heard, LanesOpened, Owner, RuleDue, Settled, WakeUp
from services.broker.saga.machine import step
from services.broker.saga.port_rules import NO_RULES, PortRules
from services.broker.saga.state import ENDS, NO_ANCHOR, Anchor, SagaState
from services.broker.saga.table import TABLE

__all__ = [
    "ENDS",
    "NO_ANCHOR",
    "NO_RULES",
    "TABLE",
    "Alarm",
    "Anchor",
    "CloseLanes",
    "CommitEpoch",
    "DeadlinePassed",
    "Decision",
    "Effect",
    "Event",
    "Heard",
    "KeepExtension",
    "LanesOpened",
    "Moment",
    "OpenLanes",
    "Owner",
    "PortRules",
    "RecordEnd",
    "RuleBroken",
    "RuleDue",
    "SagaBug",
    "SagaState",
    "Send",
    "Settled",
    "Timing",
    "Verdict",
    "WakeUp",
    "begin",
    "begin_refused",
    "step",
]
