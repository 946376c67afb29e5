"""What an OpenAI answer says, whether one body or a stream: cache, router, edge and verifier agree on it."""
