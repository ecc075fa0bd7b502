"""The broker's rules: what it asks of a request (`request`), and the regimes that bind a port (`regime_files`)."""

from services.broker.rules.request import Facts, KnownVm, Limits, candidates, verify

__all__ = ["Facts", "KnownVm", "Limits", "candidates", "verify"]
