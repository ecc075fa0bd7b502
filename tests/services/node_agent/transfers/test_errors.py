"""The error of a transfer: facts for the report, one sentence for the log."""

from __future__ import annotations

from services.node_agent.transfers.errors import TransferError
from shared.errors import VmportError


def test_an_error_holds_what_the_report_needs() -> None:
    """Code, detail and where the guest runs; its text has code and detail."""
    error = TransferError("lane_failed", "no route", guest_running=True)
    assert isinstance(error, VmportError)
    assert (error.code, error.detail, error.guest_running) == ("lane_failed", "no route", True)
    assert str(error) == "lane_failed: no route"
