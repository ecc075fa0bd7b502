"""libvirtd's secrets, as it answers; what the calls do is in the contract."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import libvirt
import pytest
from lxml import etree

from services.node_agent.hypervisor.interface import ObstacleCode
from services.node_agent.hypervisor.libvirt_secrets import secret_usages, secret_xml, told_by_secrets
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection
from services.node_agent.hypervisor.secret_values import SecretSpec
from shared.domain import SecretUsage, VmFacts, describe
from tests.support.domain_samples import with_device

KEY = UUID(int=1)


def failure(code: int) -> libvirt.libvirtError:
    """An error of libvirt's with this code."""
    error = libvirt.libvirtError("it failed")
    error.err = (code, 0, "it failed", 2, "", None, None, 0, 0)
    return error


class Secret:
    """One that libvirtd has."""

    def __init__(self, *, private: bool) -> None:
        self.private = "yes" if private else "no"

    def UUIDString(self) -> str:  # noqa: N802  # libvirt's name
        """Its UUID."""
        return str(KEY)

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802  # libvirt's name
        """Its definition."""
        return f"<secret ephemeral='no' private='{self.private}'><uuid>{KEY}</uuid></secret>"


class Connection:
    """libvirtd, with one secret or an error."""

    def __init__(self, secret: Secret | None = None, error: int = libvirt.VIR_ERR_NO_SECRET) -> None:
        self.secret = secret
        self.error = error
        self.looked_up: list[Any] = []

    def numOfSecrets(self) -> int:  # noqa: N802  # libvirt's name
        """How many."""
        return len([self._found()])

    def secretLookupByUUIDString(self, uuid: str) -> Secret:  # noqa: N802  # libvirt's name
        """By UUID."""
        self.looked_up.append(uuid)
        return self._found()

    def secretLookupByUsage(self, usage_type: int, usage_id: str) -> Secret:  # noqa: N802  # libvirt's name
        """By usage."""
        self.looked_up.append((usage_type, usage_id))
        return self._found()

    def _found(self) -> Secret:
        if self.secret is None:
            raise failure(self.error)
        return self.secret


def asked(connection: Connection) -> LibvirtConnection:
    """For the functions under test."""
    return cast("LibvirtConnection", connection)


def facts(secret: str = f"uuid='{KEY}'") -> VmFacts:
    """Of a VM with an encrypted disk."""
    return describe(
        with_device(
            "<disk><driver type='qcow2'/><source file='/l'><encryption format='luks'>"
            f"<secret type='passphrase' {secret}/></encryption></source><target dev='vdb' bus='virtio'/></disk>"
        )
    )


def test_a_libvirt_without_secrets_keeps_none() -> None:
    """Nor does one whose daemon for them is away; the heartbeat goes on."""
    assert secret_usages(asked(Connection(Secret(private=False)))) == ("volume", "vtpm")
    assert secret_usages(asked(Connection(error=libvirt.VIR_ERR_NO_SUPPORT))) == ()


def test_a_secret_that_cannot_be_told_is_an_obstacle() -> None:
    """Known before anything moves, without reading a value."""
    assert list(told_by_secrets(asked(Connection(Secret(private=False))), facts())) == []
    for connection, reason in ((Connection(Secret(private=True)), "private"), (Connection(), "not there")):
        (obstacle,) = told_by_secrets(asked(connection), facts())
        assert obstacle.code is ObstacleCode.SECRET
        assert reason in obstacle.detail
        assert "disk vdb" in obstacle.detail


def test_a_secret_may_be_named_by_its_usage() -> None:
    """As libvirt itself looks it up; what is no name is no secret."""
    connection = Connection(Secret(private=False))
    assert list(told_by_secrets(asked(connection), facts("usage='/the key'"))) == []
    assert connection.looked_up[0] == (libvirt.VIR_SECRET_USAGE_TYPE_VOLUME, "/the key")
    assert len(list(told_by_secrets(asked(connection), facts("uuid='none'")))) == 1


def test_another_error_is_no_answer() -> None:
    """A libvirtd that is away does not say that there is no secret."""
    for named in (f"uuid='{KEY}'", "usage='/k'"):
        with pytest.raises(libvirt.libvirtError):
            list(told_by_secrets(asked(Connection(error=libvirt.VIR_ERR_RPC)), facts(named)))


@pytest.mark.parametrize(("usage", "element"), [(SecretUsage.VOLUME, "volume"), (SecretUsage.VTPM, "name")])
def test_a_definition_lasts_and_has_no_value(usage: SecretUsage, element: str) -> None:
    """Not private: a VM that has come must be able to leave again."""
    root = etree.fromstring(secret_xml(SecretSpec(KEY, usage, "vmport <x> vda", "of VM a & b")))

    assert (root.get("ephemeral"), root.get("private")) == ("no", "no")
    assert root.findtext("uuid") == str(KEY)
    assert root.findtext("description") == "of VM a & b"
    assert root.xpath("string(usage/@type)") == usage
    assert root.findtext(f"usage/{element}") == "vmport <x> vda"
    assert {child.tag for child in root} == {"uuid", "description", "usage"}
