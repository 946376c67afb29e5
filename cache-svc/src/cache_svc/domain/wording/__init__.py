"""How a text may be worded otherwise and ask the same."""
