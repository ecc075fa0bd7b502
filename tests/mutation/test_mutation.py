"""The judge of mutants: what each one changes, whether that is a decision, and what a survivor costs."""

from __future__ import annotations

import textwrap

import pytest

from tests.mutation.judge import Mutant, mutants
from tests.mutation.main import judge, main, report

MUTATED = textwrap.dedent(
    '''
    def x_decide__mutmut_orig(state):
        """Decide."""
        if state.committed and state.owner != donor:
            return at.stay(Alarm("late", "the VM has left"), note="it is late", epoch=state.epoch)
        log.info("asked", reason=state.why)
        return WAIT

    def x_decide__mutmut_1(state):
        """Decide."""
        if state.committed or state.owner != donor:
            return at.stay(Alarm("late", "the VM has left"), note="it is late", epoch=state.epoch)
        log.info("asked", reason=state.why)
        return WAIT

    def x_decide__mutmut_2(state):
        """Decide."""
        if state.committed and state.owner != donor:
            return at.stay(Alarm("late", "the VM has left"), note=None, epoch=state.epoch)
        log.info("asked", reason=state.why)
        return WAIT

    def x_decide__mutmut_3(state):
        """Decide."""
        if state.committed and state.owner != donor:
            return at.stay(Alarm("late", "the VM has left"), note="it is late", )
        log.info("asked", reason=state.why)
        return WAIT

    def x_decide__mutmut_4(state):
        """Decide."""
        if state.committed and state.owner != donor:
            return at.stay(Alarm("late", "XXthe VM has leftXX"), note="it is late", epoch=state.epoch)
        log.info("asked", reason=state.why)
        return WAIT

    def x_decide__mutmut_5(state):
        """Decide."""
        if state.committed and state.owner != donor:
            return at.stay(Alarm("late", "the VM has left"), note="it is late", epoch=state.epoch)
        log.info("asked", reason=None)
        return WAIT

    def x_stay__mutmut_orig(at, *, note="", rearm=False):
        return at.stay(note, rearm)

    def x_stay__mutmut_1(at, *, note="XXXX", rearm=False):
        return at.stay(note, rearm)

    def x_stay__mutmut_2(at, *, note="", rearm=True):
        return at.stay(note, rearm)

    class Gate:
        @staticmethod
        def xǁGateǁmay__mutmut_orig(frame):
            return frame.ok or False

        @staticmethod
        def xǁGateǁmay__mutmut_1(frame):
            return frame.ok and False
    '''
)


def test_a_mutant_is_known_by_its_lines() -> None:
    found = mutants("a.b", MUTATED)

    assert len(found) == 8
    first = found["a.b.x_decide__mutmut_1"]
    assert (first.function, first.words) == ("decide", False)
    assert first.was == "if state.committed and state.owner != donor:"
    assert first.became == "if state.committed or state.owner != donor:"
    method = found["a.b.xǁGateǁmay__mutmut_1"]
    assert (method.function, method.was, method.became) == (
        "Gate.may",
        "return frame.ok or False",
        "return frame.ok and False",
    )


@pytest.mark.parametrize(("number", "words"), [(2, True), (3, False), (4, True), (5, True)])
def test_sentences_and_log_lines_are_no_decisions(number: int, words: bool) -> None:  # noqa: FBT001  # a row's value
    assert mutants("a.b", MUTATED)[f"a.b.x_decide__mutmut_{number}"].words is words


def test_the_default_of_a_sentence_is_no_decision() -> None:
    """That of another argument is one, and can be read in the report."""
    found = mutants("a.b", MUTATED)
    assert found["a.b.x_stay__mutmut_1"].words
    other = found["a.b.x_stay__mutmut_2"]
    assert (other.words, other.became) == (False, "(at, *, note='', rearm=True):")


def test_a_survivor_that_nobody_argues_fails_the_run() -> None:
    mutant = Mutant("a.b", "decide", "x > 1", "x >= 1", words=False)
    argument = {"function": "a.b.decide", "was": "x > 1", "became": "x >= 1", "why": "x is never 1"}
    killed = [(mutant, 1)] * 40

    assert not judge("saga", [*killed, (mutant, 0)], []).passed
    argued = judge("saga", [*killed, (mutant, 0)], [argument])
    assert argued.passed
    assert "x is never 1" in report([argued])


def test_too_many_survivors_fail_the_run_though_all_are_argued() -> None:
    mutant = Mutant("a.b", "decide", "x > 1", "x >= 1", words=False)
    argument = {"function": "a.b.decide", "was": "x > 1", "became": "x >= 1", "why": "x is never 1"}

    assert not judge("saga", [(mutant, 1)] * 18 + [(mutant, 0)] * 2, [argument]).passed


def test_a_wrong_target_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nonsense"])

    assert ended.value.code == 2
    assert "nonsense" in capsys.readouterr().err
