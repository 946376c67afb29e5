"""The parent's side: the inference server as a child on a leash."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tallygate_deploy.embedded.identity import MAX_OUTPUT_TOKENS
from tallygate_deploy.leash import LeashedChildError, leashed

DEFAULT_START_TIMEOUT_S = 60.0


class EmbeddedModelError(RuntimeError):
    """The embedded model did not start; the message ends with what the child wrote to standard error."""


@asynccontextmanager
async def embedded_model(
    *,
    slots: int = 4,
    threads: int = 2,
    max_output_tokens: int = MAX_OUTPUT_TOKENS,
    start_timeout_s: float = DEFAULT_START_TIMEOUT_S,
) -> AsyncIterator[str]:
    """Run the embedded model in a child process; yields its base URL, "http://127.0.0.1:PORT/v1".

    The child ends with the block, and also when this process is killed. It is not restarted; if it dies inside the
    block, that is logged and its source fails from then on.

    Args:
        slots: requests that are answered at the same time; more of them wait.
        threads: compute threads, shared by the slots.
        max_output_tokens: where an answer ends whose request sets no limit.
        start_timeout_s: how long loading may take, seconds (0.7 s on a quiet core).

    Raises:
        EmbeddedModelError: the child ended, or did not answer in time.
    """
    limits = {"slots": slots, "threads": threads, "max-output-tokens": max_output_tokens}
    arguments = [f"--{name}={value}" for name, value in limits.items()]
    async with AsyncExitStack() as stack:
        child = leashed("tallygate_deploy.embedded", *arguments, start_timeout_s=start_timeout_s)
        try:
            ready = await stack.enter_async_context(child)
        except LeashedChildError as error:
            raise EmbeddedModelError(f"the embedded model did not start: {error}") from error
        yield ready["base_url"]
