"""Dynamic updates (RFC 2136) of one zone at one name server, signed by TSIG. The only module that knows dnspython.

Every change is a comparison and a write in one: it has the mark that is expected as its prerequisite, so that the
server itself refuses what was decided on an older state. Over TCP: an update must neither be lost nor come late.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update

from services.broker.dns_records import MARK, DnsRecords
from shared.errors import VmportError

ALGORITHMS: Final = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
_OTHERWISE = frozenset(
    {dns.rcode.YXDOMAIN, dns.rcode.YXRRSET, dns.rcode.NXRRSET, dns.rcode.NXDOMAIN}  # RFC 2136, 3.2
)
_LATER = frozenset({dns.rcode.SERVFAIL})


class DnsUnavailable(VmportError):
    """The name server does not answer, or cannot write now."""

    code = "dns_unavailable"


class DnsRefused(VmportError):
    """The name server answers, and will not do it: a key, a right or a zone is not as the settings say."""

    code = "dns_refused"


class DnsChanged(VmportError):
    """The zone is not as it was expected; nothing was written."""

    code = "dns_changed"


class BadDnsKey(VmportError):
    """The update key cannot be used."""

    code = "bad_dns_key"


@dataclass(frozen=True, slots=True, repr=False)
class UpdateKey:
    """A TSIG key; `secret` is in base64."""

    name: str
    algorithm: str
    secret: str

    def keyring(self) -> dict[dns.name.Name, Any]:
        """For dnspython. Raises `BadDnsKey`."""
        try:
            name = dns.name.from_text(self.name)
            secret = base64.b64decode(self.secret.strip(), validate=True)
        except (binascii.Error, ValueError, dns.exception.DNSException) as error:
            raise BadDnsKey(f"update key {self.name}: not a name and a secret in base64") from error
        if len(secret) < 16:
            raise BadDnsKey(f"update key {self.name}: its secret has {len(secret)} bytes, at least 16 are needed")
        return {name: dns.tsig.Key(name, secret, self.algorithm)}


class NameServer:
    """The primary server of a zone."""

    def __init__(
        self, address: str, port: int, zone: str, key: UpdateKey, *, ttl_s: int = 10, timeout_s: float = 5.0
    ) -> None:
        self.shown: Final = f"{address}@{port}"
        self.zone: Final = zone
        self.ttl_s: Final = ttl_s
        self._address, self._port = address, port
        self._timeout_s = timeout_s
        self._keyring = key.keyring()
        self._zone = dns.name.from_text(zone)

    async def write(self, label: str, expected: tuple[str, ...], records: DnsRecords | None) -> None:
        """Replace what is said of a label, or remove it. `expected` are the texts at its mark.

        With none, nobody may have the label. Raises `DnsChanged`, `DnsRefused` or `DnsUnavailable`.
        """
        update = dns.update.UpdateMessage(self._zone, keyring=self._keyring)
        mark = f"{MARK}.{label}"
        if expected:
            for text in expected:
                update.present(mark, dns.rdatatype.TXT, _quoted(text))
        else:
            update.absent(label)
            update.absent(mark)
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            update.delete(label, kind)
        update.delete(mark, dns.rdatatype.TXT)
        if records is not None:
            for kind, addresses in ((dns.rdatatype.A, records.ipv4), (dns.rdatatype.AAAA, records.ipv6)):
                for address in addresses:
                    update.add(label, self.ttl_s, kind, address)
            update.add(mark, self.ttl_s, dns.rdatatype.TXT, _quoted(str(records.mark)))
        rcode = (await self._ask(update)).rcode()
        if rcode in _OTHERWISE:
            raise DnsChanged(f"{label}.{self.zone}: {dns.rcode.to_text(rcode)}")
        self._check(rcode, f"update of {label}.{self.zone}")

    async def marks(self, label: str) -> tuple[str, ...]:
        """The texts at a label's mark, as the server has them now, sorted, since a name's records have no order. Raises
        `DnsRefused` or `DnsUnavailable`.
        """
        name = dns.name.from_text(f"{MARK}.{label}", self._zone)
        query = dns.message.make_query(name, dns.rdatatype.TXT, flags=0)
        query.use_tsig(self._keyring)
        answer = await self._ask(query)
        if answer.rcode() == dns.rcode.NXDOMAIN:
            return ()
        self._check(answer.rcode(), f"query for {name}")
        if not answer.flags & dns.flags.AA:
            raise DnsRefused(f"{self.shown}: not a server of zone {self.zone}")
        found = answer.get_rrset(dns.message.ANSWER, name, dns.rdataclass.IN, dns.rdatatype.TXT)
        return tuple(sorted(b"".join(each.strings).decode("utf-8", "replace") for each in found or ()))

    async def _ask(self, message: dns.message.Message) -> dns.message.Message:
        backend = dns.asyncbackend.get_backend("asyncio")
        asked: Awaitable[dns.message.Message] = dns.asyncquery.tcp(
            message, self._address, timeout=self._timeout_s, port=self._port, backend=backend
        )
        try:
            return await asked
        except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.tsig.BadTime, dns.tsig.BadKey) as error:
            raise DnsRefused(f"{self.shown}: {_told(error)}") from error
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise DnsUnavailable(f"{self.shown}: {_told(error)}") from error

    def _check(self, rcode: dns.rcode.Rcode, what: str) -> None:
        if rcode in _LATER:
            raise DnsUnavailable(f"{self.shown}: {what}: {dns.rcode.to_text(rcode)}")
        if rcode != dns.rcode.NOERROR:
            raise DnsRefused(f"{self.shown}: {what}: {dns.rcode.to_text(rcode)}")


def _quoted(text: str) -> str:
    """A text in the form of zone files; whatever a stranger has put there is compared as it is."""
    escaped = "".join(
        f"\\{byte:03d}" if byte in b'"\\' or not 32 <= byte < 127 else chr(byte) for byte in text.encode()
    )
    return f'"{escaped}"'


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
