"""What a report says of connections."""

import json
from dataclasses import asdict

from deploy.labkit.connection_report import Connection, EchoReport, Report, Silence, echo_report, report
from deploy.labkit.connection_view import connection_summary, connection_table


def test_a_kind_has_its_longest_gap_and_its_errors() -> None:
    """Kept and lost are counted; equal errors of one family stand once."""
    kept, lost, lost_too = Connection("http", "ipv4"), Connection("http", "ipv6"), Connection("http", "ipv6")
    kept.answered(0.3, 0.0)
    kept.answered(0.1, 0.0)
    kept.kept = True
    lost.error = lost_too.error = "the guest closed it"
    idle = Connection("idle", "ipv4", answers=1, longest_gap_s=0.02, kept=True)
    found = report([kept, lost, lost_too, idle], {})
    assert (found.connections, found.kept) == (4, 2)
    assert list(found.kinds) == ["http", "idle"]
    http = found.kinds["http"]
    assert (http.opened, http.kept, http.answers, http.longest_gap_ms) == (3, 1, 2, 300.0)
    assert http.errors == ("ipv6: the guest closed it",)


def test_the_usual_time_of_an_answer_is_no_gap() -> None:
    """A stream that comes in pieces has a gap only where a piece is late."""
    stream = Connection("download", "ipv4")
    stream.answered(0.125, 0.125)
    assert stream.longest_gap_s == 0.0
    stream.answered(0.625, 0.125)
    assert stream.longest_gap_s == 0.5


def test_the_first_answer_after_the_longest_silence_has_a_time() -> None:
    """In seconds since 1970, so that it can be compared with another host's log."""
    answers = [(0.0, 0), (0.01, 1), (0.51, 51), (0.52, 52)]
    found = echo_report(answers, sent=53, interval_s=0.01, until_s=0.53, started_at=1000.0)
    assert (found.sent, found.answered, found.outage_ms, found.answered_again_at) == (53, 4, 490.0, 1000.51)


def test_the_longest_silences_have_times() -> None:
    """In their order, the one at the end included; each can be found by the time that it touches."""
    answers = [(0.0, 0), (0.01, 1), (0.51, 51), (0.52, 52), (0.7, 70)]
    found = echo_report(answers, sent=90, interval_s=0.01, until_s=0.9, started_at=1000.0)
    assert [(each.began_at, each.outage_ms) for each in found.silences] == [
        (1000.01, 490.0),
        (1000.52, 170.0),
        (1000.7, 190.0),
    ]
    assert found.outage_within_ms(1000.6, 1000.65) == 170.0
    assert found.outage_within_ms(1000.3, 1000.65) == 490.0
    assert found.outage_within_ms(999.0, 999.5) == 0.0


def test_packets_that_are_never_answered_again_have_no_such_time() -> None:
    """The silence lasts until the end."""
    found = echo_report([(0.0, 0), (0.01, 1)], sent=100, interval_s=0.01, until_s=1.0, started_at=1000.0)
    assert found.answered_again_at is None
    assert echo_report([], sent=9, interval_s=0.01, until_s=0.1, started_at=0.0).answered_again_at is None


def test_a_report_crosses_between_programs_as_json() -> None:
    """What is printed is what is read."""
    connections = [Connection("http", "ipv4", 3, 0.1, kept=True), Connection("idle", "ipv6", error="refused")]
    whole = report(connections, {"ipv4": EchoReport(9, 8, 10.0, None, (Silence(1.0, 1.5, 495.0),))})
    assert whole == Report.from_json(json.loads(json.dumps(asdict(whole))))


def test_a_report_has_a_row_for_each_kind_and_family() -> None:
    """And where nothing was watched, there is nothing to say."""
    whole = report([Connection("http", "ipv4", kept=True)], {"ipv4": EchoReport(9, 8, 10.0, None)})
    assert connection_table(whole).row_count == 2
    assert connection_summary(None)["connections_kept"] is None
    assert connection_summary(whole)["udp_outage_ms"] == {"ipv4": 10.0}
