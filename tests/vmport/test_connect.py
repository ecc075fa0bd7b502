"""A tenant's connection for a Python program."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import vmport
from shared.client import connecting
from shared.client.settings import ClientSettings
from shared.messages.service_change import PortPhase
from tests.support.scripted_broker import ScriptedBroker, agreement_of, completed, shown_port, under_way

URL = "amqp://tenant.acme:secret@localhost/vmport"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ClientSettings]:
    """A scripted broker instead of RabbitMQ, for any settings; these are recorded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("VMPORT_CONFIG", "VMPORT_BUS__URL"):
        monkeypatch.delenv(name, raising=False)
    broker, settings = ScriptedBroker(), list[ClientSettings]()
    under_way(broker, completed)
    broker.record = lambda port_id: shown_port(port_id, PortPhase.TRANSFERRING, agreement=agreement_of(port_id))

    async def open_bus(given: ClientSettings) -> ScriptedBroker:
        settings.append(given)
        return broker

    monkeypatch.setattr(connecting, "open_bus", open_bus)
    return settings


async def test_connect_by_url(opened: list[ClientSettings]) -> None:
    """The URL alone is enough; the client listens while the block runs."""
    async with vmport.connect(URL) as client:
        assert isinstance(client, vmport.Client)
        assert [vm.name for vm in await client.vms()] == ["web", "shop"]
    assert str(opened[0].bus.party) == "tenant.acme"


async def test_connect_by_the_settings_of_the_command_line(
    opened: list[ClientSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a URL a program uses the user's file, and the environment over it."""
    file = tmp_path / ".config/vmport/vmport.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'[bus]\nurl = "{URL}"\nprefetch = 7\n')
    async with vmport.connect():
        monkeypatch.setenv("VMPORT_BUS__URL", URL.replace("acme", "globex"))
    async with vmport.connect(config=file):
        pass
    assert [(str(given.bus.party), given.bus.prefetch) for given in opened] == [
        ("tenant.acme", 7),
        ("tenant.globex", 7),
    ]


async def test_wrong_url() -> None:
    """A URL that cannot be used is a `ConfigError`, before anything is tried. It blames the argument, not an option."""
    with pytest.raises(vmport.ConfigError, match=r"^argument 'url': expected amqp://"):
        async with vmport.connect("http://foo"):
            raise AssertionError("there is nothing to connect to")


@pytest.mark.usefixtures("opened")
async def test_empty_url() -> None:
    """An empty one was given all the same: it is blamed."""
    with pytest.raises(vmport.ConfigError, match=r"^argument 'url': expected amqp://"):
        async with vmport.connect(""):
            raise AssertionError("there is nothing to connect to")


@pytest.mark.usefixtures("opened")
async def test_no_settings() -> None:
    """Without any, the error lists where it looked, in the words of Python."""
    with pytest.raises(vmport.ConfigError, match="looked for argument 'url', argument 'config'") as found:
        async with vmport.connect():
            raise AssertionError("there is nothing to connect to")
    assert "--url" not in str(found.value)


@pytest.mark.usefixtures("opened")
def test_the_example_of_the_docstring_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """What a user copies first works as it stands."""
    text = (vmport.__doc__ or "").partition("\n\n")[2].partition("\n\nEvery error")[0]
    example = textwrap.dedent(text).replace("asyncio.run(main())", "")
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example, "example", "exec"), names)  # noqa: S102  # our own docstring
    main = names["main"]
    assert callable(main)
    asyncio.run(main())
    assert "recipient='beta'" in capsys.readouterr().out


def test_a_library_is_silent() -> None:
    """Not even a connection that fails writes to the program's standard output or standard error."""
    code = """
        import asyncio, vmport

        async def main() -> None:
            try:
                async with vmport.connect("amqp://tenant.acme:secret@127.0.0.1:1/vmport"):
                    raise SystemExit("connected to a port that nobody listens on")
            except vmport.BusDown as error:
                assert "127.0.0.1:1" in str(error), error

        asyncio.run(main())
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VMPORT_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**environment, "VMPORT_BUS__CONNECT_TIMEOUT_S": "0.5"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
