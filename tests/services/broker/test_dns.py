"""Dynamic updates as they go over the wire, to a server that answers by a script."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from uuid import UUID

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.update
import pytest

from services.broker.dns import BadDnsKey, DnsChanged, DnsRefused, DnsUnavailable, NameServer, UpdateKey
from services.broker.dns_records import DnsMark, DnsRecords

SECRET = base64.b64encode(bytes(range(32))).decode()
KEY = UpdateKey("vmport", "hmac-sha256", SECRET)
MARK = DnsMark(UUID(int=1), 2, "beta")
RECORDS = DnsRecords(MARK, ("192.0.2.7", "2001:db8::7"))


class Server:
    """One question per connection, answered by `rcode`; signed unless told otherwise."""

    def __init__(self) -> None:
        self.port = 0
        self.rcode = dns.rcode.NOERROR
        self.texts: tuple[str, ...] = ()
        self.flags = dns.flags.AA
        self.signs = True
        self.hangs_up = False
        self.heard: list[dns.message.Message] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        question = dns.message.from_wire(wire, keyring=KEY.keyring())
        self.heard.append(question)
        if not self.hangs_up:
            if not self.signs:
                question.tsig = None
            answer = dns.message.make_response(question)
            answer.set_rcode(self.rcode)
            answer.flags |= self.flags
            if self.texts:
                name = question.question[0].name
                answer.answer.append(dns.rrset.from_text(name, 10, "IN", "TXT", *(f'"{text}"' for text in self.texts)))
            reply = answer.to_wire()
            writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Listens on loopback."""
    made = Server()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as listening:
        made.port = listening.sockets[0].getsockname()[1]
        yield made


def client(server: Server, *, timeout_s: float = 5.0) -> NameServer:
    return NameServer("127.0.0.1", server.port, "vm.example", KEY, ttl_s=7, timeout_s=timeout_s)


def sections(message: dns.message.Message) -> tuple[list[str], list[str]]:
    """Prerequisites and updates, as text."""
    assert isinstance(message, dns.update.UpdateMessage)
    prerequisites = [line for each in message.prerequisite for line in each.to_text().splitlines()]
    return prerequisites, [line for each in message.update for line in each.to_text().splitlines()]


async def test_the_first_write_needs_a_free_label(server: Server) -> None:
    """Neither the label nor its mark may be in use."""
    await client(server).write("web", (), RECORDS)
    prerequisites, updates = sections(server.heard[0])
    assert prerequisites == ["web.vm.example. NONE ANY", "_vmport.web.vm.example. NONE ANY"]
    assert updates == [
        "web.vm.example. ANY A",
        "web.vm.example. ANY AAAA",
        "_vmport.web.vm.example. ANY TXT",
        "web.vm.example. 7 IN A 192.0.2.7",
        "web.vm.example. 7 IN AAAA 2001:db8::7",
        f'_vmport.web.vm.example. 7 IN TXT "{MARK}"',
    ]
    assert server.heard[0].had_tsig


async def test_each_later_write_expects_the_mark_before(server: Server) -> None:
    """Byte by byte, whatever stands there; removing is the same without records."""
    await client(server).write("web", ("epoch=1", 'a "b" \\ ü'), None)
    prerequisites, updates = sections(server.heard[0])
    assert prerequisites == [
        '_vmport.web.vm.example. 0 IN TXT "epoch=1"',
        '_vmport.web.vm.example. 0 IN TXT "a \\"b\\" \\\\ \\195\\188"',
    ]
    assert all(" ANY " in line for line in updates)


@pytest.mark.parametrize(
    ("rcode", "error"),
    [
        (dns.rcode.YXDOMAIN, DnsChanged),
        (dns.rcode.NXRRSET, DnsChanged),
        (dns.rcode.SERVFAIL, DnsUnavailable),
        (dns.rcode.REFUSED, DnsRefused),
        (dns.rcode.NOTAUTH, DnsRefused),
        (dns.rcode.NOTZONE, DnsRefused),
    ],
)
async def test_what_the_server_answers(server: Server, rcode: dns.rcode.Rcode, error: type[Exception]) -> None:
    """Changed meanwhile, later, or never."""
    server.rcode = rcode
    with pytest.raises(error, match=dns.rcode.to_text(rcode)):
        await client(server).write("web", (), RECORDS)


async def test_marks_are_read(server: Server) -> None:
    """All texts that are there, in one order; none is no error."""
    server.texts = ("other", "epoch=1")
    assert await client(server).marks("web") == ("epoch=1", "other")
    server.texts = ()
    assert await client(server).marks("web") == ()
    server.rcode = dns.rcode.NXDOMAIN
    assert await client(server).marks("web") == ()
    server.rcode, server.flags = dns.rcode.NOERROR, dns.flags.RA
    with pytest.raises(DnsRefused, match="not a server of zone"):
        await client(server).marks("web")


async def test_an_answer_that_is_not_signed_is_not_believed(server: Server) -> None:
    """Anybody on the way could have written it."""
    server.signs = False
    with pytest.raises((DnsRefused, DnsUnavailable)):
        await client(server).write("web", (), RECORDS)


async def test_a_server_that_does_not_answer(server: Server) -> None:
    """Whether it hangs up or is not there."""
    server.hangs_up = True
    with pytest.raises(DnsUnavailable):
        await client(server).write("web", (), RECORDS)
    gone = NameServer("127.0.0.1", 1, "vm.example", KEY, timeout_s=2)
    with pytest.raises(DnsUnavailable, match=r"127\.0\.0\.1@1"):
        await gone.marks("web")


@pytest.mark.parametrize("secret", ["", "not base64!", base64.b64encode(b"short").decode()])
def test_a_key_that_cannot_be_used(secret: str) -> None:
    """It is named, and its secret is not told."""
    with pytest.raises(BadDnsKey, match="update key vmport") as caught:
        NameServer("127.0.0.1", 53, "vm.example", UpdateKey("vmport", "hmac-sha256", secret))
    assert not secret or secret not in str(caught.value)
    assert "secret" not in repr(KEY) or SECRET not in repr(KEY)
