"""`tallygate verify --request FILE --answer FILE`: the texts that a receipt is for, and every other one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from receipt_log import Log, receipt

from ledger_svc.domain.charges import ServedMode
from ledger_svc.domain.receipts import encode
from meshkit.answers import statement
from meshkit.digests import salted
from tallygate_deploy.checking import VerificationError, strict_json
from tallygate_deploy.contents import check_answer
from tallygate_deploy.key_trust import pinned_by_jwks
from tallygate_deploy.verify import Evidence, verify

REQUEST = b'{"model": "gpt-x", "messages": [{"role": "user", "content": "Say it."}]}\n'
TEXT = 'It’s 1/3 of a\u2028line, she said: "data: x".'
LOGPROBS = {"content": [{"token": "It", "logprob": -1.5e-7, "bytes": [73, 116], "top_logprobs": []}]}


def body(**change: Any) -> bytes:
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": LOGPROBS, "finish_reason": "stop"}
    envelope = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-x-2026"}
    return orjson.dumps(
        {**envelope, "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3}, **change}
    )


def events(*, completion_id: str = "gen_1", end: bytes = b"data: [DONE]\n\n", separator: bytes = b"\n") -> bytes:
    def chunk(delta: dict[str, Any], **choice: Any) -> dict[str, Any]:
        whole = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **choice}
        return {"id": completion_id, "object": "chat.completion.chunk", "model": "gpt-x-2026", "choices": [whole]}

    chunks = [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": TEXT[:5]}, logprobs=LOGPROBS),
        chunk({"content": TEXT[5:]}),
        chunk({}, finish_reason="stop"),
        {"id": completion_id, "choices": [], "usage": {}, "tallygate": {"receipt_id": "rcpt_1", "cost_usd": "1"}},
    ]
    framed = b": a comment\n\n" + b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + end
    return framed.replace(b"\n", separator)


def log_of(mode: ServedMode = ServedMode.FRESH, *, answer: bytes = body()) -> Log:
    made = receipt(1, mode)
    facts = replace(
        made.facts,
        request_digest=salted(REQUEST, bytes(range(16))),
        answer_digest=salted(statement.of_body(answer), bytes(16)),
    )
    return Log([encode(receipt(0)), encode(replace(made, facts=facts))])


@pytest.fixture
def check(run: Callable[..., tuple[int, str]], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs the command with a request and an answer from files."""

    def check(bundle: object, *, request: bytes | None = None, answer: bytes | None = None) -> tuple[int, str]:
        options: list[str] = []
        for name, text in (("request", request), ("answer", answer)):
            if text is not None:
                (tmp_path / name).write_bytes(text)
                options += [f"--{name}", str(tmp_path / name)]
        return run(bundle, *options)

    return check


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        (body(), "this body"),
        (body(id="gen_9", created=99, usage=None, tallygate={}), "this body"),
        (orjson.dumps(orjson.loads(body()), option=orjson.OPT_INDENT_2), "this body"),
        (events(), "this stream of 5 events"),
        (events(end=b""), "this stream of 5 events"),
        (events(separator=b"\r\n"), "this stream of 5 events"),
    ],
)
def test_the_request_and_the_answer_in_any_form_fit(
    check: Callable[..., tuple[int, str]], answer: bytes, form: str
) -> None:
    code, output = check(log_of().bundle(1, 2), request=REQUEST, answer=answer)
    assert code == 0, output
    assert f"ok       request: these {len(REQUEST)} bytes are the request's body as it was sent" in output
    assert (
        f"ok       answer: the choices and model of {form} are those of the receipt's answer (not covered: id" in output
    )


def test_a_replay_names_its_origin_and_its_answer_fits_both_receipts(check: Callable[..., tuple[int, str]]) -> None:
    code, output = check(log_of(ServedMode.EXACT).bundle(1, 2), answer=events(completion_id="gen_7"))
    assert code == 0, output
    assert "ok       origin: a replay of the answer of rcpt_0" in output
    assert check(log_of(ServedMode.FRESH).bundle(1, 2), answer=events(completion_id="gen_7"))[0] == 0


