"""The ledger's migrations, for Alembic; ``services.broker.migrate`` runs them."""
