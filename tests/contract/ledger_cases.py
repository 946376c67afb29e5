"""Cases of the ledger."""

from __future__ import annotations

from ledger_svc.domain.checkpoints import verify_checkpoint
from ledger_svc.domain.merkle import leaf_hash, verify_consistency, verify_inclusion
from ledger_svc.domain.signing import PublicKeys, base64url, load_public_key, verify_jws
from tallygate.common.v1.errors_pb2 import ErrorReason
from tallygate.ledger.v1 import ledger_pb2
from tests.contract.cases import (
    FRESH_NANO_USD,
    MODEL,
    NANO,
    REPLAY_NANO_USD,
    TIMEOUT_S,
    covers,
    facts,
    hold,
    new_key,
    refused,
)
from tests.contract.world import World


@covers("LedgerService/CreateOrganization")
async def create_organization(world: World) -> None:
    made = await world.ledger.CreateOrganization(
        ledger_pb2.CreateOrganizationRequest(name="another"), timeout=TIMEOUT_S
    )
    balance = await world.ledger.GetBalance(ledger_pb2.GetBalanceRequest(org_id=made.org_id), timeout=TIMEOUT_S)
    assert made.org_id.startswith("org_")
    assert (balance.balance.posted_nano_usd, balance.balance.held_nano_usd) == (0, 0)
    empty = world.ledger.CreateOrganization(ledger_pb2.CreateOrganizationRequest(), timeout=TIMEOUT_S)
    await refused(empty, ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("LedgerService/CreateProject")
async def create_project(world: World) -> None:
    request = ledger_pb2.CreateProjectRequest(org_id=world.org_id, name=world.request_id())
    made = await world.ledger.CreateProject(request, timeout=TIMEOUT_S)
    assert made.project_id.startswith("prj_")
    orphan = ledger_pb2.CreateProjectRequest(org_id="org_missing", name="orphan")
    await refused(world.ledger.CreateProject(orphan, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("LedgerService/CreateKey")
async def create_key(world: World) -> None:
    made = await new_key(world)
    assert made.secret.startswith("tg-")
    assert made.secret.startswith(made.key.prefix)
    assert len(made.secret) == len("tg-") + 37 + 6


@covers("LedgerService/ListKeys")
async def list_keys(world: World) -> None:
    made = await new_key(world)
    listed = await world.ledger.ListKeys(ledger_pb2.ListKeysRequest(org_id=world.org_id), timeout=TIMEOUT_S)
    assert listed.keys[0].key_id == made.key.key_id
    assert made.secret.encode() not in listed.SerializeToString()


@covers("LedgerService/RevokeKey")
async def revoke_key(world: World) -> None:
    made = await new_key(world)
    request = ledger_pb2.RevokeKeyRequest(key_id=made.key.key_id, org_id=world.org_id)
    ended = await world.ledger.RevokeKey(request, timeout=TIMEOUT_S)
    again = await world.ledger.RevokeKey(request, timeout=TIMEOUT_S)
    assert ended.key.revoked_at_ms == again.key.revoked_at_ms > 0
    secret = ledger_pb2.AuthenticateRequest(secret=made.secret)
    await refused(world.ledger.Authenticate(secret, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_API_KEY_REVOKED)


@covers("LedgerService/Authenticate")
async def authenticate(world: World) -> None:
    made = await new_key(world)
    known = await world.ledger.Authenticate(ledger_pb2.AuthenticateRequest(secret=made.secret), timeout=TIMEOUT_S)
    assert (known.principal.org_id, known.principal.key_id) == (world.org_id, made.key.key_id)
    assert 0 < known.valid_for_ms <= 5_000
    unknown = ledger_pb2.AuthenticateRequest(secret="tg-" + "a" * 43)
    await refused(world.ledger.Authenticate(unknown, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_API_KEY)


@covers("LedgerService/WatchRevocations")
async def watch_revocations(world: World) -> None:
    made = await new_key(world)
    watch = world.ledger.WatchRevocations(ledger_pb2.WatchRevocationsRequest(), timeout=TIMEOUT_S)
    told = aiter(watch)
    assert (await anext(told)).key_id == ""
    await world.ledger.RevokeKey(ledger_pb2.RevokeKeyRequest(key_id=made.key.key_id), timeout=TIMEOUT_S)
    while (await anext(told)).key_id != made.key.key_id:
        pass
    watch.cancel()


@covers("LedgerService/AddCredit")
async def add_credit(world: World) -> None:
    request = ledger_pb2.AddCreditRequest(
        org_id=world.org_id,
        amount_nano_usd=5 * NANO,
        idempotency_key=world.request_id(),
        kind=ledger_pb2.CREDIT_KIND_PAID,
    )
    once = await world.ledger.AddCredit(request, timeout=TIMEOUT_S)
    twice = await world.ledger.AddCredit(request, timeout=TIMEOUT_S)
    assert once.balance.posted_nano_usd == twice.balance.posted_nano_usd
    request.amount_nano_usd = 6 * NANO
    await refused(world.ledger.AddCredit(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_IDEMPOTENCY_CONFLICT)


@covers("LedgerService/GetBalance")
async def get_balance(world: World) -> None:
    request = ledger_pb2.GetBalanceRequest(org_id=world.org_id)
    before = (await world.ledger.GetBalance(request, timeout=TIMEOUT_S)).balance
    held = hold(world)
    await world.ledger.Reserve(held, timeout=TIMEOUT_S)
    after = (await world.ledger.GetBalance(request, timeout=TIMEOUT_S)).balance
    assert after.held_nano_usd == before.held_nano_usd + held.amount_nano_usd
    assert after.available_nano_usd == after.posted_nano_usd - after.held_nano_usd
    release = ledger_pb2.ReleaseRequest(org_id=world.org_id, request_id=held.request_id)
    await world.ledger.Release(release, timeout=TIMEOUT_S)
    missing = ledger_pb2.GetBalanceRequest(org_id="org_missing")
    await refused(world.ledger.GetBalance(missing, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("LedgerService/Reserve")
async def reserve(world: World) -> None:
    request = hold(world)
    made = await world.ledger.Reserve(request, timeout=TIMEOUT_S)
    again = await world.ledger.Reserve(request, timeout=TIMEOUT_S)
    assert (made.hold_id, made.amount_nano_usd) == (again.hold_id, request.amount_nano_usd)
    too_much = await refused(
        world.ledger.Reserve(hold(world, 10_000 * NANO), timeout=TIMEOUT_S),
        ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE,
    )
    assert {"available_usd", "needed_usd"} <= too_much.metadata.keys()
    release = ledger_pb2.ReleaseRequest(org_id=world.org_id, request_id=request.request_id)
    await world.ledger.Release(release, timeout=TIMEOUT_S)
    closed = await refused(world.ledger.Reserve(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_HOLD_CLOSED)
    assert closed.metadata["state"] == "released"


@covers("LedgerService/ExtendHold")
async def extend_hold(world: World) -> None:
    held = hold(world)
    made = await world.ledger.Reserve(held, timeout=TIMEOUT_S)
    request = ledger_pb2.ExtendHoldRequest(org_id=world.org_id, request_id=held.request_id, ttl_ms=held.ttl_ms * 2)
    longer = await world.ledger.ExtendHold(request, timeout=TIMEOUT_S)
    assert longer.expires_at_ms > made.expires_at_ms
    release = ledger_pb2.ReleaseRequest(org_id=world.org_id, request_id=held.request_id)
    await world.ledger.Release(release, timeout=TIMEOUT_S)
    await refused(world.ledger.ExtendHold(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_HOLD_CLOSED)


@covers("LedgerService/SetCap")
@covers("LedgerService/ListCaps")
async def caps(world: World) -> None:
    key = (await new_key(world)).key
    request = ledger_pb2.SetCapRequest(
        org_id=world.org_id,
        scope=ledger_pb2.CAP_SCOPE_KEY,
        scope_id=key.key_id,
        period=ledger_pb2.CAP_PERIOD_DAY,
        unit=ledger_pb2.CAP_UNIT_NANO_USD,
        limit=100,
    )
    made = await world.ledger.SetCap(request, timeout=TIMEOUT_S)
    assert (made.cap.limit, made.cap.spent, made.cap.held) == (100, 0, 0)
    list_request = ledger_pb2.ListCapsRequest(org_id=world.org_id)
    listed = await world.ledger.ListCaps(list_request, timeout=TIMEOUT_S)
    assert list(listed.caps) == [made.cap]
    too_much = hold(world, 101)
    too_much.principal.key_id = key.key_id
    over = await refused(world.ledger.Reserve(too_much, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_BUDGET_EXCEEDED)
    assert (over.metadata["scope"], over.metadata["scope_id"], over.metadata["period"]) == ("key", key.key_id, "day")
    request.ClearField("limit")
    assert not (await world.ledger.SetCap(request, timeout=TIMEOUT_S)).HasField("cap")
    assert not (await world.ledger.ListCaps(list_request, timeout=TIMEOUT_S)).caps
    request.scope_id = "key_missing"
    await refused(world.ledger.SetCap(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("LedgerService/SetCaps")
async def caps_together(world: World) -> None:
    key = (await new_key(world)).key
    day, month = ledger_pb2.CAP_PERIOD_DAY, ledger_pb2.CAP_PERIOD_MONTH
    request = ledger_pb2.SetCapsRequest(
        org_id=world.org_id,
        scope=ledger_pb2.CAP_SCOPE_KEY,
        scope_id=key.key_id,
        limits=[
            ledger_pb2.CapLimit(period=month, unit=ledger_pb2.CAP_UNIT_NANO_USD, limit=100),
            ledger_pb2.CapLimit(period=day, unit=ledger_pb2.CAP_UNIT_TOKENS, limit=7),
        ],
    )
    made = await world.ledger.SetCaps(request, timeout=TIMEOUT_S)
    assert [(cap.period, cap.limit) for cap in made.caps] == [(month, 100), (day, 7)]
    request.limits[0].ClearField("limit")
    request.limits[1].limit = 8
    cleared = await world.ledger.SetCaps(request, timeout=TIMEOUT_S)
    assert [(cap.period, cap.limit) for cap in cleared.caps] == [(day, 8)]
    request.limits[0].CopyFrom(request.limits[1])
    await refused(world.ledger.SetCaps(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)
    del request.limits[:]
    await refused(world.ledger.SetCaps(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)
    request.limits.add(period=day, unit=ledger_pb2.CAP_UNIT_TOKENS)
    request.scope_id = "key_missing"
    await refused(world.ledger.SetCaps(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("LedgerService/RefundCredit")
@covers("LedgerService/CorrectCharge")
@covers("LedgerService/ListCreditLots")
async def give_back(world: World) -> None:
    before = await world.ledger.GetBalance(ledger_pb2.GetBalanceRequest(org_id=world.org_id), timeout=TIMEOUT_S)
    refund = ledger_pb2.RefundCreditRequest(
        org_id=world.org_id, amount_nano_usd=7, reason="case", idempotency_key=world.request_id()
    )
    for _ in range(2):
        after = await world.ledger.RefundCredit(refund, timeout=TIMEOUT_S)
        assert after.balance.posted_nano_usd == before.balance.posted_nano_usd - 7
    receipt = await settled(world)
    correction = ledger_pb2.CorrectChargeRequest(
        org_id=world.org_id,
        receipt_id=receipt.receipt_id,
        amount_nano_usd=receipt.charged_nano_usd,
        idempotency_key=world.request_id(),
    )
    given = await world.ledger.CorrectCharge(correction, timeout=TIMEOUT_S)
    assert given.paid_nano_usd + given.promotional_nano_usd == receipt.charged_nano_usd
    found = await world.ledger.GetReceipt(
        ledger_pb2.GetReceiptRequest(org_id=world.org_id, receipt_id=receipt.receipt_id), timeout=TIMEOUT_S
    )
    assert found.corrected_nano_usd == receipt.charged_nano_usd
    correction.idempotency_key = world.request_id()
    await refused(world.ledger.CorrectCharge(correction, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_INVALID_REQUEST)
    lots = await world.ledger.ListCreditLots(ledger_pb2.ListCreditLotsRequest(org_id=world.org_id), timeout=TIMEOUT_S)
    assert sum(lot.remaining_nano_usd for lot in lots.lots) == given.balance.posted_nano_usd


async def settled(world: World) -> ledger_pb2.Receipt:
    request = hold(world)
    await world.ledger.Reserve(request, timeout=TIMEOUT_S)
    attempt = ledger_pb2.Attempt(
        offer_id=f"scripted/{MODEL}", started_at_ms=1, duration_ms=2, http_status=200, won=True
    )
    settle = ledger_pb2.SettleRequest(
        org_id=world.org_id, request_id=request.request_id, facts=facts(), attempts=[attempt]
    )
    receipt = (await world.ledger.Settle(settle, timeout=TIMEOUT_S)).receipt
    assert (await world.ledger.Settle(settle, timeout=TIMEOUT_S)).receipt == receipt
    return receipt


@covers("LedgerService/Settle")
async def settle(world: World) -> None:
    receipt = await settled(world)
    assert receipt.charged_nano_usd == FRESH_NANO_USD
    assert receipt.held_nano_usd == 1_000_000
    assert [attempt.won for attempt in receipt.attempts] == [True]
    nothing_held = ledger_pb2.SettleRequest(org_id=world.org_id, request_id="req_missing", facts=facts())
    await refused(world.ledger.Settle(nothing_held, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("LedgerService/Release")
async def release(world: World) -> None:
    held = hold(world)
    await world.ledger.Reserve(held, timeout=TIMEOUT_S)
    request = ledger_pb2.ReleaseRequest(org_id=world.org_id, request_id=held.request_id, reason="case")
    given_back = await world.ledger.Release(request, timeout=TIMEOUT_S)
    assert given_back.released_nano_usd == held.amount_nano_usd
    too_late = ledger_pb2.SettleRequest(org_id=world.org_id, request_id=held.request_id, facts=facts())
    await refused(world.ledger.Settle(too_late, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_HOLD_CLOSED)


@covers("LedgerService/Charge")
async def charge(world: World) -> None:
    request = ledger_pb2.ChargeRequest(
        principal=world.principal, request_id=world.request_id(), facts=facts(ledger_pb2.SERVED_MODE_EXACT)
    )
    once = await world.ledger.Charge(request, timeout=TIMEOUT_S)
    twice = await world.ledger.Charge(request, timeout=TIMEOUT_S)
    assert once == twice
    assert once.receipt.charged_nano_usd == REPLAY_NANO_USD
    assert once.receipt.saved_nano_usd == FRESH_NANO_USD - REPLAY_NANO_USD


@covers("LedgerService/GetReceipt")
async def get_receipt(world: World) -> None:
    receipt = await settled(world)
    request = ledger_pb2.GetReceiptRequest(org_id=world.org_id, receipt_id=receipt.receipt_id)
    found = await world.ledger.GetReceipt(request, timeout=TIMEOUT_S)
    assert found.receipt == receipt
    assert verify_jws(found.jws, await public_keys(world))
    foreign = ledger_pb2.GetReceiptRequest(org_id="org_other", receipt_id=receipt.receipt_id)
    await refused(world.ledger.GetReceipt(foreign, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("LedgerService/ListReceipts")
async def list_receipts(world: World) -> None:
    older, newer = await settled(world), await settled(world)
    first = await world.ledger.ListReceipts(
        ledger_pb2.ListReceiptsRequest(org_id=world.org_id, page_size=1), timeout=TIMEOUT_S
    )
    request = ledger_pb2.ListReceiptsRequest(org_id=world.org_id, page_size=1, page_token=first.next_page_token)
    second = await world.ledger.ListReceipts(request, timeout=TIMEOUT_S)
    assert [*first.receipts, *second.receipts] == [newer, older]


async def public_keys(world: World) -> PublicKeys:
    listed = await world.ledger.ListSigningKeys(ledger_pb2.ListSigningKeysRequest(), timeout=TIMEOUT_S)
    return {key.kid: load_public_key(base64url(key.public_key)) for key in listed.keys}


@covers("LedgerService/GetInclusionProof")
async def get_inclusion_proof(world: World) -> None:
    receipt, keys = await settled(world), await public_keys(world)
    request = ledger_pb2.GetInclusionProofRequest(org_id=world.org_id, receipt_id=receipt.receipt_id)
    found = await world.ledger.GetInclusionProof(request, timeout=TIMEOUT_S)
    verify_jws(found.jws, keys)
    _, said = verify_checkpoint(found.checkpoint, keys)
    assert said.size == found.tree_size
    leaf = leaf_hash(found.jws.encode())
    assert verify_inclusion(leaf, found.leaf_index, said.size, found.hashes, said.root_hash)
    request.org_id = "org_other"
    await refused(world.ledger.GetInclusionProof(request, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("LedgerService/GetCheckpoint")
async def get_checkpoint(world: World) -> None:
    found = await world.ledger.GetCheckpoint(ledger_pb2.GetCheckpointRequest(), timeout=TIMEOUT_S)
    _, said = verify_checkpoint(found.checkpoint, await public_keys(world))
    assert (said.size, said.root_hash) == (found.tree_size, found.root_hash)
    missing = ledger_pb2.GetCheckpointRequest(tree_size=10**9)
    await refused(world.ledger.GetCheckpoint(missing, timeout=TIMEOUT_S), ErrorReason.ERROR_REASON_NOT_FOUND)


@covers("LedgerService/GetConsistencyProof")
async def get_consistency_proof(world: World) -> None:
    states = []
    for _ in range(2):
        receipt = await settled(world)
        request = ledger_pb2.GetInclusionProofRequest(receipt_id=receipt.receipt_id)
        found = await world.ledger.GetInclusionProof(request, timeout=TIMEOUT_S)
        at = ledger_pb2.GetCheckpointRequest(tree_size=found.tree_size)
        states.append(await world.ledger.GetCheckpoint(at, timeout=TIMEOUT_S))
    old, new = states
    between = ledger_pb2.GetConsistencyProofRequest(first_size=old.tree_size, second_size=new.tree_size)
    proof = await world.ledger.GetConsistencyProof(between, timeout=TIMEOUT_S)
    assert old.tree_size < new.tree_size
    assert verify_consistency(old.tree_size, new.tree_size, old.root_hash, new.root_hash, proof.hashes)
    backwards = ledger_pb2.GetConsistencyProofRequest(first_size=new.tree_size, second_size=old.tree_size)
    refusal = world.ledger.GetConsistencyProof(backwards, timeout=TIMEOUT_S)
    await refused(refusal, ErrorReason.ERROR_REASON_INVALID_REQUEST)


@covers("LedgerService/ListSigningKeys")
async def list_signing_keys(world: World) -> None:
    listed = await world.ledger.ListSigningKeys(ledger_pb2.ListSigningKeysRequest(), timeout=TIMEOUT_S)
    assert [(key.kid, key.current, len(key.public_key)) for key in listed.keys] == [("contract", True, 32)]
    newest = await world.ledger.GetCheckpoint(ledger_pb2.GetCheckpointRequest(), timeout=TIMEOUT_S)
    assert newest.checkpoint.startswith(f"{listed.log_origin}\n")
