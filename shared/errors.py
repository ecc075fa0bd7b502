"""The root of vmport's errors. Owns only what every part shares; each part defines its own errors beside its code."""

from __future__ import annotations


class VmportError(Exception):
    """Something that vmport was asked to do could not be done."""

    code: str = "internal"
    """Stable, machine-readable; the same word stands in messages, metrics and documents."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
