"""What DNS says of a VM."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.broker.dns_records import DnsMark, DnsRecords, label_of, parse_mark

VM = UUID("aaaa1111-0000-4000-8000-000000000001")
MARK = DnsMark(VM, 3, "beta")


def test_a_mark_is_read_back() -> None:
    """Its text has the epoch, the provider and the VM."""
    assert str(MARK) == "epoch=3 provider=beta vm=aaaa1111-0000-4000-8000-000000000001"
    assert parse_mark(str(MARK)) == MARK


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=spf1 -all",
        f"epoch=-1 provider=beta vm={VM}",
        f"epoch=3 provider= vm={VM}",
        "epoch=3 provider=beta vm=web",
        f"epoch=3 provider=beta vm={VM} ",
        f"epoch={'9' * 40} provider=beta vm={VM}",
        f"epoch=3 provider=beta vm={VM}\n",
    ],
)
def test_other_texts_are_no_marks(text: str) -> None:
    """Whatever a stranger has put there."""
    assert parse_mark(text) is None


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("web", "web"),
        ("Web-01", "web-01"),
        ("w" * 63, "w" * 63),
        ("w" * 64, str(VM)),
        ("web.prod", str(VM)),
        ("_vmport", str(VM)),
        ("-web", str(VM)),
        ("wäb", str(VM)),
        ("", str(VM)),
        ("*", str(VM)),
        ("bbbb1111-0000-4000-8000-000000000002", str(VM)),
    ],
)
def test_the_label_of_a_vm(name: str, label: str) -> None:
    """Its name, if that is a host's name; never the id of another VM."""
    assert label_of(name, VM) == label


def test_addresses_by_family() -> None:
    """A and AAAA."""
    records = DnsRecords(MARK, ("192.0.2.7", "2001:db8::7", "192.0.2.8"))
    assert (records.ipv4, records.ipv6) == (("192.0.2.7", "192.0.2.8"), ("2001:db8::7",))
