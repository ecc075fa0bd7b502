"""The fuzzing harness itself: every target, a bounded number of inputs, the same ones in every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.by_hypothesis import search
from tests.fuzz.main import main
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(name: str) -> None:
    """The seeds and the first inputs of the engine break no promise."""
    target = TARGETS[name]
    finding = search(target.check, target.seeds(), seconds=60, hang_s=30, most_inputs=100)
    assert finding.trace == ""
    assert finding.inputs >= 100


def test_a_broken_promise_is_found_and_shrunk() -> None:
    """The smallest input that the engine can make of it comes back."""

    def check(data: bytes) -> None:
        assert b"!" not in data

    finding = search(check, [b"abc"], seconds=60, hang_s=30)
    assert finding.data == b"!"
    assert "AssertionError" in finding.trace


def test_a_hang_is_found() -> None:
    """An input that never ends does not hold the engine up."""

    def check(_data: bytes) -> None:
        while True:
            pass

    finding = search(check, [b"abc"], seconds=60, hang_s=1)
    assert finding.data == b"abc"
    assert "HangError" in finding.trace


def test_an_input_can_be_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kept input is tried without any engine."""
    kept = tmp_path / "input"
    kept.write_bytes(TARGETS["lane"].seeds()[0])
    assert main(["lane", "--replay", str(kept)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["nothing"], ["--replay", "x"], ["--engine", "other"]])
def test_wrong_words_are_wrong_usage(words: list[str]) -> None:
    """Exit status 2, as everywhere."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
