"""`tallygate billing`: what was paid, what providers told, and what of it a person has to look at."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from meshkit.ids import new_id
from meshkit.money import format_usd
from tallygate.ledger.v1 import billing_pb2
from tallygate_deploy.ledger_client import DEFAULT_DATA, DataOption, LedgerOption, ask_billing, when

if TYPE_CHECKING:
    from tallygate_deploy.ledger_client import Billing

app = typer.Typer(no_args_is_help=True, help="Payments for credit.")

_console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)  # a pipe has no width: wrap nothing
LimitOption = Annotated[int, typer.Option(min=1, max=1_000, help="At most so many, the newest first.")]


@app.command("payments")
def list_payments(
    org: Annotated[str | None, typer.Option("--org", help="One organisation; all if not given.")] = None,
    limit: LimitOption = 100,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """Payments, newest first; and below, what a person has to look at."""

    async def question(client: Billing) -> tuple[billing_pb2.ListPaymentsResponse, billing_pb2.ListNoticesResponse]:
        paid = await client.ListPayments(billing_pb2.ListPaymentsRequest(org_id=org or "", page_size=limit))
        return paid, await client.ListNotices(billing_pb2.ListNoticesRequest(trouble_only=True, page_size=limit))

    found, trouble = ask_billing(data, ledger, question)
    table = Table(
        Column("payment", no_wrap=True), "organisation", "provider", "$", "state", "paid back $", "lost $", "begun"
    )
    for payment in found.payments:
        table.add_row(
            payment.payment_id,
            payment.org_id,
            payment.provider,
            format_usd(payment.amount_nano_usd),
            _word(billing_pb2.PaymentState.Name(payment.state)),
            format_usd(payment.returned_nano_usd),
            format_usd(payment.uncovered_nano_usd),
            when(payment.created_at_ms),
        )
    _console.print(table)
    if trouble.notices:
        _console.print("To be looked at (see `tallygate billing notices`):")
        _print_notices(list(trouble.notices))


@app.command("notices")
def list_notices(
    trouble: Annotated[bool, typer.Option("--trouble", help="Only those that a person has to look at.")] = False,
    limit: LimitOption = 100,
    data: DataOption = DEFAULT_DATA,
    ledger: LedgerOption = None,
) -> None:
    """What payment providers told, newest first, and what it led to."""
    request = billing_pb2.ListNoticesRequest(trouble_only=trouble, page_size=limit)
    _print_notices(list(ask_billing(data, ledger, lambda client: client.ListNotices(request)).notices))


def refund_payment(
    payment_id: str,
    amount_nano_usd: int,
    reason: str,
    idempotency_key: str | None,
    org: str | None,
    data: DataOption,
    ledger: str | None,
) -> None:
    """Pays a payment back at its provider, and says how it stands."""
    request = billing_pb2.RefundPaymentRequest(
        org_id=org or "",
        payment_id=payment_id,
        amount_nano_usd=amount_nano_usd,
        reason=reason,
        idempotency_key=idempotency_key or new_id("refund"),
    )
    made = ask_billing(data, ledger, lambda client: client.RefundPayment(request))
    refund, payment = made.refund, made.payment
    typer.echo(
        f"{refund.refund_id}: ${format_usd(refund.amount_nano_usd)} of {payment_id} "
        f"{_word(billing_pb2.RefundState.Name(refund.state))}; of ${format_usd(payment.amount_nano_usd)} paid, "
        f"${format_usd(payment.returned_nano_usd)} are paid back"
    )


def _print_notices(notices: list[billing_pb2.Notice]) -> None:
    table = Table(Column("event", no_wrap=True), "about", "led to", "payment", "provider's name", "amount", "came")
    for notice in notices:
        table.add_row(
            notice.event_id,
            notice.about,
            _word(billing_pb2.NoticeOutcome.Name(notice.outcome)),
            notice.payment_id or "-",
            notice.provider_payment_id or notice.session_id,
            f"{format_usd(notice.amount_nano_usd)} {notice.currency}",
            when(notice.received_at_ms),
        )
    _console.print(table)


def _word(name: str) -> str:
    return name.rpartition("_")[2].lower()
