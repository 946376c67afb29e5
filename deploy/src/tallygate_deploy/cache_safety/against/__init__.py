"""Whatever answers at an OpenAI-compatible endpoint, under judgement: its replays are told from outside."""
