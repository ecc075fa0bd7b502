"""The whole vocabulary of vmport's control plane, one module per conversation, and the envelope that carries it.

``service_change``: tenant and broker. ``approval``: broker and donor. ``porting``: fixing a port and carrying it out.
``switchover``: taking a committed switchover back. ``addresses``: how a VM's addresses are kept. ``nodes``: inside one
provider. ``queries`` and ``billing``: questions that a tenant asks. ``plans``: many VMs at once. ``rules``: what a rule
says, and to whom. Importing this package registers every type.
"""

from shared.messages import (
    addresses,
    approval,
    billing,
    nodes,
    plans,
    porting,
    queries,
    rules,
    service_change,
    switchover,
    vm,
)
from shared.messages.base import MESSAGE_TYPES, Message, PortMessage, Refusal
from shared.messages.envelope import CONTENT_TYPE, AnyEnvelope, Envelope, MessageError, open_envelope, seal

__all__ = [
    "CONTENT_TYPE",
    "MESSAGE_TYPES",
    "AnyEnvelope",
    "Envelope",
    "Message",
    "MessageError",
    "PortMessage",
    "Refusal",
    "addresses",
    "approval",
    "billing",
    "nodes",
    "open_envelope",
    "plans",
    "porting",
    "queries",
    "rules",
    "seal",
    "service_change",
    "switchover",
    "vm",
]
