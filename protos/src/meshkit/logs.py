"""Logs as one JSON object a line, on stderr, each with the trace that it belongs to."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from meshkit.telemetry import current_trace_id

_API_KEY = re.compile(r"\btg-[0-9A-Za-z]{8,}")
_CHATTY = ("alembic", "httpx", "uvicorn")
"""Libraries that say at "info" what we log ourselves or what nobody asks for."""
_KEY_SHOWN = 9
"""Characters of an API key that may be shown: "tg-" and the six that ``Key.prefix`` of the ledger shows too."""


def configure_logging(service_name: str, *, level: str = "info") -> None:
    """Sends the logs of structlog and of the standard library, in one form, to stderr.

    Every line has ``service``, ``level``, ``event``, ``timestamp`` and, inside a trace, ``trace_id``. API keys are
    cut to their prefix wherever they stand, and tracebacks have no local variables: those hold prompts.

    Raises:
        ValueError: no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no such log level: {level!r}")
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_logger_name,
        _adds("service", lambda: service_name),
        _adds("trace_id", current_trace_id),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _cut_api_keys,
    ]
    # Not through the standard library's logging, which takes three times as long for a line.
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_dump)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_Lines,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_dump),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(number if number < logging.INFO else max(number, logging.WARNING))


class _Lines:
    """A logger under structlog's: writes each line at once, and whole."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Writes a line."""
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg


def _dump(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def _add_logger_name(logger: WrappedLogger, _: str, event: EventDict) -> EventDict:
    record = event.get("_record")  # of the standard library's
    event["logger"] = logger.name if record is None else record.name
    return event


def _adds(key: str, value: Callable[[], str]) -> Processor:
    """A processor that sets ``key``, unless it is set already or there is no value."""

    def add(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        text = value()
        if text:
            event.setdefault(key, text)
        return event

    return add


def _cut_api_keys(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str) and "tg-" in value:
            event[key] = _API_KEY.sub(lambda match: match.group()[:_KEY_SHOWN] + "...", value)
    return event
