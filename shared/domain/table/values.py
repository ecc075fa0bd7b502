"""Kinds of values in a domain definition: what may stand in an attribute or a text that is carried. Pure.

A kind that is carried is narrow: it can hold no path, no socket and no address of a host, so that a definition that
names something of the recipient's host cannot be written with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_LINE = 4096
MAX_TEXT = 64 * 1024
"""Largest carried value, in characters: one line, and text for people."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value. `carried` is False for what never leaves its host, such as a path or a password."""

    name: str
    pattern: re.Pattern[str]
    meaning: str
    carried: bool = True

    def accepts(self, value: str) -> bool:
        """Whether the whole of the value is of this kind."""
        return self.pattern.fullmatch(value) is not None


def _kind(name: str, pattern: str, meaning: str, *, carried: bool = True) -> Kind:
    return Kind(name, re.compile(pattern, re.ASCII), meaning, carried)


_LINE = r"[^\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]"
_ALL = (
    _kind("number", r"[0-9]{1,18}", "a whole number"),
    _kind("signed", r"-?[0-9]{1,18}", "a whole number that may be negative"),
    _kind("decimal", r"[0-9]{1,18}(\.[0-9]{1,18})?", "a number"),
    _kind("hex", r"(0[xX])?[0-9a-fA-F]{1,32}", "a number, also in base 16"),
    _kind("word", r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", "one word"),
    _kind("name", rf"(?!\.{{1,2}}$)(?:(?!/){_LINE}){{1,255}}", "a name of a VM: a line without a slash"),
    _kind("alias", r"ua-[A-Za-z0-9_-]{1,64}", "an alias that its owner gave"),
    _kind("port", r"[0-9]{1,3}(\.[0-9]{1,3}){0,5}", "a port of a bus, with those of the hubs before it"),
    _kind("version", r"-1|[0-9]{1,2}(\.[0-9]{1,2})?", "a version of a USB device, or -1 for any"),
    _kind("usb", r"-1|0x[0-9a-fA-F]{1,4}", "a number of a USB device, or -1 for any"),
    # A capital letter in front: a name below the zone files, never a file elsewhere.
    _kind("zone", r"[A-Z][A-Za-z0-9_+-]{0,31}(/[A-Z][A-Za-z0-9_+-]{0,31}){0,2}", "a time zone, such as Europe/Paris"),
    _kind("blob", r"opt(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,54}){1,4}", "a name in the guest's firmware configuration"),
    _kind("profile", r"(custom:)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "a profile of a TPM"),
    _kind("vendor", r"[A-Za-z0-9][A-Za-z0-9 ._!-]{0,11}", "up to twelve characters"),
    _kind("unit", r"[A-Za-z]{1,8}", "a unit of size"),
    _kind("uuid", r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}", "a UUID"),
    _kind("mac", r"[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}", "a MAC address of one card"),
    _kind("wwn", r"(0x)?[0-9a-fA-F]{16}", "a world wide name"),
    _kind("cpus", r"[0-9^, -]{1,1024}", "a set of CPU numbers"),
    # No check of what it means: the guest only sees it as characters, and so does libvirt.
    _kind("line", rf"{_LINE}{{0,{MAX_LINE}}}", "one line of text that the guest or people read"),
    _kind("text", rf"(?:{_LINE}|[\t\n\r]){{0,{MAX_TEXT}}}", "text for people"),
    _kind("empty", r"", "nothing"),
    _kind("path", r"(?s:.*)", "a file, folder, device or socket of a host", carried=False),
    _kind("secret", r"(?s:.*)", "a password, or what opens one", carried=False),
    _kind("any", r"(?s:.*)", "anything", carried=False),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}


def kind_of(text: str) -> Kind | None:
    """The kind that a row names: one of `KINDS`, or ``=a|b|c`` for one of these words; None where it names none."""
    if not text.startswith("="):
        return KINDS.get(text)
    words = text[1:].split("|")
    return _kind(text, "|".join(re.escape(word) for word in words), "one of: " + ", ".join(words))
