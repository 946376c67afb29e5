"""The story: two projects, four keys, caps that are hit, an alert, a rotation, a payment whose notice comes twice, and
exports that add up to the balance.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from decimal import Decimal

import httpx

from meshkit.money import format_usd, parse_usd
from tallygate_deploy.account_demo.receiver import Receiver
from tallygate_deploy.account_demo.stage import Client, Json, Stage

_ALERT_WITHIN_S = 20.0
_CAP_IN_FRESH_ANSWERS = 5
"""The cap of the key that runs into it. A replay costs a quarter, so that sixteen more come to exactly the cap."""


@dataclass(slots=True)
class Cast:
    """Who and what appears."""

    admin: Client
    projects: dict[str, str]
    keys: dict[str, Json]


async def tell(stage: Stage, admin: Client, receiver: Receiver) -> int:
    """The whole story; gives the difference in nano-USD between the export of all movements and the balance.

    Raises:
        NotShownError: a step did not show what it promises.
    """
    stage.say("[bold]Projects and keys[/]")
    cast = Cast(admin, await _projects(stage, admin), {})
    await _keys(stage, cast)
    stage.say("[bold]An alert, and a cap that is hit[/]")
    await _webhook(stage, cast, receiver)
    await _caps(stage, cast, receiver)
    stage.say("[bold]A rotation[/]")
    await _rotation(stage, cast)
    stage.say("[bold]A top-up whose notice comes twice[/]")
    await _topup(stage, cast)
    stage.say("[bold]Where the money went[/]")
    await _usage(stage, cast)
    await _audit(stage, cast)
    return await _reconciled(stage, cast)


async def _projects(stage: Stage, admin: Client) -> dict[str, str]:
    made = {
        name: (await admin.ask("POST", "/projects", json={"name": name}, expect=201))["id"] for name in ("web", "batch")
    }
    listed = await admin.ask("GET", "/projects")
    names = {project["name"] for project in listed["data"]}
    stage.show("two projects are made and listed", holds={"web", "batch"} <= names, seen=names)
    return made


async def _keys(stage: Stage, cast: Cast) -> None:
    wanted: list[Json] = [
        {"name": "web-prod", "project_id": cast.projects["web"]},
        {"name": "web-dev", "project_id": cast.projects["web"], "allowed_models": ["gpt-*"]},
        {"name": "nightly", "project_id": cast.projects["batch"]},
        {"name": "finance", "project_id": cast.projects["batch"], "scope": "account", "read_only": True},
    ]
    for body in wanted:
        cast.keys[body["name"]] = await cast.admin.ask("POST", "/keys", json=body, expect=201)
    shown = [await cast.admin.ask("GET", f"/keys/{key['id']}") for key in cast.keys.values()]
    stage.show(
        "four keys are made, and their secrets are shown once",
        holds=all("secret" in key for key in cast.keys.values()) and not any("secret" in key for key in shown),
    )
    dev = await stage.client(cast.keys["web-dev"]["secret"])
    _, refused = await dev.chat("Hello", expect=403)
    stage.show(
        "a key with a list of models may use no other",
        holds=refused["error"]["code"] == "model_not_allowed",
        seen=refused,
    )
    finance = await stage.client(cast.keys["finance"]["secret"])
    await finance.ask("GET", "/billing/balance")
    refused = await finance.ask("POST", "/projects", json={"name": "x"}, expect=403)
    stage.show("a key that only reads changes nothing", holds=refused["error"]["code"] == "permission_denied")


async def _webhook(stage: Stage, cast: Cast, receiver: Receiver) -> None:
    body = {"url": receiver.url, "events": ["*"]}
    made = await cast.admin.ask("POST", "/webhooks", json=body, expect=201)
    receiver.secret = made["secret"]
    await cast.admin.ask("POST", f"/webhooks/{made['id']}/test", expect=202)
    await receiver.until(1, "webhook.test", within_s=_ALERT_WITHIN_S)
    stage.show("a test call arrives, signed", holds=receiver.rejected == 0)
    refused = await cast.admin.ask("POST", "/webhooks", json={"url": "https://169.254.169.254/"}, expect=400)
    stage.show("an address inside the network is refused", holds=refused["error"]["param"] == "url", seen=refused)


async def _caps(stage: Stage, cast: Cast, receiver: Receiver) -> None:
    prod, question = await stage.client(cast.keys["web-prod"]["secret"]), "What is a tally stick?"
    headers, _ = await prod.chat(question, tags="team=search")
    fresh = parse_usd(headers["x-cost-usd"])
    cap = _CAP_IN_FRESH_ANSWERS * fresh
    path = f"/keys/{cast.keys['web-prod']['id']}/spend-cap"
    await cast.admin.ask("PATCH", path, json={"monthly_spend_cap_usd": format_usd(cap)})
    replays = 0
    while (answer := await _again(prod, question)).status_code == httpx.codes.OK:
        replays += 1
    error = answer.json()["error"]
    spent = parse_usd((await cast.admin.ask("GET", path))["monthly"]["spent_usd"])
    stage.show(
        f"a key with a cap of ${format_usd(cap)} gets one fresh answer and {replays} replays, and no more",
        holds=(answer.status_code, error["code"]) == (429, "monthly_cap_exceeded") and cap - fresh // 4 < spent <= cap,
        seen=(answer.status_code, error, spent),
    )
    alerts = await receiver.until(3, "cap.threshold_reached", within_s=_ALERT_WITHIN_S)
    thresholds = sorted(alert["data"]["threshold_percent"] for alert in alerts)
    stage.show("alerts at 50, 80 and 100% arrive once each", holds=thresholds == [50, 80, 100], seen=thresholds)
    await _project_cap(stage, cast)


async def _again(client: Client, question: str) -> httpx.Response:
    body = {"model": "local/smollm2-135m-instruct", "messages": [{"role": "user", "content": question}]}
    return await client.http.post("/chat/completions", json=body | {"temperature": 0, "max_tokens": 12})


async def _project_cap(stage: Stage, cast: Cast) -> None:
    nightly = await stage.client(cast.keys["nightly"]["secret"])
    await nightly.chat("Count to three.", tags="team=data")
    path = f"/projects/{cast.projects['batch']}/spend-cap"
    await cast.admin.ask("PATCH", path, json={"daily_spend_cap_usd": "0.000000001"})
    _, refused = await nightly.chat("Count to four.", expect=429)
    stage.show(
        "a project's cap stops its keys the same day",
        holds=refused["error"]["code"] == "daily_cap_exceeded",
        seen=refused,
    )
    await cast.admin.ask("PATCH", path, json={"clear": True})
    await nightly.chat("Count to four.")
    stage.show("and lets them go on when it is cleared", holds=True)


async def _rotation(stage: Stage, cast: Cast) -> None:
    key = cast.keys["nightly"]
    old = await stage.client(key["secret"])
    rotated = await cast.admin.ask("POST", f"/keys/{key['id']}/rotate", json={"overlap_s": 3_600})
    new = await stage.client(rotated["secret"])
    for client in (old, new):
        await client.chat("Count to four.")
    stage.show("both secrets of a rotated key work", holds=rotated["secret"] != key["secret"])
    await cast.admin.ask("POST", f"/keys/{key['id']}/rotate", json={"overlap_s": 0})
    for client in (old, new):
        await client.chat("Count to four.", expect=401)
    stage.show("without an overlap the former ones end at once", holds=True)


async def _topup(stage: Stage, cast: Cast) -> None:
    before = await cast.admin.ask("GET", "/billing/balance")
    body = {"amount_usd": "20.00", "idempotency_key": "topup-1"}
    payment = await cast.admin.ask("POST", "/billing/topup", json=body, expect=201)
    again = await cast.admin.ask("POST", "/billing/topup", json=body, expect=201)
    stage.show("a top-up sent twice is one payment", holds=payment["id"] == again["id"])
    for _ in range(2):
        paid = await cast.admin.http.post(_path_of(payment["checkout_url"]))
        stage.show("the payment is made", holds=paid.is_success, seen=paid.text[:300])
    after = await cast.admin.ask("GET", "/billing/balance")
    gained = parse_usd(after["balance_usd"]) - parse_usd(before["balance_usd"])
    stage.show("its notice came twice and counts once", holds=gained == parse_usd("20"), seen=gained)


def _path_of(checkout_url: str) -> str:
    """Of an address at the local payment provider, which is the gateway: it is asked where it is known to listen."""
    return checkout_url.partition("/v1")[2]


async def _usage(stage: Stage, cast: Cast) -> None:
    by_project = await cast.admin.ask("GET", "/usage", params={"days": 2, "group_by": "project"})
    total = by_project["total"]
    added = sum(parse_usd(row["cost_usd"]) for row in by_project["data"])
    stage.show("the spend of the projects adds up", holds=added == parse_usd(total["cost_usd"]) > 0, seen=by_project)
    by_tag = await cast.admin.ask("GET", "/usage", params={"days": 2, "group_by": "tag:team"})
    teams = {row["tag:team"] for row in by_tag["data"]}
    stage.show("it is there by tag too", holds={"search", "data"} <= teams, seen=teams)


async def _audit(stage: Stage, cast: Cast) -> None:
    seen: set[str] = set()
    cursor: str | None = ""
    while cursor is not None:
        page = await cast.admin.ask("GET", "/audit-log", params={"limit": 100, "cursor": cursor})
        seen |= {entry["action"] for entry in page["data"]}
        cursor = page["next_cursor"]
    wanted = {"project.created", "key.created", "key.rotated", "cap.set", "webhook.created", "credit.added"}
    stage.show("the audit log has what was changed", holds=wanted <= seen, seen=sorted(seen))


async def _reconciled(stage: Stage, cast: Cast) -> int:
    requests = await _export(cast.admin, "/exports/requests", "csv")
    body, _, last = requests.rstrip("\r\n").rpartition("\r\n")
    rows = list(csv.DictReader(io.StringIO(body + "\r\n")))
    digest = hashlib.sha256((body + "\r\n").encode()).hexdigest()
    stage.show(
        "the export of all requests has its checksum", holds=f"rows={len(rows)} sha256={digest}" in last, seen=last
    )
    movements = (await _export(cast.admin, "/exports/ledger", "jsonl")).splitlines()
    moved = sum(_nano(json.loads(line)["amount_usd"]) for line in movements[:-1])
    charged = sum(_nano(row["cost_usd"]) for row in rows if row["cost_usd"])
    balance = await cast.admin.ask("GET", "/billing/balance")
    difference = abs(moved - parse_usd(balance["balance_usd"]))
    charges = -sum(_nano(m["amount_usd"]) for m in map(json.loads, movements[:-1]) if m["kind"] == "charge")
    difference += abs(charges - charged)
    stage.show("both exports reconcile with the balance, to the nano-dollar", holds=difference == 0, seen=difference)
    return difference


async def _export(client: Client, path: str, form: str) -> str:
    answer = await client.http.get(path, params={"format": form})
    answer.raise_for_status()
    return answer.text


def _nano(usd: str) -> int:
    """Of an amount that may be below 0."""
    return int(Decimal(usd).scaleb(9))
