"""The form of a definition that may leave its host."""

from __future__ import annotations

from shared.domain import guest_abi_differences, portable, read_definition
from tests.support.domain_samples import DOMAIN, with_device

HOST_WORDS = ("/images", "br-alpha", "vnet3", "192.0.2.7", "/dev/pts", "/usr/bin", "/boot/alpha", "/var/log", "5901")


def test_nothing_of_the_host_is_in_it() -> None:
    """No path, socket, bridge, address or port; the guest sees the same machine."""
    text = portable(DOMAIN)

    assert [word for word in HOST_WORDS if word in text] == []
    assert guest_abi_differences(DOMAIN, text) == []


def test_a_password_is_not_in_it() -> None:
    """Not even where libvirt shows it."""
    assert "s3cret" not in portable(DOMAIN.replace("autoport='yes'", "autoport='no' passwd='s3cret'"))


def test_it_reads_back_without_a_finding() -> None:
    """What was carried once is carried again, and is the same."""
    text = portable(DOMAIN)

    assert read_definition(text).findings == ()
    assert portable(text) == text


def test_what_is_kept_in_a_host_bound_part_keeps_its_frame() -> None:
    """The socket of a channel is the host's, its name is the guest's."""
    text = portable(
        with_device(
            "<channel type='spiceport'><source channel='org.x.0'/><target type='virtio' name='org.x.0'/></channel>"
        )
    ).replace('"', "'")

    assert "<source channel='org.x.0'/>" in text


def test_blanks_at_the_ends_of_a_name_are_kept() -> None:
    """They are part of the name; elsewhere they mean nothing."""
    text = portable(DOMAIN.replace("<name>web</name>", "<name> web </name>").replace(">262144</mem", "> 262144\n</mem"))

    assert "<name> web </name>" in text
    assert ">262144</memory>" in text


def test_a_definition_that_is_refused_still_has_one() -> None:
    """It holds what would be carried; what is refused is not in it."""
    assert "hostdev" not in portable(with_device("<hostdev mode='subsystem' type='pci'/>"))
