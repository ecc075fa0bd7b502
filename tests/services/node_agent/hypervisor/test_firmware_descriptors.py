"""Firmware descriptors: rank, sizes, and what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.node_agent.hypervisor.firmware_descriptors import MAX_DESCRIPTOR_BYTES, offer_of, read_firmware


def descriptor(folder: Path, **changes: Any) -> str:
    """A UEFI firmware whose files are in the folder."""
    code, template = folder / "CODE.fd", folder / "VARS.fd"
    code.write_bytes(bytes(4096))
    template.write_bytes(bytes(512))
    facts = {
        "description": "UEFI",
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(code), "format": "raw"},
            "nvram-template": {"filename": str(template), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["secure-boot", "requires-smm"],
        "tags": [],
    }
    return json.dumps({**facts, **changes})


def test_a_descriptor_with_its_files_is_an_offer(tmp_path: Path) -> None:
    """Sizes are those that a guest sees, read from the files."""
    (tmp_path / "60-edk2.json").write_text(descriptor(tmp_path))

    found = read_firmware([tmp_path])

    assert found.problems == ()
    (offer,) = found.offers
    assert (offer.name, offer.device, offer.interfaces) == ("60-edk2.json", "flash", ("uefi",))
    assert offer.description == "UEFI"
    assert (offer.code_bytes, offer.template_bytes) == (4096, 512)
    assert offer.targets[0].machines == ("pc-q35-*",)
    assert offer.features == ("secure-boot", "requires-smm")


def test_a_description_is_one_short_line(tmp_path: Path) -> None:
    """A message holds no more, and a descriptor that says more is still one."""
    (tmp_path / "60-edk2.json").write_text(descriptor(tmp_path, description="UEFI\n" + "x" * 300))

    (offer,) = read_firmware([tmp_path]).offers

    assert offer.description == "UEFI " + "x" * 251


def test_a_qcow2_image_has_its_virtual_size(tmp_path: Path) -> None:
    """The file is smaller than what the guest maps."""
    image = tmp_path / "CODE.qcow2"
    image.write_bytes(b"QFI\xfb" + bytes(20) + (4 << 20).to_bytes(8, "big") + bytes(40))
    mapping = {"device": "flash", "mode": "stateless", "executable": {"filename": str(image), "format": "qcow2"}}
    (tmp_path / "1.json").write_text(descriptor(tmp_path, mapping=mapping))

    (offer,) = read_firmware([tmp_path]).offers

    assert (offer.code_format, offer.code_bytes, offer.template) == ("qcow2", 4 << 20, None)


def test_a_higher_folder_replaces_and_hides(tmp_path: Path) -> None:
    """Rank is the file's name; an empty file in /etc hides the distribution's."""
    low, high = tmp_path / "usr", tmp_path / "etc"
    low.mkdir()
    high.mkdir()
    for name in ("50-a.json", "40-b.json", "60-c.json"):
        (low / name).write_text(descriptor(tmp_path))
    (high / "50-a.json").write_text("")
    (high / "60-c.json").write_text(descriptor(tmp_path, features=[]))

    offers = read_firmware([low, high, tmp_path / "none"]).offers

    assert [(offer.name, offer.features) for offer in offers] == [
        ("40-b.json", ("secure-boot", "requires-smm")),
        ("60-c.json", ()),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"interface-types": ["uefi"]}', "mapping"),
        ("x" * (MAX_DESCRIPTOR_BYTES + 1), "longer"),
    ],
)
def test_a_bad_descriptor_is_one_problem(tmp_path: Path, text: str, reason: str) -> None:
    """The others are used, and somebody is told."""
    (tmp_path / "1-bad.json").write_text(text)
    (tmp_path / "2-good.json").write_text(descriptor(tmp_path))

    found = read_firmware([tmp_path])

    assert [offer.name for offer in found.offers] == ["2-good.json"]
    assert len(found.problems) == 1
    assert "1-bad.json" in found.problems[0]
    assert reason in found.problems[0]


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    """A descriptor of a package that is half removed promises nothing."""
    (tmp_path / "1.json").write_text(descriptor(tmp_path))
    (tmp_path / "CODE.fd").unlink()

    found = read_firmware([tmp_path])

    assert found.offers == ()
    assert "No such file" in found.problems[0]


def test_what_is_loaded_as_memory_and_what_is_neither() -> None:
    """A ROM is one file without variables; a kernel is no firmware that a VM keeps."""
    common = {"interface-types": ["bios"], "targets": [], "features": []}
    memory = {**common, "mapping": {"device": "memory", "filename": "/usr/share/bios.bin"}}
    kernel = {**common, "mapping": {"device": "kernel", "filename": "/usr/share/u-boot.bin"}}

    offer = offer_of("1.json", json.dumps(memory).encode(), size_of=lambda _path, _format: 131072)

    assert offer is not None
    assert (offer.code, offer.code_bytes, offer.template) == ("/usr/share/bios.bin", 131072, None)
    assert offer_of("2.json", json.dumps(kernel).encode(), size_of=lambda _path, _format: 1) is None
