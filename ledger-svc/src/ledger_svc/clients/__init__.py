"""What the ledger asks over HTTP: receivers of webhooks, payment providers."""
