"""Which offers can take a request, in which order, and the most that it can cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from meshkit.money import PriceSnapshot, worst_case_nano_usd
from meshkit.regions import RegionPolicy
from router_svc.domain.catalog import CatalogSnapshot, Model, Offer, Source, WireFormat
from router_svc.domain.errors import InvalidRequest, ModelNotFound, NoSource, PriceUnknown
from router_svc.domain.images import image_rule_of, most_image_tokens
from router_svc.domain.own_key import NO_KEYS, OwnKey, OwnKeys
from router_svc.domain.request import ChatRequest

_NAMED_REJECTIONS = 20


class RejectionReason(Enum):
    """Why an offer is not tried; the values are those of the contract."""

    NOT_CONFIGURED = 1
    PRICE_UNKNOWN = 2
    CAPABILITY = 3
    CONTEXT = 4
    WIRE_FORMAT = 5
    OWN_KEY_ONLY = 6
    REGION = 7


_REQUESTS_FAULT = frozenset({RejectionReason.CAPABILITY, RejectionReason.CONTEXT})


@dataclass(frozen=True, slots=True)
class Rejection:
    """An offer that is not tried, and why in words."""

    offer_id: str
    reason: RejectionReason
    detail: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer that can take the request, with the most that it can cost there."""

    offer: Offer
    source: Source
    price: PriceSnapshot
    worst_case_nano_usd: int
    most_prompt_tokens: int
    most_answer_tokens: int
    """What the worst case is computed from; the answer's of all choices together."""
    reasons_unseen: bool = False
    """The model thinks in tokens that a stream does not show, and only its last usage tells of."""
    own_key: OwnKey | None = None
    """The organisation's own key, with which it is called; None: with the operator's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Whom to try in which order, whom not, and what to hold."""

    candidates: tuple[Candidate, ...]
    rejections: tuple[Rejection, ...]
    catalog_revision: str

    @property
    def hold_nano_usd(self) -> int:
        """The worst case over all candidates."""
        return max((candidate.worst_case_nano_usd for candidate in self.candidates), default=0)

    @property
    def hold_tokens(self) -> int:
        """The most tokens over all candidates, prompt and answers together."""
        return max((c.most_prompt_tokens + c.most_answer_tokens for c in self.candidates), default=0)

    def require_candidate(self) -> None:
        """Refuse to go on without anyone to try.

        Raises:
            PriceUnknown: every offer that could be called was dropped for want of a price.
            NoSource: every one was dropped for where its source is.
            InvalidRequest: every offer that could be called was dropped for what the request asks of the model.
            NoSource: there is none that could be called, or they were dropped for several reasons; metadata names them.
        """
        if self.candidates:
            return
        # Sources that the operator has not set up say nothing about the request, unless there are no others.
        telling = [r for r in self.rejections if r.reason is not RejectionReason.NOT_CONFIGURED]
        details = "; ".join(sorted({rejection.detail for rejection in telling}))
        if telling and all(r.reason is RejectionReason.PRICE_UNKNOWN for r in telling):
            raise PriceUnknown(f"what this request would cost can't be held: {details}")
        if telling and all(r.reason in _REQUESTS_FAULT for r in telling):
            raise InvalidRequest(f"the model can't take this request: {details}", "model")
        if telling and all(r.reason is RejectionReason.REGION for r in telling):
            raise NoSource(f"the API key's region policy leaves no source of this model: {details}")
        reasons = {r.offer_id: f"{r.reason.name.lower()}: {r.detail}" for r in self.rejections[:_NAMED_REJECTIONS]}
        why = "; ".join(f"{offer_id}: {reason}" for offer_id, reason in list(reasons.items())[:3])
        raise NoSource("no source can take this request" + (f" ({why})" if why else ""), reasons)


class _Dropped(Exception):
    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def plan(
    request: ChatRequest,
    model_id: str,
    snapshot: CatalogSnapshot,
    *,
    formats: frozenset[WireFormat],
    has_secret: Callable[[str], bool],
    own_keys: OwnKeys = NO_KEYS,
    region: RegionPolicy = RegionPolicy.ANY,
) -> Plan:
    """Filter the model's offers, then order them: those with the organisation's own key first, then the cheapest worst
    case, equal ones by offer id. A source with an own key is called with that key and never with the operator's.

    ``formats``: those that an adapter exists for. ``has_secret``: whether the named environment variable holds a key.
    ``own_keys``: those of the organisation. ``region``: where the request may be answered.

    Raises:
        ModelNotFound: the model is not in the snapshot.
    """
    model = snapshot.models.get(model_id)
    if model is None:
        raise ModelNotFound(f"the model {model_id!r} is not in the catalog", {"param": "model"})
    candidates: list[Candidate] = []
    rejections: list[Rejection] = []
    for offer in snapshot.offers.get(model_id, ()):
        try:
            own_key = own_keys.get(offer.source_id)
            source = _reachable(snapshot.sources.get(offer.source_id), formats, has_secret, own_key)
            _require_region(source, region)
            candidates.append(_candidate(request, model, offer, source, own_key))
        except _Dropped as dropped:
            rejections.append(Rejection(offer.offer_id, dropped.reason, dropped.detail))
    candidates.sort(key=lambda each: (each.own_key is None, each.worst_case_nano_usd, each.offer.offer_id))
    allowed, others = _as_own_keys_allow(candidates)
    return Plan(tuple(allowed), (*rejections, *others), snapshot.revision)


