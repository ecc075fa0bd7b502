"""Who may run the guest: a pure, table-driven state machine of one transfer, for each of its two sides.

`table` has the theory and the tables, `engine` runs them. `state`, `events` and `commands` are the values; `donor` and
`recipient` are the handlers. `diagram` draws the tables. Nothing here knows a clock, a file, libvirt or a bus: the
shells (`outbound`, `inbound`, `recovery`, `manager`) bring events and carry out commands, by `transfers.ownership`.
"""

from services.node_agent.transfers.machine.engine import step
from services.node_agent.transfers.machine.state import Decision, Donor, DonorPhase, Guest, Recipient, RecipientPhase

__all__ = ["Decision", "Donor", "DonorPhase", "Guest", "Recipient", "RecipientPhase", "step"]
