"""The library's front door: silent, quick to fail with a clear error, and usable from its own example."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import vmport
from shared.parties import tenant
from tests.support.rabbitmq_node import RabbitNode

PROGRAM = """
import asyncio
import vmport

async def main():
    try:
        async with vmport.connect({url!r}, timeout_s=1) as client:
            await client.vms()
    except vmport.errors.VmportError as error:
        raise SystemExit(error.code)

asyncio.run(main())
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://foo", "url: expected amqp://"),
        ("amqp://tenant.acme@host/v", "give the password"),
        ("amqp://broker:x@host/v", "speaks as: tenant"),
    ],
)
async def test_an_url_that_cannot_be_used_is_named(url: str, words: str) -> None:
    """Before anything is connected."""
    with pytest.raises(vmport.errors.ConfigError, match=re.escape(words)):
        async with vmport.connect(url):
            pass


async def test_the_url_itself_is_in_no_error() -> None:
    """It holds a password."""
    with pytest.raises(vmport.errors.ConfigError) as caught:
        async with vmport.connect("amqp://nobody:hidden@host/v"):
            pass
    assert "hidden" not in str(caught.value)


def test_importing_writes_nothing() -> None:
    """A library is silent."""
    done = run("import vmport; assert vmport.__version__")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.servers
def test_a_session_writes_nothing(rabbitmq: RabbitNode) -> None:
    """Connected, asked, not answered (no broker runs): the program's own error is all that is written."""
    url = f"amqp://tenant.acme:{rabbitmq.password(tenant('acme'))}@127.0.0.1:{rabbitmq.port}/vmport"
    done = run(PROGRAM.format(url=url))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "timed_out\n")


def test_the_example_is_python() -> None:
    """The example in the docstring compiles and names what is there."""
    example = textwrap.dedent((vmport.__doc__ or "").partition("\n\n")[2].rpartition("\n\nEvery")[0])
    compile(example, "example", "exec")
    for name in re.findall(r"vmport\.(\w+)", example):
        assert hasattr(vmport, name), name


def test_the_package_is_typed() -> None:
    """Type checkers read its annotations."""
    assert (Path(vmport.__file__).parent / "py.typed").exists()
