"""The client that `vmport.connect` gives, and the values that its calls take and return."""

from __future__ import annotations

from shared.client.sdk import TenantClient as Client
from shared.messages.service_change import PortLimits, PortPhase, PortRequested

__all__ = ["Client", "PortLimits", "PortPhase", "PortRequested"]