def _as_own_keys_allow(candidates: list[Candidate]) -> tuple[list[Candidate], list[Rejection]]:
    """Without those at the operator's cost, where an own key that can serve the request does not allow them."""
    strict = [each.source.source_id for each in candidates if each.own_key is not None and not each.own_key.fallback]
    if not strict:
        return candidates, []
    detail = f"the organisation's key for {strict[0]} allows no source without a key of the organisation"
    return [each for each in candidates if each.own_key is not None], [
        Rejection(each.offer.offer_id, RejectionReason.OWN_KEY_ONLY, detail)
        for each in candidates
        if each.own_key is None
    ]


def _reachable(
    source: Source | None, formats: frozenset[WireFormat], has_secret: Callable[[str], bool], own_key: OwnKey | None
) -> Source:
    if source is None or not source.base_url:
        raise _Dropped(RejectionReason.NOT_CONFIGURED, "the source has no address")
    if source.wire_format not in formats:
        raise _Dropped(RejectionReason.WIRE_FORMAT, f"no adapter for {source.wire_format.name.lower()}")
    if own_key is None and source.api_key_env and not has_secret(source.api_key_env):
        raise _Dropped(RejectionReason.NOT_CONFIGURED, f"{source.api_key_env} is not set")
    return source


def _require_region(source: Source, region: RegionPolicy) -> None:
    if not region.admits(source.region):
        where = f"is in {source.region!r}" if source.region else "has no known region"
        raise _Dropped(RejectionReason.REGION, f"the source {source.source_id} {where}, which {region.value} excludes")


def _candidate(request: ChatRequest, model: Model, offer: Offer, source: Source, own_key: OwnKey | None) -> Candidate:
    price = offer.price if own_key is None else offer.byok_price
    if price is None:
        raise _Dropped(RejectionReason.PRICE_UNKNOWN, "the offer has no price")
    if request.unpriced:
        raise _Dropped(RejectionReason.PRICE_UNKNOWN, f"no price is known for {', '.join(request.unpriced)}")
    missing = [
        name
        for name in ("tools", "vision", "json_object", "json_schema")
        if getattr(request.needs, name) and not getattr(model.capabilities, name)
    ]
    if missing:
        raise _Dropped(RejectionReason.CAPABILITY, f"the model lacks {', '.join(missing)}")
    prompt_tokens, answer_tokens = _bounds(request, model, offer)
    answers_tokens = answer_tokens * request.choices
    worst = worst_case_nano_usd(price, prompt_tokens=prompt_tokens, answer_tokens=answers_tokens)
    return Candidate(
        offer,
        source,
        price,
        worst,
        prompt_tokens,
        answers_tokens,
        reasons_unseen=model.capabilities.reasoning,
        own_key=own_key,
    )


def _bounds(request: ChatRequest, model: Model, offer: Offer) -> tuple[int, int]:
    """The most prompt tokens, and the most answer tokens of one choice, at this offer."""
    context = _tighter(model.context_tokens, offer.context_tokens)
    longest_answer = _tighter(model.max_output_tokens, offer.max_output_tokens) or context
    asked = request.answer_bound_tokens
    if context:
        if asked is not None and min(asked, longest_answer) > context:
            raise _Dropped(RejectionReason.CONTEXT, f"an answer of {asked} tokens is beyond the context of {context}")
        # Bytes bound tokens from above, so only a body far larger than the context is worth a closer look.
        if len(request.body) > 10 * context and request.least_prompt_tokens() > context:
            raise _Dropped(RejectionReason.CONTEXT, f"the prompt does not fit the context of {context} tokens")
    prompt = _prompt_bound(request, offer)
    if context:
        prompt = context if prompt is None else min(prompt, context)
    answer = longest_answer if asked is None else asked  # not every source clamps what is asked to what it says
    if request.limits_otherwise:
        answer = context
    elif context:
        answer = min(answer, context)
    if prompt is None or not answer:
        raise _Dropped(RejectionReason.CONTEXT, "the limits of the model are unknown, so its cost has no bound")
    return prompt, answer


def _prompt_bound(request: ChatRequest, offer: Offer) -> int | None:
    """No tokenizer makes more of the prompt, its images among it; None where only the context bounds it."""
    bound = request.text_bound_tokens
    rule = image_rule_of(offer.model_id, offer.upstream_model)
    for image in request.images:
        most = most_image_tokens(image, rule)
        if bound is None or most is None:
            return None
        bound += most
    return bound


def _tighter(model_limit: int, offer_limit: int) -> int:
    known = [limit for limit in (model_limit, offer_limit) if limit > 0]
    return min(known, default=0)
