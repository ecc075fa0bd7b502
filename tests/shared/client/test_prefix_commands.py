"""A holder's authorisation on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.exit_codes import ExitCode
from shared.prefix_authorisation import read_signed
from tests.support.prefix_samples import HOLDER, STRANGER
from tests.support.scripted_broker import Cli, ScriptedBroker

SAY = ("--holder", "acme", "--donor-as", "65001", "--recipient-as", "65002")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with the holder's keys, and a stranger's."""
    for name, text in (("key", HOLDER.private), ("pub", HOLDER.public), ("stranger", STRANGER.public)):
        (tmp_path / f"{name}.pem").write_text(text)
    return tmp_path


def test_authorise_and_verify(vmport: Cli, broker: ScriptedBroker, keys: Path) -> None:
    """What is written is what is checked; no broker is asked."""
    key, document = str(keys / "key.pem"), keys / "acme.json"
    assert (
        vmport("prefix", "authorise", "--prefix", "198.51.100.0/24", *SAY, "--key", key, "--days", "7") == ExitCode.OK
    )
    document.write_text(vmport.out)
    told = read_signed(document.read_bytes()).authorisation
    assert (told.prefix, told.holder, told.donor_as, told.recipient_as) == ("198.51.100.0/24", "acme", 65001, 65002)
    assert (told.not_after - told.not_before).days == 7
    verify = ("prefix", "verify", str(document), "--key")
    assert vmport(*verify, str(keys / "pub.pem")) == ExitCode.OK
    assert "AS65002" in vmport.out
    assert vmport(*verify, str(keys / "stranger.pem"), "--format", "json") == ExitCode.REFUSED
    assert (json.loads(vmport.out)["signed"], json.loads(vmport.out)["in_force"]) == (False, True)
    assert broker.heard == []


def test_what_is_wrong_is_named(vmport: Cli, keys: Path) -> None:
    """A wrong prefix, a wrong key, no document: one sentence, and the exit code of a wrong command line."""
    key = str(keys / "key.pem")
    assert vmport("prefix", "authorise", "--prefix", "198.51.100.1/24", *SAY, "--key", key) == ExitCode.USAGE
    assert "--prefix" in vmport.err
    public = str(keys / "pub.pem")
    assert vmport("prefix", "authorise", "--prefix", "198.51.100.0/24", *SAY, "--key", public) == ExitCode.USAGE
    assert "the key is no private key" in vmport.err
    for wrong in (key, str(keys / "nothing")):
        assert vmport("prefix", "verify", wrong, "--key", public) == ExitCode.USAGE
        assert "Traceback" not in vmport.err
