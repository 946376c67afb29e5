"""``tallygate.ledger.v1.LedgerService``: decode, call the service, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ledger_svc.domain.capping import CapLimit
from ledger_svc.domain.caps import UNLIMITED
from ledger_svc.domain.keys import ApiKey
from ledger_svc.domain.lots import DEFAULT_PRIORITY
from ledger_svc.service.budgets import BudgetService
from ledger_svc.service.charging import ChargingService
from ledger_svc.service.credit import CreditService
from ledger_svc.service.keys import KeyService
from ledger_svc.service.log import LogService
from ledger_svc.service.receipts import ReceiptService
from ledger_svc.service.revocations import Revocations, organization_named
from ledger_svc.servicer.cache_policy_wire import cache_policy_of, cache_policy_to_proto
from ledger_svc.servicer.refusals import ERRORS
from ledger_svc.servicer.wire import (
    CAP_PERIODS,
    CAP_SCOPES,
    CAP_UNITS,
    CREDIT_KINDS,
    actor_of,
    attempts_from_proto,
    balance_to_proto,
    cap_to_proto,
    facts_from_proto,
    key_to_proto,
    known,
    lot_to_proto,
    policy_from_proto,
    policy_to_proto,
    receipt_to_proto,
)
from meshkit import codec
from meshkit.errors import maps_errors
from tallygate.ledger.v1 import ledger_pb2 as pb
from tallygate.ledger.v1.ledger_pb2_grpc import LedgerServiceServicer

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]


@maps_errors(ERRORS)
class LedgerServicer(LedgerServiceServicer):
    """The RPCs; see ledger.proto for what each promises."""

    def __init__(
        self,
        *,
        keys: KeyService,
        charging: ChargingService,
        credit: CreditService,
        budgets: BudgetService,
        receipts: ReceiptService,
        log: LogService,
        revocations: Revocations,
    ) -> None:
        self._keys = keys
        self._charging = charging
        self._credit = credit
        self._budgets = budgets
        self._receipts = receipts
        self._log = log
        self._revocations = revocations

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: Context
    ) -> pb.CreateOrganizationResponse:
        """See ledger.proto."""
        return pb.CreateOrganizationResponse(
            org_id=await self._keys.create_organization(request.name, actor=actor_of(request))
        )

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Context) -> pb.CreateProjectResponse:
        """See ledger.proto."""
        return pb.CreateProjectResponse(
            project_id=await self._keys.create_project(request.org_id, request.name, actor=actor_of(request))
        )

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        """See ledger.proto."""
        key, secret = await self._keys.create_key(
            request.org_id,
            request.project_id,
            request.name,
            allowed_models=request.allowed_models,
            expires_at_ms=request.expires_at_ms,
            policy=policy_from_proto(request.policy),
            cache=cache_policy_of(request.policy),
            actor=actor_of(request),
        )
        return pb.CreateKeyResponse(key=self._shown(key), secret=secret)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """See ledger.proto."""
        return pb.ListKeysResponse(keys=map(self._shown, await self._keys.list_keys(request.org_id)))

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> pb.RevokeKeyResponse:
        """See ledger.proto."""
        key = await self._keys.revoke_key(request.key_id, request.org_id, actor=actor_of(request))
        return pb.RevokeKeyResponse(key=self._shown(key))

    def _shown(self, key: ApiKey) -> pb.Key:
        return key_to_proto(key, self._keys.status_of(key), self._keys.cache_in_force(key))

    async def Authenticate(self, request: pb.AuthenticateRequest, context: Context) -> pb.AuthenticateResponse:
        """See ledger.proto."""
        found = await self._keys.authenticate(request.secret)
        return pb.AuthenticateResponse(
            principal=codec.principal_to_proto(found.principal),
            policy=policy_to_proto(found.policy, found.cache),
            valid_for_ms=found.valid_for_ms,
            cache=cache_policy_to_proto(found.cache),
        )

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        """See ledger.proto."""
        async for name in self._revocations.watch():
            org_id = organization_named(name)
            yield (
                pb.WatchRevocationsResponse(key_id=name)
                if org_id is None
                else pb.WatchRevocationsResponse(org_id=org_id)
            )

    async def AddCredit(self, request: pb.AddCreditRequest, context: Context) -> pb.AddCreditResponse:
        """See ledger.proto."""
        balance = await self._credit.add(
            request.org_id,
            amount_nano_usd=request.amount_nano_usd,
            idempotency_key=request.idempotency_key,
            kind=known("kind", CREDIT_KINDS, request.kind),
            priority=request.priority if request.HasField("priority") else DEFAULT_PRIORITY,
            expires_at_ms=request.expires_at_ms,
            actor=actor_of(request),
        )
        return pb.AddCreditResponse(balance=balance_to_proto(balance))

    async def RefundCredit(self, request: pb.RefundCreditRequest, context: Context) -> pb.RefundCreditResponse:
        """See ledger.proto."""
        balance = await self._credit.refund(
            request.org_id,
            amount_nano_usd=request.amount_nano_usd,
            reason=request.reason,
            idempotency_key=request.idempotency_key,
            actor=actor_of(request),
        )
        return pb.RefundCreditResponse(balance=balance_to_proto(balance))

    async def CorrectCharge(self, request: pb.CorrectChargeRequest, context: Context) -> pb.CorrectChargeResponse:
        """See ledger.proto."""
        made, balance = await self._credit.correct(
            request.org_id,
            request.receipt_id,
            amount_nano_usd=request.amount_nano_usd,
            reason=request.reason,
            idempotency_key=request.idempotency_key,
            actor=actor_of(request),
        )
        return pb.CorrectChargeResponse(
            paid_nano_usd=made.paid_nano_usd,
            promotional_nano_usd=made.promo_nano_usd,
            balance=balance_to_proto(balance),
        )

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Context) -> pb.GetBalanceResponse:
        """See ledger.proto."""
        return pb.GetBalanceResponse(balance=balance_to_proto(await self._credit.balance(request.org_id)))

    async def ListCreditLots(self, request: pb.ListCreditLotsRequest, context: Context) -> pb.ListCreditLotsResponse:
        """See ledger.proto."""
        return pb.ListCreditLotsResponse(lots=map(lot_to_proto, await self._credit.lots(request.org_id)))

    async def SetCap(self, request: pb.SetCapRequest, context: Context) -> pb.SetCapResponse:
        """See ledger.proto."""
        cap, bucket = await self._budgets.set_cap(
            request.org_id,
            known("scope", CAP_SCOPES, request.scope),
            request.scope_id,
            period=known("period", CAP_PERIODS, request.period),
            unit=known("unit", CAP_UNITS, request.unit),
            limit=request.limit if request.HasField("limit") else UNLIMITED,
            actor=actor_of(request),
        )
        return pb.SetCapResponse(cap=cap_to_proto(cap, bucket) if cap.is_set else None)

    async def SetCaps(self, request: pb.SetCapsRequest, context: Context) -> pb.SetCapsResponse:
        """See ledger.proto."""
        found = await self._budgets.set_caps(
            request.org_id,
            known("scope", CAP_SCOPES, request.scope),
            request.scope_id,
            [
                CapLimit(
                    known("limits.period", CAP_PERIODS, wanted.period),
                    known("limits.unit", CAP_UNITS, wanted.unit),
                    wanted.limit if wanted.HasField("limit") else UNLIMITED,
                )
                for wanted in request.limits
            ],
            actor=actor_of(request),
        )
        return pb.SetCapsResponse(caps=[cap_to_proto(cap, bucket) for cap, bucket in found if cap.is_set])

    async def ListCaps(self, request: pb.ListCapsRequest, context: Context) -> pb.ListCapsResponse:
        """See ledger.proto."""
        scope = known("scope", CAP_SCOPES, request.scope) if request.scope else None
        found = await self._budgets.caps(request.org_id, scope=scope, scope_id=request.scope_id)
        return pb.ListCapsResponse(caps=[cap_to_proto(cap, bucket) for cap, bucket in found])

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        """See ledger.proto."""
        hold = await self._charging.reserve(
            codec.principal_from_proto(request.principal),
            request.request_id,
            amount_nano_usd=request.amount_nano_usd,
            ttl_ms=request.ttl_ms,
            model=request.model,
            amount_tokens=request.amount_tokens,
        )
        return pb.ReserveResponse(
            hold_id=hold.hold_id, amount_nano_usd=hold.amount_nano_usd, expires_at_ms=hold.expires_at_ms
        )

    async def ExtendHold(self, request: pb.ExtendHoldRequest, context: Context) -> pb.ExtendHoldResponse:
        """See ledger.proto."""
        hold = await self._charging.extend(request.org_id, request.request_id, ttl_ms=request.ttl_ms)
        return pb.ExtendHoldResponse(expires_at_ms=hold.expires_at_ms)

    async def Settle(self, request: pb.SettleRequest, context: Context) -> pb.SettleResponse:
        """See ledger.proto."""
        facts = facts_from_proto(request.facts)
        receipt = await self._charging.settle(
            request.org_id, request.request_id, facts=facts, attempts=attempts_from_proto(request.attempts)
        )
        return pb.SettleResponse(receipt=receipt_to_proto(receipt, facts, request))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:
        """See ledger.proto."""
        released_nano_usd = await self._charging.release(
            request.org_id, request.request_id, reason=request.reason, attempts=attempts_from_proto(request.attempts)
        )
        return pb.ReleaseResponse(released_nano_usd=released_nano_usd)

    async def Charge(self, request: pb.ChargeRequest, context: Context) -> pb.ChargeResponse:
        """See ledger.proto."""
        facts = facts_from_proto(request.facts)
        receipt = await self._charging.charge(
            codec.principal_from_proto(request.principal), request.request_id, facts=facts
        )
        return pb.ChargeResponse(receipt=receipt_to_proto(receipt, facts, request))

    async def GetReceipt(self, request: pb.GetReceiptRequest, context: Context) -> pb.GetReceiptResponse:
        """See ledger.proto."""
        found = await self._receipts.get(request.org_id, request.receipt_id)
        corrected = await self._receipts.corrected_nano_usd(request.receipt_id)
        return pb.GetReceiptResponse(
            receipt=receipt_to_proto(found.receipt), jws=found.jws, corrected_nano_usd=corrected
        )

    async def ListReceipts(self, request: pb.ListReceiptsRequest, context: Context) -> pb.ListReceiptsResponse:
        """See ledger.proto."""
        found, next_page_token = await self._receipts.page(
            request.org_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListReceiptsResponse(receipts=map(receipt_to_proto, found), next_page_token=next_page_token)

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
