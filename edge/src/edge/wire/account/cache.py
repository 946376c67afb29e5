"""The JSON of cache policies, of purges and of what the cache did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from edge.wire.account.base import Answer, Body, ShownUsd
from edge.wire.cache_control import format_ppm
from meshkit.money import format_usd
from tallygate.cache.v1 import cache_pb2
from tallygate.ledger.v1 import account_pb2, ledger_pb2, usage_pb2

MAX_TTL_S = 30 * 24 * 3_600
_MILLION = 1_000_000


class CacheDefault(StrEnum):
    """What a request does with the cache that has no X-Tallygate-Cache."""

    ON = "on"
    OFF = "off"


class UpTo(StrEnum):
    """The last tier that may answer."""

    EXACT = "exact"
    CANONICAL = "canonical"
    SEMANTIC = "semantic"


CACHE_DEFAULTS: dict[CacheDefault | None, ledger_pb2.CacheDefault.ValueType] = {
    None: ledger_pb2.CACHE_DEFAULT_UNSPECIFIED,
    CacheDefault.ON: ledger_pb2.CACHE_DEFAULT_ON,
    CacheDefault.OFF: ledger_pb2.CACHE_DEFAULT_OFF,
}
CACHE_WORDS = {number: word for word, number in CACHE_DEFAULTS.items() if word}
_TIERS = {
    UpTo.EXACT: ledger_pb2.CACHE_TIER_EXACT,
    UpTo.CANONICAL: ledger_pb2.CACHE_TIER_CANONICAL,
    UpTo.SEMANTIC: ledger_pb2.CACHE_TIER_SEMANTIC,
}
_TIER_WORDS = {number: word for word, number in _TIERS.items()}
# JSON has no enumerations: a word is taken for what it says, although bodies are strict otherwise.
CacheWord = Annotated[CacheDefault, Field(strict=False)]
TierWord = Annotated[UpTo, Field(strict=False)]


def _no_number(value: object) -> object:
    if isinstance(value, int | float):
        # pydantic takes a ValueError for a finding, and nothing else
        raise ValueError('send the share as a string, such as "0.01"')  # noqa: TRY004
    return value


def _is_share(text: str) -> str:
    if not Decimal(text):
        raise ValueError('must be above 0; to allow no wrong replay set `up_to` to "canonical" or "exact"')
    return text


Share = Annotated[
    str,
    Field(
        max_length=8,
        pattern=r"^(0\.[0-9]{1,6}|1(\.0{1,6})?)$",
        description="Of the semantic tier: the share of its replays that may be wrong, above 0 and up to 1, as a "
        'decimal string with up to six places, such as "0.01".',
        examples=["0.01"],
    ),
    AfterValidator(_is_share),
    BeforeValidator(_no_number),
]
_INHERITED = " null: as whoever stands above has it: key, project, organisation, installation."


class CacheRules(Body):
    """What a cache policy is to say. What is left out stays as it is; null: whoever stands above decides."""

    default: CacheWord | None = Field(
        default=None, description="Whether requests without `X-Tallygate-Cache` use the cache." + _INHERITED
    )
    up_to: TierWord | None = Field(default=None, description="The last tier that may answer." + _INHERITED)
    max_error: Share | None = Field(default=None)
    ttl_s: Annotated[int, Field(ge=1, le=MAX_TTL_S)] | None = Field(
        default=None, description="How long answers are kept, and how old one may be that is replayed, in seconds."
    )
    allow_sampled: bool | None = Field(
        default=None, description="A replay is accepted for sampled requests (temperature unset or above 0) too."
    )

    def values(self) -> ledger_pb2.CachePolicy:
        """What it says, for the ledger."""
        policy = ledger_pb2.CachePolicy()
        for name in self.model_fields_set:
            value = getattr(self, name)
            if value is None:
                continue
            if name == "default":
                policy.default = CACHE_DEFAULTS[value]
            elif name == "up_to":
                policy.up_to = _TIERS[value]
            elif name == "max_error":
                policy.max_error_ppm = int(Decimal(value) * _MILLION)
            else:
                setattr(policy, name, value)
        return policy

    def change(self) -> account_pb2.CachePolicyChange:
        """What is to change, for the ledger."""
        change = account_pb2.CachePolicyChange(values=self.values())
        change.fields.paths.extend(sorted(_NAMES.get(name, name) for name in self.model_fields_set))
        return change


_NAMES = {"max_error": "max_error_ppm"}
FIELDS = tuple(_NAMES.get(name, name) for name in CacheRules.model_fields)
"""What a policy of a key may say, by the ledger's names."""


