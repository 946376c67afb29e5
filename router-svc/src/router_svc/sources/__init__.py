"""Adapters to sources, a file per wire format, and what they share: the event stream and the body."""
