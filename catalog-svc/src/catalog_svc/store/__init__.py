"""Implementations of the service's Protocols: where revisions are kept, and the documents the catalog is read from."""
