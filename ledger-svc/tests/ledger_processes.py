"""Ledgers in processes of their own, to be killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tallygate.common.v1.principal_pb2 import Principal
from tallygate.ledger.v1 import ledger_pb2 as pb

if TYPE_CHECKING:
    from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

Serve = Callable[[str], Awaitable[asyncio.subprocess.Process]]


@asynccontextmanager
async def processes(url: str, **settings: str) -> AsyncIterator[Serve]:
    """Starts ledgers of their own, as operators do, and ends what is left of them. ``settings``: environment variables,
    without their prefix.
    """
    started: list[asyncio.subprocess.Process] = []
    drains: list[asyncio.Task[bytes]] = []

    async def serve(socket: str) -> asyncio.subprocess.Process:
        env = os.environ | {
            "TALLYGATE_LEDGER_LISTEN": socket,
            "TALLYGATE_LEDGER_DATABASE_URL": url,
            "TALLYGATE_LEDGER_PEPPERS": '{"1": "pepper-for-tests"}',
            "TALLYGATE_LEDGER_SIGNING_KEYS": json.dumps({"k": "b25l" * 10 + "b24"}),
            **{f"TALLYGATE_LEDGER_{name}": value for name, value in settings.items()},
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ledger_svc", env=env, stderr=asyncio.subprocess.PIPE
        )
        started.append(process)
        assert process.stderr is not None
        while b'"serving"' not in (line := await process.stderr.readline()):
            assert line, "it ended before it served"
        drains.append(asyncio.create_task(process.stderr.read()))
        return process

    try:
        yield serve
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.gather(*drains)


async def a_payer(stub: LedgerServiceAsyncStub) -> Principal:
    org = await stub.CreateOrganization(pb.CreateOrganizationRequest(name="Acme"), timeout=20)
    project = await stub.CreateProject(pb.CreateProjectRequest(org_id=org.org_id, name="web"), timeout=20)
    key = await stub.CreateKey(
        pb.CreateKeyRequest(org_id=org.org_id, project_id=project.project_id, name="key"), timeout=20
    )
    credit = pb.AddCreditRequest(
        org_id=org.org_id, amount_nano_usd=10**9, idempotency_key="first", kind=pb.CREDIT_KIND_PAID
    )
    await stub.AddCredit(credit, timeout=20)
    return (await stub.Authenticate(pb.AuthenticateRequest(secret=key.secret), timeout=20)).principal
