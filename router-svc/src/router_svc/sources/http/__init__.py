"""HTTP to sources: what an adapter needs of it (port.py), and two clients that give it, by one suite of tests."""
