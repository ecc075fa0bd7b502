"""The lab: several providers, a hub and a tenant on one machine, as network namespaces with real daemons inside.

`Lab` is the whole public interface; the command `deploy/lab` and the acceptance tests are both written on it.
"""

from deploy.labkit.errors import CommandFailed, LabError
from deploy.labkit.guests import GuestPlace, GuestSpec
from deploy.labkit.lab import Lab, LabOptions

__all__ = ["CommandFailed", "GuestPlace", "GuestSpec", "Lab", "LabError", "LabOptions"]
