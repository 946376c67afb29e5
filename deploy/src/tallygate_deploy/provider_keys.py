"""`tallygate provider-key`: what the operator does about how provider keys are encrypted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tallygate.ledger.v1 import provider_keys_pb2 as pb
from tallygate.ledger.v1.provider_keys_pb2_grpc import ProviderKeyServiceStub
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.ledger_client import DEFAULT_DATA, DataOption, LedgerOption, OrgOption, ask_service, tenant_of

if TYPE_CHECKING:
    from tallygate.ledger.v1.provider_keys_pb2_grpc import ProviderKeyServiceAsyncStub

app = typer.Typer(no_args_is_help=True, help="Keys that organisations brought for sources.")


@app.callback()
def _group() -> None:
    """Keys that organisations brought for sources."""


@app.command("rewrap")
def rewrap(org: OrgOption = None, data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None) -> None:
    """Give an organisation a new data key and encrypt its provider keys anew."""

    async def question(client: ProviderKeyServiceAsyncStub, folder: DataDir) -> pb.RewrapProviderKeysResponse:
        return await client.RewrapProviderKeys(pb.RewrapProviderKeysRequest(org_id=tenant_of(folder, org).org_id))

    done = ask_service(data, ledger, ProviderKeyServiceStub, question).rewrapped
    typer.echo(f"{done} provider keys are encrypted under a new data key")


@app.command("wrapping-keys")
def wrapping_keys(data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None) -> None:
    """Show under which of the ledger's secrets keys the data keys are. One that is not current and has none may be
    dropped. Ends with 1 where one is missing.
    """

    async def question(client: ProviderKeyServiceAsyncStub, _: DataDir) -> pb.ListKeyEncryptionKeysResponse:
        return await client.ListKeyEncryptionKeys(pb.ListKeyEncryptionKeysRequest())

    keys = ask_service(data, ledger, ProviderKeyServiceStub, question).keys
    for key in keys:
        typer.echo(f"{key.kid}: {key.data_keys} data keys, {_in_words(key)}")
    if any(key.data_keys and not key.set for key in keys):
        raise typer.Exit(1)


def _in_words(key: pb.KeyEncryptionKey) -> str:
    if key.current:
        return "current"
    if not key.set:
        return "not set: the provider keys under them can't be read"
    return "being moved to the current one" if key.data_keys else "may be dropped, as far as provider keys go"
