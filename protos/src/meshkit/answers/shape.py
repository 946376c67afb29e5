"""Names in the JSON of a chat completion. https://platform.openai.com/docs/api-reference/chat/object"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

CHUNK_OBJECT = "chat.completion.chunk"
BODY_OBJECT = "chat.completion"
REPEATED_FIELDS = ("id", "created", "model", "system_fingerprint", "service_tier")
"""Fields of the body that each chunk carries; other fields of the body come in the first chunk alone."""
PADDING = "obfuscation"
"""Random filler of a chunk against length analysis, OpenAI's `include_obfuscation`."""
GROWING_TEXTS = frozenset({"content", "reasoning", "reasoning_content", "refusal"})
"""Fields of a message that come in pieces."""
