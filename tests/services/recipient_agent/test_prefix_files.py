"""Proofs as they lie in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.recipient_agent.prefix_files import PrefixFiles, PrefixSection
from services.recipient_agent.prefix_proof import Code, unproven
from shared.messages.network import CardAddress, CardNetwork, VmNetwork
from shared.prefix_authorisation import sign
from tests.support.prefix_samples import DONOR_AS, HOLDER, NOW, OUR_AS, PREFIX, STRANGER, authorisation

VM = VmNetwork(
    cards=(
        CardNetwork(
            mac="52:54:00:00:00:01",
            addresses=(CardAddress(address="198.51.100.7"),),
            on_link=(PREFIX,),
            announced_by="alpha",
            holder="acme",
        ),
    )
)


class Files:
    """All proofs, as files."""

    def __init__(self, folder: Path) -> None:
        self.roas, self.routes = folder / "roas.json", folder / "routes.rpsl"
        self.word, self.key = folder / "acme.json", folder / "acme.pem"
        entries = [{"asn": f"AS{each}", "prefix": PREFIX, "maxLength": 24, "ta": "x"} for each in (DONOR_AS, OUR_AS)]
        self.roas.write_text(json.dumps({"roas": entries}))
        self.routes.write_text(f"route: {PREFIX}\norigin: AS{OUR_AS}\n")
        self.word.write_text(sign(authorisation(), HOLDER.private).model_dump_json())
        self.key.write_text(HOLDER.public)

    def broken(self, name: str, content: bytes) -> Path:
        """One of them has another content."""
        path: Path = getattr(self, name)
        path.write_bytes(content)
        return path

    @staticmethod
    def made_a_folder(path: Path) -> None:
        """In place of the file."""
        path.unlink()
        path.mkdir()

    def opened(self, **changes: Any) -> PrefixFiles:
        """As settings name them."""
        facts: dict[str, Any] = {
            "as_numbers": {"alpha": DONOR_AS, "beta": OUR_AS},
            "roas_file": self.roas,
            "route_files": (self.routes,),
            "authorisation_files": (self.word,),
            "holder_keys": {"acme": self.key},
        }
        return PrefixFiles(PrefixSection(**(facts | changes)), "beta")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def codes(opened: PrefixFiles) -> list[Code]:
    return [each.code for each in unproven(VM, await opened.current(), NOW)]


async def test_all_is_proven(files: Files) -> None:
    """By what lies there."""
    assert await codes(files.opened()) == []


async def test_nothing_is_configured() -> None:
    """Then nothing public is announced."""
    found = await codes(PrefixFiles(PrefixSection(), "beta"))
    assert found == [Code.AUTHORISATION_MISSING, Code.ASN_UNKNOWN]


async def test_a_changed_file_is_read_again(files: Files) -> None:
    """Others are not."""
    opened = files.opened()
    first = await opened.current()
    assert await opened.current() is first
    files.routes.write_text("")
    assert await codes(opened) == [Code.IRR_MISSING]
    files.routes.write_text(f"route: {PREFIX}\norigin: AS{OUR_AS}\n")
    assert await codes(opened) == []


async def test_another_key_or_none(files: Files) -> None:
    """Whoever signs for the holder must be known as the holder."""
    files.key.write_text(STRANGER.public)
    assert await codes(files.opened()) == [Code.AUTHORISATION_NOT_SIGNED]
    assert await codes(files.opened(holder_keys={})) == [Code.AUTHORISATION_NOT_SIGNED]


@pytest.mark.parametrize("name", ["roas", "routes", "word", "key"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"route: x\n"])
async def test_what_cannot_be_used_is_named(files: Files, name: str, content: bytes) -> None:
    """A file that is broken, gone, a folder or a circle of links."""
    opened = files.opened()
    path = files.broken(name, content)
    found = await codes(opened)
    assert (Code.PROOF_UNREADABLE in found) or (name == "routes" and found == [Code.IRR_MISSING])
    for damage in (Path.unlink, lambda gone: gone.symlink_to(gone)):
        damage(path)
        assert Code.PROOF_UNREADABLE in await codes(files.opened())
    files.made_a_folder(path)
    proofs = await files.opened().current()
    assert any(("acme.json" if name == "key" else path.name) in each for each in proofs.unreadable)