class CachePolicyChange(CacheRules):
    """What to change of the cache policy of a project or a key: at least one thing."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"send at least one of {', '.join(type(self).model_fields)}")
        return self


class OrganizationCachePolicyChange(CachePolicyChange):
    """What to change of the cache policy of an organisation."""

    share_in_org: bool | None = Field(
        default=None, description="Projects replay each other's answers; `user` still parts them. null: they don't."
    )
    record_requests: bool | None = Field(
        default=None,
        description="Requests are recorded, to measure what each tier would have saved. null: they aren't.",
    )

    @property
    def ends_recording(self) -> bool:
        """It turns recording off, whether or not it was on."""
        return "record_requests" in self.model_fields_set and not self.record_requests


class CacheValues(Answer):
    """What a cache policy says; null: nothing, so whoever stands above decides."""

    default: CacheDefault | None
    up_to: UpTo | None
    max_error: str | None = Field(description="A decimal string.")
    ttl_s: int | None = Field(description="Seconds.")
    allow_sampled: bool | None
    share_in_org: bool | None = Field(description="Of an organisation only.")
    record_requests: bool | None = Field(description="Of an organisation only.")

    @classmethod
    def of(cls, policy: ledger_pb2.CachePolicy) -> Self:
        """As the ledger has it."""
        return cls(**values_of(policy))


def values_of(policy: ledger_pb2.CachePolicy) -> dict[str, Any]:
    """By the names of ``CacheValues``."""
    plain = ("ttl_s", "allow_sampled", "share_in_org", "record_requests")
    return {
        "default": CACHE_WORDS.get(policy.default),
        "up_to": _TIER_WORDS.get(policy.up_to),
        "max_error": format_ppm(policy.max_error_ppm) if policy.HasField("max_error_ppm") else None,
        **{name: getattr(policy, name) if policy.HasField(name) else None for name in plain},  # type: ignore[arg-type]
    }


class CachePolicy(CacheValues):
    """How requests use the cache where they don't say."""

    object: Literal["cache_policy"] = "cache_policy"
    scope: Literal["key", "project", "organization"]
    scope_id: str
    in_force: CacheValues = Field(description="With what comes from above. `max_error`, `ttl_s` null: nobody set one.")

    @classmethod
    def placed(
        cls,
        scope: Literal["key", "project", "organization"],
        scope_id: str,
        found: account_pb2.GetCachePolicyResponse | account_pb2.UpdateCachePolicyResponse,
    ) -> CachePolicy:
        """Of one of them."""
        return cls(scope=scope, scope_id=scope_id, in_force=CacheValues.of(found.in_force), **values_of(found.policy))


