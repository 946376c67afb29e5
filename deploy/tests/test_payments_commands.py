"""`tallygate billing` and `tallygate credit refund --payment`, on a data folder that nothing serves from."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from meshkit.deadlines import deadline
from meshkit.money import NANO_PER_USD
from tallygate.ledger.v1 import billing_pb2, billing_pb2_grpc
from tallygate_deploy.allinone import ledger_alone
from tallygate_deploy.cli import app
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.first_start import provision


@pytest.fixture(autouse=True)
def local_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYGATE_LEDGER_BILLING_PROVIDER", "local")


@pytest.fixture
async def paid(tmp_path: Path) -> tuple[Path, str]:
    """A folder, and a payment that was paid there."""
    data = DataDir(tmp_path / "data")
    data.claim("up")
    async with ledger_alone(data) as channel:
        await provision(data, channel, mint_key=False)
        tenant = data.tenant()
        assert tenant is not None
        billing = billing_pb2_grpc.BillingServiceStub(channel)
        with deadline(10.0):
            request = billing_pb2.CreatePaymentRequest(
                org_id=tenant.org_id, amount_nano_usd=20 * NANO_PER_USD, idempotency_key="topup-1"
            )
            payment = (await billing.CreatePayment(request)).payment
            await billing.PayLocally(billing_pb2.PayLocallyRequest(session_id=payment.provider_session_id))
    return data.root, payment.payment_id


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_payments_are_listed_and_paid_back(paid: tuple[Path, str]) -> None:
    folder, payment_id = paid
    code, listed = run("billing", "payments", "--data", folder)
    assert code == 0, listed
    (line,) = [line for line in listed.splitlines() if payment_id in line]
    assert [cell.strip() for cell in line.split("│")][3:7] == ["local", "20", "paid", "0"], line
    refund = ("credit", "refund", "5", "--payment", payment_id, "--idempotency-key", "r1", "--data", folder)
    code, said = run(*refund)
    assert code == 0, said
    assert f"$5 of {payment_id} done; of $20 paid, $5 are paid back" in said
    assert run(*refund) == (code, said)
    code, said = run("credit", "refund", "--payment", payment_id, "--data", folder)
    assert "$15" in said
    code, said = run("credit", "refund", "--payment", payment_id, "--data", folder)
    assert (code, "nothing to refund" in said) == (1, True)
    code, notices = run("billing", "notices", "--data", folder)
    assert (code, "credited" in notices, payment_id in notices) == (0, True, True)


def test_a_refund_needs_an_amount_or_a_payment(tmp_path: Path) -> None:
    code, said = run("credit", "refund", "--data", tmp_path)
    assert (code, "--payment" in said) == (2, True)
