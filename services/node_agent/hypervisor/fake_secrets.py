"""The fake host's secrets: values in memory, with libvirt's rules. For tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from services.node_agent.hypervisor.interface import Obstacle, ObstacleCode, SecretError
from services.node_agent.hypervisor.secret_values import SecretSpec, SecretValue, made_by
from shared.domain import SecretUse, VmFacts


@dataclass(frozen=True, slots=True)
class FakeSecret:
    """One secret. A private one is told to nobody."""

    spec: SecretSpec
    value: SecretValue
    private: bool = False


class FakeSecrets:
    """A host's secrets by UUID; an `interface.SecretStore`. `fail_keep` is the reason why none can be made."""

    def __init__(self, ask_libvirtd: Callable[[], None], definitions: Callable[[], Iterator[tuple[str, str]]]) -> None:
        """`ask_libvirtd` raises where there is none; `definitions` are names and XML of all VMs."""
        self.there: dict[UUID, FakeSecret] = {}
        self.fail_keep: str | None = None
        self.kept: list[SecretSpec] = []
        self._ask_libvirtd = ask_libvirtd
        self._definitions = definitions

    def add(self, spec: SecretSpec, value: bytes, *, private: bool = False) -> None:
        """An operator defines one."""
        self.there[spec.uuid] = FakeSecret(spec, SecretValue(value), private)

    def named_by(self, use: SecretUse) -> FakeSecret | None:
        """As libvirt looks it up, usage included."""
        for secret in self.there.values():
            named = use.usage_id == secret.spec.usage_id if use.usage_id else use.uuid == str(secret.spec.uuid)
            if named and use.usage is secret.spec.usage:
                return secret
        return None

    async def find(self, use: SecretUse) -> UUID:
        """Look it up."""
        self._ask_libvirtd()
        secret = self.named_by(use)
        if secret is None:
            raise SecretError(f"find the secret of {use.device}", "libvirt has no such secret")
        return secret.spec.uuid

    async def read(self, uuid: UUID) -> SecretValue:
        """Tell it, if it may be told."""
        self._ask_libvirtd()
        secret = self.there.get(uuid)
        if secret is None or secret.private:
            raise SecretError(f"read secret {uuid}", "secret is private" if secret else "libvirt has no such secret")
        return secret.value

    async def keep(self, spec: SecretSpec, value: SecretValue) -> None:
        """Make it, if neither UUID nor usage is taken."""
        self._ask_libvirtd()
        if self.fail_keep is not None:
            raise SecretError(f"make secret {spec.uuid}", self.fail_keep)
        usages = {(each.spec.usage, each.spec.usage_id) for each in self.there.values()}
        if spec.uuid in self.there or (spec.usage, spec.usage_id) in usages:
            raise SecretError(f"make secret {spec.uuid}", "there is a secret of this UUID or usage already")
        self.kept.append(spec)
        self.there[spec.uuid] = FakeSecret(spec, value)

    async def discard(self, uuid: UUID, *, owner: UUID | None = None) -> None:
        """Remove it, if it is there and the owner's."""
        self._ask_libvirtd()
        secret = self.there.get(uuid)
        if secret is not None and (owner is None or secret.spec.usage_id.startswith(made_by(owner))):
            del self.there[uuid]

    async def user_of(self, uuid: UUID) -> str | None:
        """Search all definitions."""
        self._ask_libvirtd()
        secret = self.there.get(uuid)
        names = {str(uuid)} | ({secret.spec.usage_id} if secret else set())
        return next((vm for vm, xml in self._definitions() if any(name in xml for name in names)), None)

    def obstacles(self, facts: VmFacts) -> Iterator[Obstacle]:
        """Why a secret of a VM could not be handed over."""
        for use in facts.secrets:
            secret = self.named_by(use)
            if secret is None or secret.private:
                why = "is not there any more" if secret is None else "is private"
                yield Obstacle(ObstacleCode.SECRET, f"the secret of {use.device} {why}")
