"""What the router knows and decides, without I/O: catalog facts, a request read, the plan, usage, how a call ended."""
