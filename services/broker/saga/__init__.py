"""The saga of a port: a pure, table-driven state machine whose state is a value that can be saved.

``table`` has the theory and the table, ``state`` the values; ``choosing``, ``moving``, ``switching`` and ``ending``
the handlers, one module per part of the conversation. Nothing here knows a clock, a database or a bus.
"""

from services.broker.saga.choosing import begin, begin_refused
from services.broker.saga.decision import Decision, Timing, Verdict
from services.broker.saga.effects import Alarm, CloseLanes, CommitEpoch, Effect, OpenLanes, RecordEnd, Send
from services.broker.saga.events import DeadlinePassed, Event, Heard, LanesOpened, WakeUp
from services.broker.saga.state import ENDS, SagaState
from services.broker.saga.table import TABLE, SagaBug, step

__all__ = [
    "ENDS",
    "TABLE",
    "Alarm",
    "CloseLanes",
    "CommitEpoch",
    "DeadlinePassed",
    "Decision",
    "Effect",
    "Event",
    "Heard",
    "LanesOpened",
    "OpenLanes",
    "RecordEnd",
    "SagaBug",
    "SagaState",
    "Send",
    "Timing",
    "Verdict",
    "WakeUp",
    "begin",
    "begin_refused",
    "step",
]
