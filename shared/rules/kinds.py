"""The closed set of predicates, told apart by ``kind``. Pure."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from shared.rules.conditions import (
    ApprovalValid,
    ContractExit,
    CoolOff,
    Dues,
    LegalHold,
    MinimumStay,
    OwnerChange,
)
from shared.rules.deadlines import (
    Duty,
    EraseAfter,
    Extension,
    PortWithin,
    RetrievalMin,
    TransitionMax,
    Withdrawal,
)
from shared.rules.demands import (
    AnswerWithin,
    ChargeBan,
    ChargeCap,
    ClosedFields,
    ClosedGrounds,
    NoLateRefusal,
    NoticeMax,
    ReasonGiven,
    RightAfterEnd,
    Unfeasible,
)
from shared.rules.predicates import Predicate

AnyPredicate = Annotated[
    MinimumStay
    | Dues
    | OwnerChange
    | LegalHold
    | ContractExit
    | CoolOff
    | ApprovalValid
    | NoticeMax
    | ChargeCap
    | ChargeBan
    | ClosedFields
    | ClosedGrounds
    | ReasonGiven
    | AnswerWithin
    | NoLateRefusal
    | RightAfterEnd
    | Unfeasible
    | TransitionMax
    | Extension
    | PortWithin
    | RetrievalMin
    | EraseAfter
    | Withdrawal
    | Duty,
    Field(discriminator="kind"),
]
"""One predicate; its ``kind`` says which."""

PREDICATES: tuple[type[Predicate], ...] = get_args(get_args(AnyPredicate)[0])


def kind_of(predicate: type[Predicate]) -> str:
    """The name by which a regime's file calls it."""
    return str(predicate.model_fields["kind"].default)
