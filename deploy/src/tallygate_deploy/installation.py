"""What both modes have in common: how one is started, and what its operator is told."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshkit.money import format_usd
from tallygate_deploy.data_dir import DataDir, write_private
from tallygate_deploy.first_start import STARTING_CREDIT_NANO_USD, Welcome
from tallygate_deploy.shared_port import SharedPort, shared_port

_BACKLOG = 2_048


class CannotStartError(Exception):
    """The installation can't be started as asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What the command line asked for. ``port`` 0 picks a free one; ``local_model`` None decides by the catalog.
    ``workers``: processes that answer clients.
    """

    data: DataDir
    host: str = "127.0.0.1"
    port: int = 8080
    catalog: Path | None = None
    ready_file: Path | None = None
    local_model: bool | None = None
    workers: int = 1


RunInstallation = Callable[[StartOptions], Coroutine[None, None, None]]
"""Serves until it is told to stop."""


def base_url(host: str, port: int) -> str:
    """What a client sets as ``base_url``; an address that means "all" is shown as loopback."""
    shown = "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host  # noqa: S104 - compared with, not bound
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/v1"


def listening(options: StartOptions) -> socket.socket:
    """The socket that clients connect to. Bound before anything is started: a taken port is said at once.

    Raises:
        CannotStartError: it can't be bound.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise _port_taken(options, error) from error


@contextmanager
def sharing(options: StartOptions) -> Iterator[SharedPort]:
    """The port that clients connect to, where several processes answer them. Bound as early as ``listening``.

    Raises:
        CannotStartError: it can't be bound.
    """
    with ExitStack() as stack:
        try:
            port = stack.enter_context(shared_port(options.host, options.port))
        except OSError as error:
            raise _port_taken(options, error) from error
        yield port


def _port_taken(options: StartOptions, error: OSError) -> CannotStartError:
    where = f"{options.host}:{options.port}"
    return CannotStartError(f"can't listen on {where} ({error.strerror}): choose another --port")


def announce(options: StartOptions, url: str, welcome: Welcome, *, model: str) -> None:
    """Tell the operator, on standard output and in the ready-file, that requests are served and how to send one."""
    out = sys.stdout
    out.write(f"Tallygate serves at {url}\n")
    key = welcome.api_key
    if key is not None:
        if welcome.first:
            credit = format_usd(STARTING_CREDIT_NANO_USD)
            out.write(f"An organisation with ${credit} of credit was made. Its key is shown once; keep it:\n")
        out.write(f"  {key}\nTry it:\n  curl {url}/chat/completions -H 'Authorization: Bearer {key}' \\\n")
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
        out.write(f"    -H 'Content-Type: application/json' -d '{body}'\n")
        if welcome.first:
            out.write("It calls models. A key that manages the account over HTTP (keys, caps, usage) is made by:\n")
            out.write(f"  tallygate key create admin --scope account --data {options.data.root}\n")
    else:
        out.write(f"Keys: tallygate key list --data {options.data.root}\n")
    out.flush()
    if options.ready_file is not None:
        write_private(options.ready_file, json.dumps({"base_url": url, "api_key": key, "pid": os.getpid()}))


@contextmanager
def fresh_ready_file(options: StartOptions) -> Iterator[None]:
    """The ready-file stands only while requests are served; one of an earlier start is not taken for this one's."""
    if options.ready_file is not None:
        options.ready_file.unlink(missing_ok=True)
    try:
        yield
    finally:
        if options.ready_file is not None:
            options.ready_file.unlink(missing_ok=True)
