"""Between the messages of ledger.proto and the domain's values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Protocol, TypeVar

from ledger_svc.domain.accounts import AccountKind, Balance, CreditKind
from ledger_svc.domain.cache_policies import CachePolicy
from ledger_svc.domain.caps import Bucket, Cap, CapPeriod, CapScope, CapUnit
from ledger_svc.domain.charges import Attempt, ChargeFacts, Outcome, ServedMode
from ledger_svc.domain.errors import InvalidRequest
from ledger_svc.domain.key_changes import KeyChange, MinuteLimit
from ledger_svc.domain.keys import ApiKey, KeyStatus
from ledger_svc.domain.limits import check_text
from ledger_svc.domain.lots import CreditLot
from ledger_svc.domain.policies import KeyPolicy, KeyScope
from ledger_svc.domain.projects import Project
from ledger_svc.domain.receipts import Receipt
from ledger_svc.servicer.cache_policy_wire import (
    CACHE_DEFAULT_NUMBERS,
    CACHE_DEFAULTS,
    cache_policy_change_from_proto,
    cache_policy_to_proto,
    word,
)
from meshkit import codec
from meshkit.principal import Actor
from meshkit.regions import RegionPolicy
from tallygate.common.v1 import actor_pb2
from tallygate.ledger.v1 import account_pb2
from tallygate.ledger.v1 import ledger_pb2 as pb

T = TypeVar("T")
E = TypeVar("E", bound=Enum)

MODES = {
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
CREDIT_KINDS = {pb.CREDIT_KIND_PAID: CreditKind.PAID, pb.CREDIT_KIND_PROMOTIONAL: CreditKind.PROMOTIONAL}
_MODE_NUMBERS = {mode: number for number, mode in MODES.items()}
_OUTCOME_NUMBERS = {outcome: number for number, outcome in _OUTCOMES.items()}
_FACT_TEXTS = (
    *("requested_model", "model", "source_id", "upstream_model"),
    *("origin_receipt_id", "trace_id", "request_digest", "answer_digest"),
)
CAP_SCOPES = {
    pb.CAP_SCOPE_KEY: CapScope.KEY,
    pb.CAP_SCOPE_PROJECT: CapScope.PROJECT,
    pb.CAP_SCOPE_ORGANIZATION: CapScope.ORGANIZATION,
}
CAP_PERIODS = {pb.CAP_PERIOD_DAY: CapPeriod.DAY, pb.CAP_PERIOD_MONTH: CapPeriod.MONTH}
CAP_UNITS = {pb.CAP_UNIT_NANO_USD: CapUnit.USD, pb.CAP_UNIT_TOKENS: CapUnit.TOKENS}
SCOPE_NUMBERS = {scope: number for number, scope in CAP_SCOPES.items()}
PERIOD_NUMBERS = {period: number for number, period in CAP_PERIODS.items()}
UNIT_NUMBERS = {unit: number for number, unit in CAP_UNITS.items()}
KEY_SCOPES = {
    pb.KEY_SCOPE_UNSPECIFIED: KeyScope.INFERENCE,
    pb.KEY_SCOPE_INFERENCE: KeyScope.INFERENCE,
    pb.KEY_SCOPE_ACCOUNT: KeyScope.ACCOUNT,
}
REGIONS = {
    pb.REGION_POLICY_UNSPECIFIED: RegionPolicy.ANY,
    pb.REGION_POLICY_ANY: RegionPolicy.ANY,
    pb.REGION_POLICY_CN_ONLY: RegionPolicy.CN_ONLY,
    pb.REGION_POLICY_OVERSEAS_ONLY: RegionPolicy.OVERSEAS_ONLY,
}
KEY_STATUSES = {
    pb.KEY_STATUS_ACTIVE: KeyStatus.ACTIVE,
    pb.KEY_STATUS_REVOKED: KeyStatus.REVOKED,
    pb.KEY_STATUS_EXPIRED: KeyStatus.EXPIRED,
}
_KEY_STATUS_NUMBERS = {status: number for number, status in KEY_STATUSES.items()}
_KEY_SCOPE_NUMBERS = {scope: number for number, scope in KEY_SCOPES.items()}
_REGION_NUMBERS = {region: number for number, region in REGIONS.items()}
_LOT_KINDS = {
    AccountKind.CUSTOMER_CREDIT: pb.CREDIT_KIND_PAID,
    AccountKind.PROMO: pb.CREDIT_KIND_PROMOTIONAL,
}


def known(param: str, table: dict[Any, E], number: int) -> E:
    """The domain's word for an enumerated number.

    Raises:
        InvalidRequest: a number that is not one of them.
    """
    try:
        return table[number]
    except KeyError:
        raise InvalidRequest(param, f"{number} is not one of {[kind.value for kind in table.values()]}") from None


def decoded(param: str, decode: Callable[[T], Any], message: T) -> Any:
    """What ``decode`` makes of a message.

    Raises:
        InvalidRequest: for its ValueError.
    """
    try:
        return decode(message)
    except ValueError as error:
        raise InvalidRequest(param, str(error)) from error


def facts_from_proto(message: pb.ChargeFacts) -> ChargeFacts:
    """What to charge for.

    Raises:
        InvalidRequest.
    """
    return ChargeFacts(
        usage=decoded("facts.usage", codec.usage_from_proto, message.usage),
        price=decoded("facts.price", codec.price_from_proto, message.price),
        served_mode=known("facts.served_mode", MODES, message.served_mode),
        outcome=known("facts.outcome", _OUTCOMES, message.outcome),
        requested_model=message.requested_model,
        model=message.model,
        source_id=message.source_id,
        upstream_model=message.upstream_model,
        origin_receipt_id=message.origin_receipt_id,
        trace_id=message.trace_id,
        request_digest=message.request_digest,
        answer_digest=message.answer_digest,
        tags=tuple(sorted(message.tags.items())) if message.tags else (),
        started_at_ms=message.started_at_ms,
    )


def facts_to_proto(facts: ChargeFacts) -> pb.ChargeFacts:
    """What was charged for."""
    return pb.ChargeFacts(
        usage=codec.usage_to_proto(facts.usage),
        price=codec.price_to_proto(facts.price),
        served_mode=_MODE_NUMBERS[facts.served_mode],
        outcome=_OUTCOME_NUMBERS[facts.outcome],
        tags=dict(facts.tags),
        started_at_ms=facts.started_at_ms,
        **{name: getattr(facts, name) for name in _FACT_TEXTS},
    )


def attempts_from_proto(messages: Iterable[pb.Attempt]) -> list[Attempt]:
    """The calls of sources, in order."""
    return [Attempt(m.offer_id, m.started_at_ms, m.duration_ms, m.http_status, m.won, m.failure) for m in messages]


def attempt_to_proto(attempt: Attempt) -> pb.Attempt:
    """One call of a source."""
    return pb.Attempt(
        offer_id=attempt.offer_id,
        started_at_ms=attempt.started_at_ms,
        duration_ms=attempt.duration_ms,
        http_status=attempt.http_status,
        won=attempt.won,
        failure=attempt.failure,
    )


def receipt_to_proto(
    receipt: Receipt, facts: ChargeFacts | None = None, sent: pb.SettleRequest | pb.ChargeRequest | None = None
) -> pb.Receipt:
    """A receipt. ``facts``, ``sent``: the facts of the request that it answers, and that request. What it has is not
    encoded anew where the receipt was written just now of those very facts.
    """
    attempts: Iterable[pb.Attempt]
    if sent is not None and receipt.facts is facts:
        encoded, attempts = sent.facts, sent.attempts if isinstance(sent, pb.SettleRequest) else ()
    else:
        encoded, attempts = facts_to_proto(receipt.facts), map(attempt_to_proto, receipt.attempts)
    return pb.Receipt(
        receipt_id=receipt.receipt_id,
        request_id=receipt.request_id,
        org_id=receipt.org_id,
        project_id=receipt.project_id,
        key_id=receipt.key_id,
        facts=encoded,
        held_nano_usd=receipt.held_nano_usd,
        charged_nano_usd=receipt.charged_nano_usd,
        saved_nano_usd=receipt.saved_nano_usd,
        absorbed_nano_usd=receipt.absorbed_nano_usd,
        attempts=attempts,
        created_at_ms=receipt.created_at_ms,
    )


def key_to_proto(key: ApiKey, status: KeyStatus, cache: CachePolicy) -> pb.Key:
    """What is known of a key, and whether it can be used. ``cache``: the cache policy that is in force for it."""
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
        policy=policy_to_proto(key.policy, cache),
        cache=cache_policy_to_proto(key.cache),
        status=_KEY_STATUS_NUMBERS[status],
    )


def key_change_from_proto(message: account_pb2.UpdateKeyRequest) -> KeyChange:
    """What is to change of a key: what the message has.

    Raises:
        InvalidRequest: a number that this build does not know.
    """

    def given(name: str) -> Any:
        return getattr(message, name) if message.HasField(name) else None  # type: ignore[arg-type] # a name of any

    def texts(name: str) -> tuple[str, ...] | None:
        found = given(name)
        return None if found is None else tuple(found.values)

    def limit(name: str) -> MinuteLimit | None:
        found = given(name)
        if found is None:
            return None
        return MinuteLimit(found.per_minute if found.HasField("per_minute") else None)

    return KeyChange(
        name=given("name"),
        allowed_models=texts("allowed_models"),
        expires_at_ms=given("expires_at_ms"),
        read_only=given("read_only"),
        allowed_cidrs=texts("allowed_cidrs"),
        region=known("region", REGIONS, message.region) if message.region else None,
        requests_per_minute=limit("requests_per_minute"),
        tokens_per_minute=limit("tokens_per_minute"),
        cache_default=word("cache_default", CACHE_DEFAULTS, message.cache_default),
        cache=cache_policy_change_from_proto(message.cache),
    )


def policy_to_proto(policy: KeyPolicy, cache: CachePolicy) -> pb.KeyPolicy:
    """What a key may do. ``cache``: the cache policy that is in force for it."""
    return pb.KeyPolicy(
        scope=_KEY_SCOPE_NUMBERS[policy.scope],
        read_only=policy.read_only,
        allowed_cidrs=policy.allowed_cidrs,
        region=_REGION_NUMBERS[policy.region],
        requests_per_minute=policy.requests_per_minute,
        tokens_per_minute=policy.tokens_per_minute,
        cache_default=CACHE_DEFAULT_NUMBERS[cache.default],
    )


def policy_from_proto(message: pb.KeyPolicy) -> KeyPolicy:
    """Decode a policy.

    Raises:
        InvalidRequest: a number that this build does not know.
    """
    return KeyPolicy(
        scope=known("policy.scope", KEY_SCOPES, message.scope),
        read_only=message.read_only,
        allowed_cidrs=tuple(message.allowed_cidrs),
        region=known("policy.region", REGIONS, message.region),
        requests_per_minute=message.requests_per_minute if message.HasField("requests_per_minute") else None,
        tokens_per_minute=message.tokens_per_minute if message.HasField("tokens_per_minute") else None,
    )


def balance_to_proto(balance: Balance) -> pb.Balance:
    """A balance."""
    return pb.Balance(
        org_id=balance.org_id,
        posted_nano_usd=balance.posted_nano_usd,
        held_nano_usd=balance.held_nano_usd,
        available_nano_usd=balance.available_nano_usd,
        open_holds=balance.open_holds,
    )


def cap_to_proto(cap: Cap, bucket: Bucket) -> pb.Cap:
    """A cap with what counts for it."""
    return pb.Cap(
        scope=SCOPE_NUMBERS[cap.scope],
        scope_id=cap.scope_id,
        period=PERIOD_NUMBERS[cap.period],
        unit=UNIT_NUMBERS[cap.unit],
        limit=cap.limit,
        spent=bucket.spent,
        held=bucket.reserved,
        resets_at_ms=bucket.ends_at_ms,
        set_at_ms=cap.set_at_ms,
    )


def lot_to_proto(lot: CreditLot) -> pb.CreditLot:
    """One credit."""
    return pb.CreditLot(
        lot_id=lot.lot_id,
        kind=_LOT_KINDS[lot.kind],
        priority=lot.priority,
        granted_nano_usd=lot.granted_nano_usd,
        remaining_nano_usd=lot.remaining_nano_usd,
        created_at_ms=lot.created_at_ms,
        expires_at_ms=lot.expires_at_ms,
    )


class Changing(Protocol):
    """A request that changes something."""

    @property
    def actor(self) -> actor_pb2.Actor:
        """Who sends it."""


def actor_of(request: Changing) -> Actor:
    """Who changes something.

    Raises:
        InvalidRequest: a kind of actor that this build does not know, or texts that are too long.
    """
    actor: Actor = decoded("actor", codec.actor_from_proto, request.actor)
    for name in ("id", "address", "trace_id"):
        check_text(f"actor.{name}", getattr(actor, name), empty=True)
    return actor


def project_to_proto(project: Project) -> account_pb2.Project:
    """Encode a project."""
    return account_pb2.Project(
        project_id=project.project_id,
        org_id=project.org_id,
        name=project.name,
        created_at_ms=project.created_at_ms,
    )
