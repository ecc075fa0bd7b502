"""What a tenant asks about the money of a port. Pure models; answered out of the ledger, as `queries` are."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from shared.messages.costs import Bill
from shared.messages.queries import Answer, Question
from shared.parties import Role


class ShowBill(Question):
    """What has this completed port of mine cost?"""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    port_id: UUID


class BillShown(Answer):
    """The port's bill: measured lines, and the credits given until now."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    bill: Bill
