"""What the first start makes, and that a second one makes it no second time."""

from __future__ import annotations

from pathlib import Path

from meshkit.deadlines import deadline
from tallygate.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from tallygate_deploy.allinone import ledger_alone
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.first_start import STARTING_CREDIT_NANO_USD, provision


async def test_the_first_start_makes_a_tenant_with_credit_and_a_key(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    async with ledger_alone(data) as channel:
        ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        first = await provision(data, channel, mint_key=False)
        again = await provision(data, channel, mint_key=False)
        minted = await provision(data, channel, mint_key=True)
        with deadline(10):
            balance = await ledger.GetBalance(ledger_pb2.GetBalanceRequest(org_id=first.tenant.org_id))
            keys = await ledger.ListKeys(ledger_pb2.ListKeysRequest())
    assert (first.first, again.first, minted.first) == (True, False, False)
    assert first.tenant == again.tenant == minted.tenant
    assert first.api_key is not None
    assert again.api_key is None, "a key is shown once"
    assert minted.api_key not in {None, first.api_key}
    assert balance.balance.available_nano_usd == STARTING_CREDIT_NANO_USD
    assert len(keys.keys) == 2
