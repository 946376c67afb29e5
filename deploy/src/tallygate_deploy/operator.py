"""`tallygate credit`, `tallygate receipt`: the operator's commands, over the ledger's own API."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from edge.wire.receipts import receipt_json
from meshkit.ids import new_id
from meshkit.money import format_usd
from tallygate.ledger.v1 import ledger_pb2
from tallygate_deploy import payments
from tallygate_deploy.data_dir import DataDir
from tallygate_deploy.ledger_client import (
    DEFAULT_DATA,
    DataOption,
    LedgerOption,
    OrgOption,
    ask,
    days_from_now_ms,
    nano_usd,
    tenant_of,
    when,
)

if TYPE_CHECKING:
    from tallygate_deploy.ledger_client import Ledger

credit_app = typer.Typer(no_args_is_help=True, help="Prepaid credit.")
receipt_app = typer.Typer(no_args_is_help=True, help="Receipts.")

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)  # a pipe has no width: wrap nothing


@credit_app.command("add")
def add_credit(
    amount_usd: Annotated[str, typer.Argument(help='A decimal amount, such as "20" or "0.50".')],
    promotional: Annotated[bool, typer.Option(help="Given, not paid for; spent first.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Names this credit: sent twice under one name, it is added once.")
    ] = None,
    priority: Annotated[
        int, typer.Option(min=0, max=1_000, help="Among credit of its kind the lowest is spent first.")
    ] = 100,
    expires_in_days: Annotated[
        float | None,
        typer.Option(min=0.0001, max=36_500, help="Promotional credit only: what is left is taken back then."),
    ] = None,
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """Add credit and show the balance."""
    amount = nano_usd(amount_usd)
    if expires_in_days is not None and not promotional:
        raise typer.BadParameter("only promotional credit expires: add --promotional")

    async def question(client: Ledger, folder: DataDir) -> ledger_pb2.AddCreditResponse:
        return await client.AddCredit(
            ledger_pb2.AddCreditRequest(
                org_id=tenant_of(folder, org).org_id,
                amount_nano_usd=amount,
                idempotency_key=idempotency_key or new_id("credit"),
                kind=ledger_pb2.CREDIT_KIND_PROMOTIONAL if promotional else ledger_pb2.CREDIT_KIND_PAID,
                priority=priority,
                expires_at_ms=days_from_now_ms(expires_in_days),
            )
        )

    _print_balance(ask(data, ledger, question).balance)


@credit_app.command("balance")
def show_balance(org: OrgOption = None, data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None) -> None:
    """What the organisation has, holds and can spend."""

    async def question(client: Ledger, folder: DataDir) -> ledger_pb2.GetBalanceResponse:
        return await client.GetBalance(ledger_pb2.GetBalanceRequest(org_id=tenant_of(folder, org).org_id))

    _print_balance(ask(data, ledger, question).balance)


@credit_app.command("list")
def list_credit(org: OrgOption = None, data: DataOption = DEFAULT_DATA, ledger: LedgerOption = None) -> None:
    """The credit that the balance is made of, in the order in which it is spent."""

    async def question(client: Ledger, folder: DataDir) -> ledger_pb2.ListCreditLotsResponse:
        return await client.ListCreditLots(ledger_pb2.ListCreditLotsRequest(org_id=tenant_of(folder, org).org_id))

    table = Table(Column("credit", no_wrap=True), "kind", "priority", "given $", "left $", "given", "expires")
    for lot in ask(data, ledger, question).lots:
        table.add_row(
            lot.lot_id,
            "promotional" if lot.kind == ledger_pb2.CREDIT_KIND_PROMOTIONAL else "paid",
            str(lot.priority),
            format_usd(lot.granted_nano_usd),
            format_usd(lot.remaining_nano_usd),
            when(lot.created_at_ms),
            when(lot.expires_at_ms) if lot.expires_at_ms else "never",
        )
    _console.print(table)


@credit_app.command("refund")
def refund_credit(
    amount_usd: Annotated[
        str | None, typer.Argument(help="A decimal amount; no more than the paid credit that is available.")
    ] = None,
    payment: Annotated[
        str | None,
        typer.Option(help="pay_...: its provider pays it back; all that is left of it, where no amount is given."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the books.")] = "",
    idempotency_key: Annotated[
        str | None, typer.Option(help="Names this refund: sent twice under one name, it is made once.")
    ] = None,
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """Take paid credit out of the books, to be paid back, and show the balance; with --payment, pay it back."""
    if payment is not None:
        amount = 0 if amount_usd is None else nano_usd(amount_usd)
        payments.refund_payment(payment, amount, reason, idempotency_key, org, data, ledger)
        return
    if amount_usd is None:
        raise typer.BadParameter("say how much, or of which payment (--payment)")
    amount = nano_usd(amount_usd)

    async def question(client: Ledger, folder: DataDir) -> ledger_pb2.RefundCreditResponse:
        return await client.RefundCredit(
            ledger_pb2.RefundCreditRequest(
                org_id=tenant_of(folder, org).org_id,
                amount_nano_usd=amount,
                reason=reason,
                idempotency_key=idempotency_key or new_id("refund"),
            )
        )

    _print_balance(ask(data, ledger, question).balance)


@receipt_app.command("correct")
def correct_charge(
    receipt_id: Annotated[str, typer.Argument(help="rcpt_...")],
    amount_usd: Annotated[str, typer.Argument(help="A decimal amount; no more than what is left of the charge.")],
    reason: Annotated[str, typer.Option(help="Why, for the books.")] = "",
    idempotency_key: Annotated[
        str | None, typer.Option(help="Names this correction: sent twice under one name, it is made once.")
    ] = None,
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """Give back some of a charge as credit. The receipt stays as it is."""
    amount = nano_usd(amount_usd)

    async def question(client: Ledger, folder: DataDir) -> ledger_pb2.CorrectChargeResponse:
        return await client.CorrectCharge(
            ledger_pb2.CorrectChargeRequest(
                org_id=tenant_of(folder, org).org_id,
                receipt_id=receipt_id,
                amount_nano_usd=amount,
                reason=reason,
                idempotency_key=idempotency_key or new_id("correction"),
            )
        )

    _print_balance(ask(data, ledger, question).balance)


@receipt_app.command("show")
def show_receipt(
    receipt_id: Annotated[str, typer.Argument(help="rcpt_...")],
    org: OrgOption = None,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """One receipt, as JSON, in the form of GET /v1/receipts/{id}."""
    request = ledger_pb2.GetReceiptRequest(receipt_id=receipt_id, org_id=org or "")
    answer = ask(data, ledger, lambda client, _: client.GetReceipt(request))
    given_back = {"corrected_usd": format_usd(answer.corrected_nano_usd)}
    typer.echo(
        json.dumps(receipt_json(answer.receipt) | given_back | {"jws": answer.jws}, indent=2, ensure_ascii=False)
    )


def _print_balance(balance: ledger_pb2.Balance) -> None:
    typer.echo(
        f"{balance.org_id}: balance ${format_usd(balance.posted_nano_usd)}, "
        f"held ${format_usd(balance.held_nano_usd)} in {balance.open_holds} requests, "
        f"available ${format_usd(balance.available_nano_usd)}"
    )
