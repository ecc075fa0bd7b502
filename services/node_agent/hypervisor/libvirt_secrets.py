"""The secrets that libvirtd keeps: the keys of encrypted disks and TPMs.

A secret that a port makes is not private in libvirt's sense: a private one is told to nobody, so that its VM could
never leave again. Whoever may ask libvirtd with write access may read the guest's memory and start it, too. Values are
in no error and in no log: libvirt's own messages name UUIDs and usages only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from uuid import UUID
from xml.sax.saxutils import escape, quoteattr

import libvirt
from lxml import etree

from services.node_agent.hypervisor.interface import Obstacle, ObstacleCode, SecretError
from services.node_agent.hypervisor.libvirt_connection import LibvirtSession
from services.node_agent.hypervisor.libvirt_mapping import domain_xmls
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection, LibvirtSecret
from services.node_agent.hypervisor.secret_values import SecretSpec, SecretValue, made_by
from shared.domain import SecretUsage, SecretUse, VmFacts

_USAGE_TYPES: Final = {
    SecretUsage.VOLUME: libvirt.VIR_SECRET_USAGE_TYPE_VOLUME,
    SecretUsage.VTPM: libvirt.VIR_SECRET_USAGE_TYPE_VTPM,
}
_USAGE_ELEMENTS: Final = {SecretUsage.VOLUME: "volume", SecretUsage.VTPM: "name"}


class LibvirtSecrets:
    """One libvirtd's secrets; an `interface.SecretStore`."""

    def __init__(self, session: LibvirtSession) -> None:
        self._session = session

    async def find(self, use: SecretUse) -> UUID:
        """Look it up as libvirt does."""
        doing = f"find the secret of {use.device}"
        found = await self._session.call(doing, lambda: _lookup(self._session.open(), use))
        if found is None:
            raise SecretError(doing, "libvirt has no such secret")
        return found

    async def read(self, uuid: UUID) -> SecretValue:
        """Ask libvirtd for the value."""
        doing = f"read secret {uuid}"

        def read() -> bytes | None:
            secret = _by_uuid(self._session.open(), uuid)
            return None if secret is None else secret.value(0)

        value = await self._session.call(doing, read)
        if value is None:
            raise SecretError(doing, "libvirt has no such secret")
        try:
            return SecretValue(value)
        except ValueError as error:
            raise SecretError(doing, str(error)) from None

    async def keep(self, spec: SecretSpec, value: SecretValue) -> None:
        """Define it, then set its value. libvirt itself refuses a second one of a usage."""
        doing = f"make secret {spec.uuid}"

        def keep() -> bool:
            connection = self._session.open()
            if _by_uuid(connection, spec.uuid) is not None:
                return False
            connection.secretDefineXML(secret_xml(spec), 0).setValue(value.reveal(), 0)
            return True

        if not await self._session.call(doing, keep):
            raise SecretError(doing, "there is a secret of this UUID already; it is not overwritten")

    async def discard(self, uuid: UUID, *, owner: UUID | None = None) -> None:
        """Undefine it."""

        def discard() -> None:
            secret = _by_uuid(self._session.open(), uuid)
            if secret is not None and (owner is None or (secret.usageID() or "").startswith(made_by(owner))):
                secret.undefine()

        await self._session.call(f"remove secret {uuid}", discard)

    async def user_of(self, uuid: UUID) -> str | None:
        """Search all definitions: rather one too many than one too few, so their text and not what it means."""
        return await self._session.call(f"read who uses secret {uuid}", lambda: _user_of(self._session.open(), uuid))


def secret_usages(connection: LibvirtConnection) -> tuple[str, ...]:
    """The usages of secrets that can be kept here; none where this libvirt has no secrets or their daemon is away.

    Blocking.
    """
    try:
        connection.numOfSecrets()
    except libvirt.libvirtError:
        return ()
    return tuple(sorted(SecretUsage))


def told_by_secrets(connection: LibvirtConnection, facts: VmFacts) -> Iterator[Obstacle]:
    """Why a secret of a VM could not be handed over. Reads no value. Blocking. Raises libvirt's errors."""
    for use in facts.secrets:
        uuid = _lookup(connection, use)
        secret = None if uuid is None else _by_uuid(connection, uuid)
        if secret is None:
            yield Obstacle(
                ObstacleCode.SECRET, f"the secret of {use.device} is not there any more; define it again (virsh)"
            )
        elif etree.fromstring(secret.XMLDesc(0)).get("private") == "yes":
            yield Obstacle(
                ObstacleCode.SECRET,
                f"the secret of {use.device} is private, so that libvirt tells it to nobody; define it again with "
                f"private='no' (virsh secret-define), and set its value",
            )


def secret_xml(spec: SecretSpec) -> str:
    """What libvirt defines the secret from; the value is no part of it."""
    element = _USAGE_ELEMENTS[spec.usage]
    return (
        f"<secret ephemeral='no' private='no'><uuid>{spec.uuid}</uuid>"
        f"<description>{escape(spec.description)}</description>"
        f"<usage type={quoteattr(spec.usage)}><{element}>{escape(spec.usage_id)}</{element}></usage></secret>"
    )


def _lookup(connection: LibvirtConnection, use: SecretUse) -> UUID | None:
    if not use.usage_id:
        try:
            uuid = UUID(use.uuid)
        except ValueError:
            return None
        return uuid if _by_uuid(connection, uuid) is not None else None
    try:
        return UUID(connection.secretLookupByUsage(_USAGE_TYPES[use.usage], use.usage_id).UUIDString())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SECRET:
            return None
        raise


def _by_uuid(connection: LibvirtConnection, uuid: UUID) -> LibvirtSecret | None:
    try:
        return connection.secretLookupByUUIDString(str(uuid))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SECRET:
            return None
        raise


def _user_of(connection: LibvirtConnection, uuid: UUID) -> str | None:
    secret = _by_uuid(connection, uuid)
    names = {str(uuid)}
    if secret is not None and secret.usageID():
        names.add(quoteattr(secret.usageID())[1:-1])
    for domain in connection.listAllDomains():
        try:
            xmls = domain_xmls(domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            continue  # it ended meanwhile
        if any(name in xml for xml in xmls for name in names):
            return domain.name()
    return None
