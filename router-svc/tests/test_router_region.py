"""A request goes only to sources that are where its key's region policy wants them."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from router_rig import catalog_of

from meshkit.regions import RegionPolicy
from router_svc.domain.catalog import Source, WireFormat
from router_svc.domain.errors import NoSource
from router_svc.domain.plan import Plan, RejectionReason, plan
from router_svc.domain.request import read_chat_request

A = Source("a", "http://a/v1")
B = Source("b", "http://b/v1")
BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})


def planned(*sources: Source, region: RegionPolicy) -> Plan:
    return plan(
        read_chat_request(BODY),
        "m",
        catalog_of(*sources).value,
        formats=frozenset({WireFormat.OPENAI}),
        has_secret=lambda _: False,
        region=region,
    )


@pytest.mark.parametrize(
    ("region", "candidates"),
    [
        (RegionPolicy.ANY, ["a/m", "b/m", "c/m", "d/m"]),
        (RegionPolicy.CN_ONLY, ["a/m"]),
        (RegionPolicy.OVERSEAS_ONLY, ["b/m", "c/m"]),
    ],
)
def test_a_region_policy_keeps_the_sources_that_are_known_to_be_there(
    region: RegionPolicy, candidates: list[str]
) -> None:
    regions = {"a": "cn", "b": "us", "c": "sg", "d": ""}
    sources = [Source(name, f"http://{name}/v1", region=where) for name, where in regions.items()]
    made = planned(*sources, region=region)
    assert [candidate.offer.offer_id for candidate in made.candidates] == candidates
    assert {rejection.reason for rejection in made.rejections} <= {RejectionReason.REGION}


def test_where_a_region_policy_leaves_no_source_it_is_named() -> None:
    unset = replace(A, api_key_env="UNSET", region="cn")
    made = planned(unset, replace(B, region="eu"), region=RegionPolicy.CN_ONLY)
    with pytest.raises(NoSource, match=r"region policy leaves no source .*: the source b is in 'eu', .* cn-only"):
        made.require_candidate()
    made = planned(B, region=RegionPolicy.OVERSEAS_ONLY)
    with pytest.raises(NoSource, match="b has no known region"):
        made.require_candidate()
