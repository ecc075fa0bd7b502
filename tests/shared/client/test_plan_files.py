"""Files about many VMs: read, or refused by file, key and reason."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from shared.client.plan_files import BadPlanFile, read_demand, read_moves
from shared.messages.demand import Demand, Fixed, Listed, Normal
from shared.messages.plans import Move
from tests.support.scripted_broker import SHOP, WEB

VMS = (WEB, SHOP)
TOML = """
currency = "EUR"
providers = ["alpha", "beta"]

[porting]
per_vm = "1.50"
per_gib = 0.09

[[prices]]
factor = 1
probability = 0.9
[[prices]]
factor = "2"
probability = 0.1

[[classes]]
name = "web"
vcpus = 1
memory_mib = 512
disk_gib = 2
vms = ["web", "shop"]
demand = { distribution = "normal", mean = 25.5, variance = 6, least = 1, most = 50 }
"""
CSV = """\
name,vcpus,memory_mib,disk_gib,running,distribution,vms,values,weights
web,1,512,2,web shop,fixed,4,,
db,2,1024,5,,listed,,2 3,1 4
"""


def write(folder: Path, text: str, name: str = "demand.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def demand(folder: Path, text: str, name: str = "demand.toml") -> Demand:
    return read_demand(write(folder, text, name), VMS, horizon_months=12, risk=0.5)


def test_toml(tmp_path: Path) -> None:
    """VMs by name; options come on top."""
    read = demand(tmp_path, TOML)
    (web,) = read.classes
    assert (web.vms, web.demand) == (
        (WEB.uuid, SHOP.uuid),
        Normal(distribution="normal", mean=25.5, variance=6, least=1, most=50),
    )
    assert (read.porting.per_vm, read.porting.per_gib) == (Decimal("1.50"), Decimal("0.09"))
    assert (read.horizon_months, read.risk, read.providers) == (12, 0.5, ("alpha", "beta"))
    assert [step.factor for step in read.prices] == [1, 2]


def test_csv(tmp_path: Path) -> None:
    """One line per class; lists are divided by spaces."""
    web, database = demand(tmp_path, CSV, "demand.csv").classes
    assert (web.vms, web.demand) == ((WEB.uuid, SHOP.uuid), Fixed(distribution="fixed", vms=4))
    assert (database.vms, database.demand) == ((), Listed(distribution="listed", values=(2, 3), weights=(1, 4)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("vcpus = 1", "vcpus = 0", "classes[1].vcpus: Input should be greater than or equal to 1"),
        ('per_vm = "1.50"', 'per_vm = "-1.50"', "porting.per_vm: Input should be greater than or equal to 0"),
        ('"shop"]', '"shpo"]', "classes[1].vms[2]: you have no VM 'shpo'"),
        ('["web", "shop"]', '"web"', "classes[1].vms: expected a list of names"),
        ("most = 50", "most = 0", "classes[1].demand: least is 1, more than most, 0"),
        ("variance = 6", "variants = 6", "classes[1].demand.variance: Field required"),
        ('"normal"', '"magic"', "classes[1].demand: Input tag 'magic'"),
        ("probability = 0.1", "probability = 0.2", "prices: the probabilities add up to 1.1"),
        ("currency", "money", "money: unknown key; known: classes, currency"),
        ("[[classes]]", "[classes]", "classes: expected tables"),
        ("[porting]", "[porting", "is no TOML"),
        ("vcpus = 1\n", "", "classes[1].vcpus: Field required"),
    ],
)
def test_what_is_wrong(tmp_path: Path, old: str, new: str, said: str) -> None:
    """File, key, reason."""
    assert old in TOML
    with pytest.raises(BadPlanFile) as caught:
        demand(tmp_path, TOML.replace(old, new))
    assert str(caught.value).startswith(f"{tmp_path / 'demand.toml'}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,price\nweb,1\n", "price: unknown column; known: name, vcpus"),
        ("name,vcpus\nweb\n", "line 2: it has another number of columns"),
        ("name,vcpus\nweb,1,2\n", "line 2: it has another number of columns"),
        ('name\n"web', "line 1: unexpected end of data"),
        ("", "classes: there is none"),
    ],
)
def test_what_is_wrong_in_csv(tmp_path: Path, text: str, said: str) -> None:
    """File, line or column, reason."""
    with pytest.raises(BadPlanFile) as caught:
        demand(tmp_path, text, "demand.csv")
    assert said in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, no text, too large."""
    with pytest.raises(BadPlanFile, match="cannot be read: No such file"):
        read_demand(tmp_path / "none.toml", VMS)
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadPlanFile, match="it is no UTF-8"):
        read_demand(tmp_path / "bad.toml", VMS)
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(BadPlanFile, match="larger than"):
        read_demand(tmp_path / "large.toml", VMS)


MOVES = '[[moves]]\nvm = "web"\nto = "beta"\n'


@pytest.mark.parametrize(("text", "name"), [(MOVES, "moves.toml"), ("vm,to\nweb,beta\n", "moves.csv")])
def test_moves(tmp_path: Path, text: str, name: str) -> None:
    """TOML or CSV."""
    assert read_moves(write(tmp_path, text, name), VMS, ["alpha", "beta"]) == (
        Move(vm_uuid=WEB.uuid, recipient="beta"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "moves: there is none"),
        (MOVES + MOVES, "moves[2].vm: web stands there twice"),
        (MOVES.replace("web", "nobody"), "moves[1].vm: you have no VM 'nobody'"),
        (MOVES.replace("beta", "omega"), "moves[1].to: unknown provider 'omega'; known: alpha, beta"),
        (MOVES.replace("beta", "alpha"), "moves[1].to: web is at alpha already"),
        (MOVES.replace("to =", "two ="), "moves[1]: expected the keys vm and to"),
        ("moves = 3", "moves: there is none"),
        ("moves = [" + "1," * 1001 + "]", "moves: 1001 moves; at most 1000"),
    ],
)
def test_moves_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    """File, key, reason."""
    with pytest.raises(BadPlanFile) as caught:
        read_moves(write(tmp_path, text, "moves.toml"), VMS, ["alpha", "beta"])
    assert str(caught.value).startswith(f"{tmp_path / 'moves.toml'}: {said}")
