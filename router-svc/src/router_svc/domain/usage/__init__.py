"""From what a source says it used to disjoint usage classes: one reader for each way of saying it."""
