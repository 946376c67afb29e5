"""The router as a client of other services: each Protocol of ``service`` over a generated stub."""
