"""What the cache computes with that is not its own."""
