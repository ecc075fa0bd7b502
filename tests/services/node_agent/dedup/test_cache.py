"""What ports leave behind: found for the same VM only, gone by time and quota."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from services.node_agent.dedup.block_index import BlockIndex
from services.node_agent.dedup.cache import Cache

VM, OTHER_VM = uuid4(), uuid4()
SIZE = 64 * 1024


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "contents", BlockIndex(tmp_path / "index"), keep_s=100.0, quota_bytes=3 * SIZE)


def leave(cache: Cache, vm: UUID, port: UUID, written_s: float) -> Path:
    folder = cache.folder(vm, port, "received")
    folder.mkdir(parents=True)
    file = folder / "memory.contents"
    file.write_bytes(os.urandom(SIZE))
    os.utime(file, (written_s, written_s))
    os.utime(folder, (written_s, written_s))
    return file


def test_files_are_of_this_vm_and_of_other_ports(cache: Cache) -> None:
    """The newest first; another VM's contents, and those of the port itself, are never among them."""
    first, second, own = uuid4(), uuid4(), uuid4()
    old, new = leave(cache, VM, first, 10.0), leave(cache, VM, second, 20.0)
    leave(cache, VM, own, 30.0)
    leave(cache, OTHER_VM, uuid4(), 30.0)
    assert cache.files(VM, other_than=own) == (new, old)
    assert cache.files(uuid4(), other_than=own) == ()


def test_old_ones_go(cache: Cache, tmp_path: Path) -> None:
    """After the time that is set; the VM's folder goes with the last of them."""
    file = leave(cache, VM, uuid4(), 1000.0)
    assert cache.sweep(1100.0, active=()) == SIZE
    assert file.exists()
    assert cache.sweep(1101.0, active=()) == 0
    assert not list((tmp_path / "contents").iterdir())


def test_the_oldest_go_when_the_quota_is_exceeded(cache: Cache) -> None:
    """Whatever VM they are of."""
    files = [leave(cache, vm, uuid4(), 1000.0 + at) for at, vm in enumerate([VM, OTHER_VM, VM, OTHER_VM, VM])]
    assert cache.sweep(1010.0, active=()) == 3 * SIZE
    assert [file.exists() for file in files] == [False, False, True, True, True]


def test_a_port_under_way_keeps_its_own(cache: Cache) -> None:
    """However old or large."""
    port = uuid4()
    file = leave(cache, VM, port, 0.0)
    assert cache.sweep(1e9, active=(port,)) == SIZE
    assert file.exists()


def test_nothing_there_is_nothing_to_do(cache: Cache) -> None:
    """On a new node."""
    assert cache.sweep(0.0, active=()) == 0
