"""Exit codes of every vmport program, services and CLI alike. Pure; ``--help`` and the tenant guide print its texts."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a program's exit status says. 78 is sysexits' EX_CONFIG, which systemd can be told not to restart on."""

    OK = 0
    CRASHED = 1
    USAGE = 2
    REFUSED = 3
    PORT_FAILED = 4
    CANCELLED = 5
    NOT_FOUND = 6
    BUS_UNREACHABLE = 7
    TIMED_OUT = 8
    CONFIG = 78
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """One clause for a user."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done; for a service: stopped in order",
    ExitCode.CRASHED: "an error that vmport did not expect; the log says which",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.REFUSED: "a rule forbids it; the refusal names the rule",
    ExitCode.PORT_FAILED: "the port failed; the VM runs where the message says",
    ExitCode.CANCELLED: "the port was cancelled",
    ExitCode.NOT_FOUND: "there is no such VM, port or provider, or it is not yours",
    ExitCode.BUS_UNREACHABLE: "RabbitMQ cannot be reached, or it refuses this user",
    ExitCode.TIMED_OUT: "no answer came in time",
    ExitCode.CONFIG: "the configuration is wrong; the message names file and key",
    ExitCode.INTERRUPTED: "Ctrl-C; a port that was watched goes on",
}


def table() -> str:
    """All codes, one per line, as documents show them."""
    return "\n".join(f"{code:>3}  {code.meaning}" for code in ExitCode)