def test_any_changed_byte_of_the_request_is_found(jwks: Path) -> None:
    bundle, trust = log_of().bundle(1, 2), pinned_by_jwks(jwks)
    for at in range(len(REQUEST)):
        changed = REQUEST[:at] + bytes([REQUEST[at] ^ 1]) + REQUEST[at + 1 :]
        with pytest.raises(VerificationError, match="not the request's body"):
            list(verify(Evidence(bundle, trust, request=changed)))


@pytest.mark.parametrize("answer", [body(), events()], ids=["body", "stream"])
def test_any_changed_byte_of_what_was_said_is_found(answer: bytes) -> None:
    """What passes changed nothing but what the command says is not covered."""
    digest = salted(statement.of_body(body()), bytes(16))
    passed = []
    for at in range(len(answer)):
        changed = answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :]
        try:
            check_answer(digest, changed, strict_json)
        except (ValueError, LookupError, TypeError):
            continue
        passed.append(at)
    covered = answer.find(b'"choices"'), answer.find(b'"usage"')
    said = set(range(*covered)) if answer.startswith(b"{") else _said_in_stream(answer)
    assert passed, "the id, for one"
    assert not said & set(passed)


def _said_in_stream(answer: bytes) -> set[int]:
    """The places of all deltas' names and texts."""
    places: set[int] = set()
    for piece in (b'"role":"assistant"', orjson.dumps(TEXT[5:]), b'"finish_reason":"stop"', b'"logprob":-1.5e-7'):
        at = answer.index(piece)
        places |= set(range(at, at + len(piece)))
    return places


@pytest.mark.parametrize(
    ("texts", "failed"),
    [
        ({"request": REQUEST.strip()}, "request"),
        ({"request": b""}, "request"),
        ({"answer": body(model="gpt-y")}, "answer"),
        ({"answer": body(citations=["https://example.com"])}, "answer"),
        ({"answer": body()[:-1]}, "answer"),
        ({"answer": body().replace(b'"model"', b'"model":"gpt-x-2026","model"')}, "answer"),
        ({"answer": events().replace(b'"finish_reason":"stop"', b'"finish_reason":"length"')}, "answer"),
        ({"answer": b"\n\n".join(events().split(b"\n\n")[:3])}, "answer"),
        ({"answer": b"<html>"}, "answer"),
        ({"answer": b""}, "answer"),
        ({"answer": b"\xff"}, "answer"),
        ({"answer": b"[" * 100_000}, "answer"),
        ({"answer": b'data: {"choices": 5}'}, "answer"),
        ({"answer": b"data: 5"}, "answer"),
        ({"answer": b'{"choices": [{"index": 9007199254740993}]}'}, "answer"),
    ],
)
def test_other_texts_do_not_fit(check: Callable[..., tuple[int, str]], texts: dict[str, bytes], failed: str) -> None:
    code, output = check(log_of().bundle(1, 2), **texts)
    assert code == 1, output
    assert output.splitlines()[-1].startswith(f"FAILED   {failed}: "), output


def test_a_stream_that_broke_off_fits_without_its_error(check: Callable[..., tuple[int, str]]) -> None:
    whole = events(end=b"").split(b"\n\n")
    part = b"\n\n".join(whole[:3]) + b"\n\n"
    digest = salted(statement.of_stream([event.removeprefix(b"data: ") for event in whole[1:3]]), bytes(16))
    made = receipt(1)
    log = Log([encode(receipt(0)), encode(replace(made, facts=replace(made.facts, answer_digest=digest)))])
    end = b'event: error\ndata: {"error":{"message":"openai broke off","code":"upstream_error"}}\n\n'
    assert check(log.bundle(1, 2), answer=part + end)[0] == 0
    assert check(log.bundle(1, 2), answer=events())[0] == 1


def test_a_receipt_without_digests_proves_no_text(check: Callable[..., tuple[int, str]]) -> None:
    made = receipt(1)
    bare = Log([encode(receipt(0)), encode(replace(made, facts=replace(made.facts, request_digest="")))])
    for texts in ({"request": REQUEST}, {"answer": body()}):
        code, output = check(bare.bundle(1, 2), **texts)
        assert code == 1
        assert "the receipt has no digest" in output.splitlines()[-1]
