"""What the embedded model is called, here and in the catalog, and its limits."""

SOURCE_ID = "local"
MODEL_ID = "local/smollm2-135m-instruct"
UPSTREAM_MODEL = "smollm2-135m-instruct"
# Tokens of prompt and answer together, for each request.
CONTEXT_TOKENS = 2048
# Tokens of an answer whose request sets no limit.
MAX_OUTPUT_TOKENS = 1024
