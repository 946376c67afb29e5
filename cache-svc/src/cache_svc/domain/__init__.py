"""What a replay is: the canonical request and its key, which requests and answers are kept, and streams as answers."""
