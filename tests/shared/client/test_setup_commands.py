"""Schema and topology, which need no connection."""

from __future__ import annotations

import json
from pathlib import Path

from shared.exit_codes import ExitCode
from shared.topology import definitions
from tests.support.scripted_broker import (
    Cli,
)


def test_schema(vmport: Cli) -> None:
    """The contract is printed whole, without a connection."""
    assert vmport("schema") == ExitCode.OK
    assert "PortRequestedEnvelope" in json.loads(vmport.out)["$defs"]
    assert vmport("schema", "--asyncapi") == ExitCode.OK
    assert json.loads(vmport.out)["asyncapi"] == "3.0.0"


def test_topology(vmport: Cli, tmp_path: Path) -> None:
    """Definitions for RabbitMQ with a password file per party, which a second run keeps."""
    passwords = tmp_path / "passwords"

    assert vmport("topology", "broker", "tenant.acme", "--passwords", str(passwords)) == ExitCode.OK
    printed = json.loads(vmport.out)
    assert {user["name"] for user in printed["users"]} == {"broker", "tenant.acme"}
    assert set(printed) == set(definitions({}))
    secret = passwords / "tenant.acme.password"
    assert secret.stat().st_mode & 0o777 == 0o600
    before = secret.read_text()
    assert before.strip() not in vmport.out
    assert vmport("topology", "broker", "tenant.acme", "node.a.b", "--passwords", str(passwords)) == ExitCode.OK
    assert secret.read_text() == before
    assert vmport("topology", "nobody", "--passwords", str(passwords)) == ExitCode.USAGE
