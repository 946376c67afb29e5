"""The inference server inside the child process: xllamacpp's, with the settings that this model needs."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tallygate_deploy.embedded.identity import CONTEXT_TOKENS, UPSTREAM_MODEL

HEALTH_TIMEOUT_S = 5.0
LOG_WARNINGS = 2
# Each waiting request holds one. They sleep, so many cost little; too few would refuse connections.
HTTP_THREADS = 64


class InferenceStartError(RuntimeError):
    """The server did not come up; what it said itself is on standard error."""


def start(weights: Path, *, port: int, slots: int, threads: int, max_output_tokens: int) -> tuple[Any, str]:
    """Load the weights and serve them on 127.0.0.1.

    Args:
        weights: the GGUF file.
        port: 0 for a free one; the kernel picks it, so two servers can't race for it.
        slots: requests that are answered at the same time; more wait in the server's queue. Each slot has its own
            `CONTEXT_TOKENS` (llama.cpp divides `n_ctx` among its slots).
        threads: compute threads, shared by the slots.
        max_output_tokens: where an answer ends whose request sets no limit.

    Returns:
        The server, which lives as long as it is referenced, and the URL it listens on.

    Raises:
        InferenceStartError: the port is taken, the weights can't be read, or it does not answer.
    """
    import xllamacpp  # noqa: PLC0415  (10 MB of native code that only the child may load)

    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {UPSTREAM_MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = CONTEXT_TOKENS * slots
    params.n_parallel = slots
    params.n_predict = max_output_tokens
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_threads_http = HTTP_THREADS
    params.cache_ram_mib = 0  # its default keeps up to 8 GiB of old prompts
    params.n_gpu_layers = 0
    params.ui = False
    params.cors_origins = ""  # no web page may read from it; its default lets all
    params.endpoint_slots = False
    params.verbosity = LOG_WARNINGS
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise InferenceStartError(str(error)) from error
    url = str(server.listening_address)
    _require_answer(url)
    return server, url


def _require_answer(url: str) -> None:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except OSError as error:
        raise InferenceStartError(f"{url}/health: {error}") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise InferenceStartError(f"{url}/health answered {status}")
