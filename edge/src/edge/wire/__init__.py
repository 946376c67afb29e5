"""OpenAI's JSON: what comes in is checked, what goes out is built. Knows no HTTP server and makes no call."""