class Purge(Body):
    """What to forget: one of these, or with none of them all answers of the organisation."""

    project_id: str | None = Field(default=None, min_length=1, max_length=200, description="Answers to this project.")
    model: str | None = Field(
        default=None, min_length=1, max_length=200, description="Answers of this model, or alias."
    )
    key_prefix: str | None = Field(
        default=None,
        pattern=r"^[0-9a-fA-F]{8,64}$",
        description="Answers whose `key`, as `Cache-Status` shows it, begins with these hex digits.",
        examples=["9f86d081884c7d65"],
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if sum(value is not None for value in (self.project_id, self.model, self.key_prefix)) > 1:
            raise ValueError("send one of project_id, model and key_prefix, or none of them for the whole organisation")
        return self


class Purged(Answer):
    """What was forgotten. It was there for no request that began after the answer."""

    object: Literal["cache_purge"] = "cache_purge"
    scope: Literal["organization", "project", "model", "key_prefix"]
    scope_id: str = Field(description="The organisation, project or model, or the key prefix.")
    forgotten: int | None = Field(description="Answers, of a key prefix; null: all that there were, uncounted.")


class CacheSums(Answer):
    """What the cache did for some requests, and what it holds."""

    requests: int = Field(description="Requests that were answered and charged, replays too.")
    replays: int = Field(description="Those of them that were answered from the cache.")
    replays_exact: int
    replays_canonical: int
    replays_semantic: int
    hit_rate: str | None = Field(description="`replays` of `requests`, a decimal string; null: there were none.")
    cost_usd: ShownUsd = Field(description="What was charged.")
    saved_usd: ShownUsd = Field(description="What replays saved against fresh calls.")
    entries: int | None = Field(description="Answers held now. null: the backend is away.")
    bytes: int | None = Field(description="Of these. null: the backend is away.")
    evictions: int | None = Field(
        description="Answers dropped to stay within the bound, since the cache began. null: the backend is away."
    )


class CacheGroup(CacheSums):
    """Of one `project` or `model`, whichever was asked for. `project` null: held for all projects that share."""

    model_config = ConfigDict(extra="allow")


class CacheStats(Answer):
    """What the cache did in a time. What it holds is as of now."""

    model_config = ConfigDict(serialize_by_alias=True)

    object: Literal["cache_stats"] = "cache_stats"
    from_: int = Field(alias="from", description="Unix time in seconds: from this on.")
    to: int = Field(description="Unix time in seconds: before this.")
    group_by: Literal["project", "model"] | None
    data: list[CacheGroup]
    total: CacheSums

    @classmethod
    def of(
        cls,
        group_by: Literal["project", "model"] | None,
        used: usage_pb2.QueryUsageResponse,
        held: cache_pb2.GetStatsResponse,
    ) -> CacheStats:
        """Of usage by served mode, and by what ``group_by`` says before it; and of what the cache holds."""
        groups: dict[str, _Sums] = {}
        total = _Sums()
        for group in used.groups:
            for sums in (total, groups.setdefault(group.values[0] if group_by else "", _Sums())):
                sums.add_use(group.values[-1], group.sums)
        for holding in held.groups:
            name = holding.project_id if group_by == "project" else holding.model
            for sums in (total, groups.setdefault(name, _Sums())):
                sums.add_holding(holding)
        known = held.holdings_known
        rows = [CacheGroup(**{str(group_by): name or None}, **groups[name].shown(known)) for name in _in_order(groups)]
        return cls(
            **{"from": used.from_ms // 1_000},
            to=used.to_ms // 1_000,
            group_by=group_by,
            data=rows if group_by else [],
            total=CacheSums(**total.shown(known)),
        )


class _Sums:
    def __init__(self) -> None:
        self._requests = dict.fromkeys(("fresh", "exact", "canonical", "semantic"), 0)
        self._charged_nano_usd = self._saved_nano_usd = 0
        self._held = dict.fromkeys(("entries", "bytes", "evictions"), 0)

    def add_use(self, served_mode: str, sums: usage_pb2.UsageSums) -> None:
        if served_mode in self._requests:  # of a request that failed there is none
            self._requests[served_mode] += sums.requests
        self._charged_nano_usd += sums.charged_nano_usd
        self._saved_nano_usd += sums.saved_nano_usd

    def add_holding(self, holding: cache_pb2.GroupStats) -> None:
        for name in self._held:
            self._held[name] += getattr(holding, name)

    def shown(self, holdings_known: bool) -> dict[str, Any]:
        requests = sum(self._requests.values())
        replays = requests - self._requests["fresh"]
        return {
            "requests": requests,
            "replays": replays,
            **{f"replays_{mode}": count for mode, count in self._requests.items() if mode != "fresh"},
            "hit_rate": _share_of(replays, requests) if requests else None,
            "cost_usd": format_usd(self._charged_nano_usd),
            "saved_usd": format_usd(self._saved_nano_usd),
            **(self._held if holdings_known else dict.fromkeys(self._held)),
        }


def _share_of(part: int, whole: int) -> str:
    return format((Decimal(part) / whole).quantize(Decimal("0.0001"), ROUND_HALF_UP), "f")


def _in_order(groups: Mapping[str, _Sums]) -> Iterable[str]:
    """By name; what has none last."""
    return sorted(groups, key=lambda name: (not name, name))
