"""What a quote or an agreement says of a VM's addresses, in a few words. Pure."""

from __future__ import annotations

from shared.messages.network import NetworkMode, NetworkTerms

TAKEN_AS_ONE = "not kept by vmport: they work only if the providers have joined their networks"
MODES_HELP = (
    "How the VM keeps its addresses. auto: by what both providers can do; joined: their networks are one; extend: an "
    "encrypted layer-2 extension for this VM alone; translate: the donor's gateway translates; anchor: gateways of a "
    "neutral prefix; announce: the recipient announces them, after another way has carried the switchover."
)
"""For the option of that name: every mode in a few words."""

_WORDS = {
    NetworkMode.JOINED: "joined networks",
    NetworkMode.EXTEND: "an extension of the donor's network",
    NetworkMode.TRANSLATE: "translation at the donor's gateway",
    NetworkMode.ANCHOR: "gateways of a neutral prefix",
}


def short_terms(terms: NetworkTerms | None) -> str:
    """For a column: ``extend``, ``extend, announce``; ``as one`` where nothing is done."""
    if terms is None:
        return "as one"
    return f"{terms.carry}, announce" if terms.then_announce else str(terms.carry)


def terms_text(terms: NetworkTerms | None, currency: str = "") -> str:
    """In one line: the way, what follows, until when, and the price."""
    if terms is None:
        return TAKEN_AS_ONE
    parts = [f"{terms.carry}: {_WORDS[terms.carry]}"]
    if terms.then_announce:
        parts.append("then announced by the recipient")
    if terms.ends_after_s is not None:
        parts.append(f"for {days_text(terms.ends_after_s)} after the port")
    if terms.price:
        parts.append(f"{terms.price} {currency} for that time".replace("  ", " "))
    return "; ".join(parts)


def days_text(seconds: float) -> str:
    """``30 days``, ``36 hours``, ``90 s``."""
    for unit_s, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{round(seconds / unit_s, 1):g} {name}"
    return f"{seconds:g} s"
