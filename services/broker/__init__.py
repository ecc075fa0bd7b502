"""The neutral third party: verifies, fixes, grants switchover, keeps the ledger. Holds no provider's secret."""
