"""What the ledger calls outside the mesh: payment providers."""
