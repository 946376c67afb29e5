"""The ledger's use cases, one file per noun, and the Protocols that they need (``ports``)."""
