"""Whether an arriving guest has run, by the CPU time of its vCPUs, where libvirt cannot be asked. Pure.

libvirtd ends a copy that only received when it comes back, and keeps one that runs. So a process that is gone before
libvirtd is back has ended by itself, and its guest may have run until then.
"""

from __future__ import annotations

RAN_NS = 20_000_000
"""vCPUs that wait to be started use less: they are only set up. Two ticks of the kernel's count."""


class VcpuWatch:
    """One guest's vCPUs. Times are as `Hypervisor.vcpu_time_ns` tells them: None is "no process"."""

    def __init__(self) -> None:
        self._before_ns: int | None = None
        self._answered = False

    def begin(self, used_ns: int | None) -> None:
        """What was used before the guest could run."""
        self._before_ns = used_ns

    def answered(self) -> None:
        """libvirtd has answered Finish: where it has failed, libvirtd itself has ended the process."""
        self._answered = True

    def has_run(self, used_ns: int | None) -> bool:
        """Whether it has run since, or has ended by itself. Without a beginning this is one: nothing is known yet."""
        if self._before_ns is None:
            self._before_ns = used_ns
            return False
        if used_ns is None:
            return not self._answered
        return used_ns >= self._before_ns + RAN_NS
