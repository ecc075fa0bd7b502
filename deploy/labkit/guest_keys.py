"""Keys of encrypted lab guests, kept as secrets of a provider's libvirt, and disks that are encrypted with them."""

import os
import re
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from deploy.labkit.errors import CommandFailed
from deploy.labkit.hosts import virsh
from deploy.labkit.plan import LabPlan
from deploy.labkit.processes import run

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOT_THERE = "no secret"


@dataclass(frozen=True)
class GuestKey:
    """A key, and the UUID of the secret that holds it. `usage` is libvirt's: `volume` for a disk, `vtpm` for a TPM."""

    usage: str
    name: str
    uuid: str
    value: str


def new_key(usage: str, name: str) -> GuestKey:
    """A key that nobody has yet."""
    return GuestKey(usage, name, str(uuid.uuid4()), secrets.token_urlsafe(24))


def keep(plan: LabPlan, provider: str, key: GuestKey) -> None:
    """Define the secret at a provider."""
    element = "volume" if key.usage == "volume" else "name"
    usage = f'<usage type="{key.usage}"><{element}>{escape(key.name)}</{element}></usage>'
    xml = f'<secret ephemeral="no" private="no"><uuid>{key.uuid}</uuid>{usage}</secret>'
    virsh(plan, provider, "secret-define", "/dev/stdin", stdin=xml)
    virsh(plan, provider, "secret-set-value", key.uuid, "--file", "/dev/stdin", "--plain", stdin=key.value)


def encrypt(source: Path, source_format: str, target: Path, key: GuestKey) -> None:
    """Copy an image into a QCOW2 image with LUKS inside."""
    held = target.with_suffix(".key")
    held.touch(mode=0o600)
    try:
        held.write_text(key.value, encoding="utf-8")
        options = ["-o", "encrypt.format=luks,encrypt.key-secret=k", "--object", f"secret,id=k,file={held}"]
        run(["qemu-img", "convert", "-f", source_format, "-O", "qcow2", *options, str(source), str(target)])
    finally:
        os.unlink(held)


def listed(plan: LabPlan, provider: str) -> dict[str, str]:
    """The definitions of all secrets at a provider, by UUID; no values."""
    found = {}
    for known in _UUID.findall(virsh(plan, provider, "secret-list", "--no-ephemeral")):
        try:
            found[known] = virsh(plan, provider, "secret-dumpxml", known)
        except CommandFailed as error:
            if _NOT_THERE not in error.output:
                raise
    return found


def values(plan: LabPlan, provider: str) -> set[str]:
    """The values of all secrets at a provider."""
    return {virsh(plan, provider, "secret-get-value", known, "--plain").strip() for known in listed(plan, provider)}


def remove(plan: LabPlan, name: str) -> None:
    """Remove a guest's secrets from all providers: its own, and those that ports made."""
    whose = re.compile(rf">{re.escape(name)}[.]|of VM {re.escape(name)},")
    for provider in plan.providers:
        for known, xml in listed(plan, provider).items():
            if whose.search(xml):
                virsh(plan, provider, "secret-undefine", known)
