"""Images with LUKS inside: made like the donor's, with a key that is on no command line and on no disk."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.node_agent.hypervisor import disk_images, luks
from services.node_agent.hypervisor.disk_images import DiskImageError, qemu_img
from services.node_agent.hypervisor.luks import LuksOptions, create_encrypted, is_encrypted, luks_options
from services.node_agent.hypervisor.secret_values import SecretValue

KEY = SecretValue(b"a key with, commas = and blanks")
CIPHER = LuksOptions({"cipher-alg": "aes-128", "cipher-mode": "cbc", "ivgen-alg": "plain64", "hash-alg": "sha1"})


@pytest.mark.parametrize(
    "values", [{"iter-time": "1"}, {"cipher-alg": "aes,file=/etc/passwd"}, {"cipher-alg": 5}, {"cipher-alg": ""}]
)
def test_an_option_is_a_name_that_qemu_may_know(values: dict[str, Any]) -> None:
    """It comes from the donor and goes into a command line."""
    with pytest.raises(ValueError, match="no option"):
        LuksOptions(values)


@pytest.mark.servers
async def test_a_new_image_is_encrypted_like_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same key and cipher; the key is in no argument, and no file of it is left."""
    commands: list[str] = []
    start = asyncio.create_subprocess_exec

    async def seen(*command: str, **more: Any) -> asyncio.subprocess.Process:
        commands.extend(command)
        return await start(*command, **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", seen)
    first, second = tmp_path / "1.qcow2", tmp_path / "2.qcow2"
    await create_encrypted(str(first), 1 << 20, KEY, CIPHER)
    await create_encrypted(str(second), 1 << 20, KEY, await luks_options(str(first)))

    assert dict((await luks_options(str(second))).values) == dict(CIPHER.values)
    assert is_encrypted(str(second))
    assert disk_images.virtual_size_bytes(str(second), "qcow2") == 1 << 20
    assert not any("commas" in word for word in commands)
    assert sorted(os.listdir(tmp_path)) == ["1.qcow2", "2.qcow2"]
    opened = tmp_path / "key"
    opened.write_bytes(KEY.reveal())
    options = f"driver=qcow2,encrypt.key-secret=k,file.filename={second}"
    read = ("convert", "--object", f"secret,id=k,file={opened}", "--image-opts", "-O", "raw", options)
    await qemu_img(str(second), *read, str(tmp_path / "plain.raw"))
    assert (tmp_path / "plain.raw").stat().st_size == 1 << 20
    opened.write_bytes(b"another key")
    with pytest.raises(DiskImageError, match="Invalid password"):
        await qemu_img(str(second), *read, str(tmp_path / "nothing.raw"))


@pytest.mark.servers
async def test_what_is_not_encrypted_by_luks_has_no_options(tmp_path: Path) -> None:
    """Nor is a file taken for one."""
    image = tmp_path / "plain.qcow2"
    await disk_images.create(str(image), "qcow2", 1 << 20)
    assert not is_encrypted(str(image))
    with pytest.raises(DiskImageError, match="not encrypted"):
        await luks_options(str(image))
    with pytest.raises(DiskImageError):
        is_encrypted(str(tmp_path / "nothing"))


async def test_an_image_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    """Whatever it is."""
    image = tmp_path / "a.qcow2"
    image.write_bytes(b"precious")
    with pytest.raises(DiskImageError) as caught:
        await create_encrypted(str(image), 1 << 20, KEY, CIPHER)
    assert caught.value.code == "disk_exists"
    assert image.read_bytes() == b"precious"


async def test_an_image_that_is_not_encrypted_in_the_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A qemu-img that ignored the options would leave what the tenant encrypts in clear."""

    async def ignores(*_: object, **__: object) -> bytes:
        return b""

    monkeypatch.setattr(luks, "qemu_img", ignores)
    with pytest.raises(DiskImageError, match="not encrypted"):
        await create_encrypted(str(tmp_path / "a.qcow2"), 1 << 20, KEY, CIPHER)


@pytest.mark.parametrize(
    "said", ["", "[]", "{}", json.dumps({"format-specific": {"data": {"encrypt": {"format": "aes"}}}})]
)
async def test_what_qemu_img_says_is_not_trusted(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """Nothing, something else, or the old encryption."""

    async def says(*_: object, **__: object) -> bytes:
        return said.encode()

    monkeypatch.setattr(luks, "qemu_img", says)
    with pytest.raises(DiskImageError, match="LUKS"):
        await luks_options("/image")
