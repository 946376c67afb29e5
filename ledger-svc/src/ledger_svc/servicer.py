"""``tallygate.ledger.v1.LedgerService``: decode, call the service, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from grpc import StatusCode

from ledger_svc.domain import errors
from ledger_svc.domain.accounts import Balance, CreditKind
from ledger_svc.domain.charges import Attempt, ChargeFacts, Outcome, ServedMode
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.keys import ApiKey
from ledger_svc.domain.receipts import Receipt
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.log import LogService
from ledger_svc.service.receipts import ReceiptService
from ledger_svc.service.revocations import Revocations
from meshkit import codec
from meshkit.errors import ErrorTable, maps_errors
from meshkit.money import PriceSnapshot
from tallygate.common.v1 import money_pb2
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2 as pb
from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

T = TypeVar("T")
E = TypeVar("E", bound=Enum)

ERRORS: ErrorTable = {
    errors.InvalidRequest: (StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_INVALID_REQUEST),
    errors.NotFound: (StatusCode.NOT_FOUND, ErrorReason.ERROR_REASON_NOT_FOUND),
    errors.InvalidApiKey: (StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_INVALID_API_KEY),
    errors.ApiKeyRevoked: (StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_API_KEY_REVOKED),
    errors.ModelNotAllowed: (StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_MODEL_NOT_ALLOWED),
    errors.InsufficientBalance: (StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE),
    errors.BudgetExceeded: (StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_BUDGET_EXCEEDED),
    errors.IdempotencyConflict: (StatusCode.ALREADY_EXISTS, ErrorReason.ERROR_REASON_IDEMPOTENCY_CONFLICT),
    errors.HoldClosed: (StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_HOLD_CLOSED),
    errors.LedgerUnavailable: (StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
    errors.Standby: (StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
    errors.QueueFull: (StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_UNAVAILABLE),
}
"""Every refusal of the domain, as callers see it."""

_MODES = {
    pb.SERVED_MODE_FRESH: ServedMode.FRESH,
    pb.SERVED_MODE_EXACT: ServedMode.EXACT,
    pb.SERVED_MODE_CANONICAL: ServedMode.CANONICAL,
    pb.SERVED_MODE_SEMANTIC: ServedMode.SEMANTIC,
}
_OUTCOMES = {
    pb.OUTCOME_COMPLETE: Outcome.COMPLETE,
    pb.OUTCOME_CLIENT_GONE: Outcome.CLIENT_GONE,
    pb.OUTCOME_INTERRUPTED: Outcome.INTERRUPTED,
}
_CREDIT_KINDS = {pb.CREDIT_KIND_PAID: CreditKind.PAID, pb.CREDIT_KIND_PROMOTIONAL: CreditKind.PROMOTIONAL}
_MODE_NUMBERS = {mode: number for number, mode in _MODES.items()}
_OUTCOME_NUMBERS = {outcome: number for number, outcome in _OUTCOMES.items()}
_FACT_TEXTS = (
    *("requested_model", "model", "source_id", "upstream_model"),
    *("origin_receipt_id", "trace_id", "request_digest", "answer_digest"),
)


@maps_errors(ERRORS)
class LedgerServicer(LedgerServiceServicer):
    """The RPCs; see ledger.proto for what each promises."""

    def __init__(
        self,
        *,
        keys: KeyService,
        charging: ChargingService,
        receipts: ReceiptService,
        log: LogService,
        revocations: Revocations,
    ) -> None:
        self._keys = keys
        self._charging = charging
        self._receipts = receipts
        self._log = log
        self._revocations = revocations

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: Context
    ) -> pb.CreateOrganizationResponse:
        """See ledger.proto."""
        return pb.CreateOrganizationResponse(org_id=await self._keys.create_organization(request.name))

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Context) -> pb.CreateProjectResponse:
        """See ledger.proto."""
        return pb.CreateProjectResponse(project_id=await self._keys.create_project(request.org_id, request.name))

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        """See ledger.proto."""
        key, secret = await self._keys.create_key(
            request.org_id,
            request.project_id,
            request.name,
            allowed_models=request.allowed_models,
            expires_at_ms=request.expires_at_ms,
        )
        return pb.CreateKeyResponse(key=_key(key), secret=secret)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """See ledger.proto."""
        return pb.ListKeysResponse(keys=[_key(key) for key in await self._keys.list_keys(request.org_id)])

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> pb.RevokeKeyResponse:
        """See ledger.proto."""
        return pb.RevokeKeyResponse(key=_key(await self._keys.revoke_key(request.key_id, request.org_id)))

    async def Authenticate(self, request: pb.AuthenticateRequest, context: Context) -> pb.AuthenticateResponse:
        """See ledger.proto."""
        principal, valid_for_ms = await self._keys.authenticate(request.secret)
        return pb.AuthenticateResponse(principal=codec.principal_to_proto(principal), valid_for_ms=valid_for_ms)

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        """See ledger.proto."""
        async for key_id in self._revocations.watch():
            yield pb.WatchRevocationsResponse(key_id=key_id)

    async def AddCredit(self, request: pb.AddCreditRequest, context: Context) -> pb.AddCreditResponse:
        """See ledger.proto."""
        balance = await self._charging.add_credit(
            request.org_id,
            amount_nano_usd=request.amount_nano_usd,
            idempotency_key=request.idempotency_key,
            kind=_known("kind", _CREDIT_KINDS, request.kind),
        )
        return pb.AddCreditResponse(balance=_balance(balance))

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Context) -> pb.GetBalanceResponse:
        """See ledger.proto."""
        return pb.GetBalanceResponse(balance=_balance(await self._charging.balance(request.org_id)))

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        """See ledger.proto."""
        hold = await self._charging.reserve(
            codec.principal_from_proto(request.principal),
            request.request_id,
            amount_nano_usd=request.amount_nano_usd,
            ttl_ms=request.ttl_ms,
            model=request.model,
        )
        return pb.ReserveResponse(
            hold_id=hold.hold_id, amount_nano_usd=hold.amount_nano_usd, expires_at_ms=hold.expires_at_ms
        )

    async def Settle(self, request: pb.SettleRequest, context: Context) -> pb.SettleResponse:
        """See ledger.proto."""
        receipt = await self._charging.settle(
            request.org_id, request.request_id, facts=_facts(request.facts), attempts=_attempts(request.attempts)
        )
        return pb.SettleResponse(receipt=_receipt(receipt))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:
        """See ledger.proto."""
        released_nano_usd = await self._charging.release(
            request.org_id, request.request_id, reason=request.reason, attempts=_attempts(request.attempts)
        )
        return pb.ReleaseResponse(released_nano_usd=released_nano_usd)

    async def Charge(self, request: pb.ChargeRequest, context: Context) -> pb.ChargeResponse:
        """See ledger.proto."""
        receipt = await self._charging.charge(
            codec.principal_from_proto(request.principal), request.request_id, facts=_facts(request.facts)
        )
        return pb.ChargeResponse(receipt=_receipt(receipt))

    async def GetReceipt(self, request: pb.GetReceiptRequest, context: Context) -> pb.GetReceiptResponse:
        """See ledger.proto."""
        found = await self._receipts.get(request.org_id, request.receipt_id)
        return pb.GetReceiptResponse(receipt=_receipt(found.receipt), jws=found.jws)

    async def ListReceipts(self, request: pb.ListReceiptsRequest, context: Context) -> pb.ListReceiptsResponse:
        """See ledger.proto."""
        found, next_page_token = await self._receipts.page(
            request.org_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListReceiptsResponse(receipts=map(_receipt, found), next_page_token=next_page_token)

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, context: Context
    ) -> pb.GetInclusionProofResponse:
        """See ledger.proto."""
        found = await self._log.inclusion(request.org_id, request.receipt_id, request.tree_size)
        return pb.GetInclusionProofResponse(
            jws=found.receipt.jws,
            leaf_index=found.receipt.leaf_index,
            tree_size=found.checkpoint.size,
            hashes=found.hashes,
            checkpoint=found.checkpoint.note,
        )

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Context) -> pb.GetCheckpointResponse:
        """See ledger.proto."""
        found = await self._log.checkpoint(request.tree_size)
        return pb.GetCheckpointResponse(
            checkpoint=found.note, tree_size=found.size, root_hash=found.root_hash, created_at_ms=found.created_at_ms
        )

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: Context
    ) -> pb.GetConsistencyProofResponse:
        """See ledger.proto."""
        found = await self._log.consistency(request.first_size, request.second_size)
        return pb.GetConsistencyProofResponse(
            first_size=found.first_size, second_size=found.second_size, hashes=found.hashes
        )

    async def ListSigningKeys(self, request: pb.ListSigningKeysRequest, context: Context) -> pb.ListSigningKeysResponse:
        """See ledger.proto."""
        current, keys = self._log.keys.signing_kid, self._log.keys.public
        return pb.ListSigningKeysResponse(
            keys=[
                pb.SigningKey(kid=kid, public_key=keys[kid].public_bytes_raw(), current=kid == current)
                for kid in sorted(keys, key=lambda kid: (kid != current, kid))
            ],
            log_origin=self._log.origin,
        )


def _known(param: str, table: dict[Any, E], number: int) -> E:
    try:
        return table[number]
    except KeyError:
        raise InvalidRequest(param, f"{number} is not one of {[kind.value for kind in table.values()]}") from None


def _decoded(param: str, decode: Callable[[T], Any], message: T) -> Any:
    try:
        return decode(message)
    except ValueError as error:
        raise InvalidRequest(param, str(error)) from error


def _facts(message: pb.ChargeFacts) -> ChargeFacts:
    return ChargeFacts(
        usage=_decoded("facts.usage", codec.usage_from_proto, message.usage),
        price=_decoded("facts.price", _price, message.price.SerializeToString(deterministic=True)),
        served_mode=_known("facts.served_mode", _MODES, message.served_mode),
        outcome=_known("facts.outcome", _OUTCOMES, message.outcome),
        **{name: getattr(message, name) for name in _FACT_TEXTS},
    )


@lru_cache(maxsize=4_096)
def _price(encoded: bytes) -> PriceSnapshot:
    """A price serves many requests, and is most of what there is to decode of a settlement."""
    return codec.price_from_proto(money_pb2.PriceSnapshot.FromString(encoded))


def _facts_to_proto(facts: ChargeFacts) -> pb.ChargeFacts:
    return pb.ChargeFacts(
        usage=codec.usage_to_proto(facts.usage),
        price=codec.price_to_proto(facts.price),
        served_mode=_MODE_NUMBERS[facts.served_mode],
        outcome=_OUTCOME_NUMBERS[facts.outcome],
        **{name: getattr(facts, name) for name in _FACT_TEXTS},
    )


def _attempts(messages: Iterable[pb.Attempt]) -> list[Attempt]:
    return [Attempt(m.offer_id, m.started_at_ms, m.duration_ms, m.http_status, m.won, m.failure) for m in messages]


def _attempt(attempt: Attempt) -> pb.Attempt:
    return pb.Attempt(
        offer_id=attempt.offer_id,
        started_at_ms=attempt.started_at_ms,
        duration_ms=attempt.duration_ms,
        http_status=attempt.http_status,
        won=attempt.won,
        failure=attempt.failure,
    )


def _receipt(receipt: Receipt) -> pb.Receipt:
    return pb.Receipt(
        receipt_id=receipt.receipt_id,
        request_id=receipt.request_id,
        org_id=receipt.org_id,
        project_id=receipt.project_id,
        key_id=receipt.key_id,
        facts=_facts_to_proto(receipt.facts),
        held_nano_usd=receipt.held_nano_usd,
        charged_nano_usd=receipt.charged_nano_usd,
        saved_nano_usd=receipt.saved_nano_usd,
        absorbed_nano_usd=receipt.absorbed_nano_usd,
        attempts=map(_attempt, receipt.attempts),
        created_at_ms=receipt.created_at_ms,
    )


def _key(key: ApiKey) -> pb.Key:
    return pb.Key(
        key_id=key.key_id,
        org_id=key.org_id,
        project_id=key.project_id,
        name=key.name,
        prefix=key.prefix,
        allowed_models=key.allowed_models,
        created_at_ms=key.created_at_ms,
        expires_at_ms=key.expires_at_ms,
        revoked_at_ms=key.revoked_at_ms,
    )


def _balance(balance: Balance) -> pb.Balance:
    return pb.Balance(
        org_id=balance.org_id,
        posted_nano_usd=balance.posted_nano_usd,
        held_nano_usd=balance.held_nano_usd,
        available_nano_usd=balance.available_nano_usd,
        open_holds=balance.open_holds,
    )
