"""Errors of the lab. Each holds the facts; `__str__` makes the sentence that a person reads."""

from collections.abc import Sequence
from shlex import join


class LabError(Exception):
    """The lab cannot do what was asked; the message says what, to what, and what to do."""


class CommandFailed(LabError):
    """A program that the lab ran ended with an error or did not end in time."""

    def __init__(self, argv: Sequence[str], *, code: int | None, output: str) -> None:
        super().__init__(argv, code, output)
        self.argv = tuple(argv)
        self.code = code
        self.output = output

    def __str__(self) -> str:
        end = "did not end in time" if self.code is None else f"ended with code {self.code}"
        return f"{join(self.argv)} {end}: {self.output.strip() or '(no output)'}"


class NotRemoved(LabError):
    """`down` could not remove everything."""

    def __init__(self, lab: str, things: Sequence[str]) -> None:
        super().__init__(lab, things)
        self.lab = lab
        self.things = tuple(things)

    def __str__(self) -> str:
        return f"lab {self.lab} is not removed; still there: {', '.join(self.things)}; run `deploy/lab down` again"
