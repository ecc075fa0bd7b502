"""Outage as a client sees it."""

from deploy.labkit.echo_probe import outage


def test_the_longest_silence_is_the_outage() -> None:
    """From the last answer before the gap to the first after it, less the usual interval."""
    answers = [(0.0, 0), (0.01, 1), (0.02, 2), (0.52, 52), (0.53, 53)]
    seen = outage(answers, sent=54, interval_s=0.01, until_s=0.54)
    assert seen.outage_ms == 490.0
    assert seen.first_gap_number == 3
    assert (seen.sent, seen.answered) == (54, 5)


def test_a_guest_that_never_comes_back_is_out_until_the_end() -> None:
    """The silence at the end counts, too."""
    assert outage([(0.0, 0), (0.01, 1)], sent=200, interval_s=0.01, until_s=2.02).outage_ms == 2000.0


def test_no_answer_at_all_is_an_outage_of_the_whole_time() -> None:
    """Without any answer the guest was never there."""
    assert outage([], sent=10, interval_s=0.01, until_s=0.11).outage_ms == 100.0
