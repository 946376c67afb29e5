"""Tallygate's cache: verified replay of answers."""
