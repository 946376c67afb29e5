"""Tallygate's public face: OpenAI's REST in, gRPC out. Holds no state that matters and no business rule."""
