"""What the ledger decides: pure rules over frozen values. No grpc, no SQL, no clock, no randomness."""
