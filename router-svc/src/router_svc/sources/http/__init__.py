"""HTTP to sources: what an adapter needs of it (port.py), and the client that gives it."""
