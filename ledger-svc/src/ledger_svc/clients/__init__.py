"""What the ledger asks over HTTP."""
