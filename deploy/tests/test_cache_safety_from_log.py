"""`tallygate cache-safety --from-log`: a known story gives its exact figures, and what is no log is told."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshkit.money import format_usd
from tallygate_deploy.cache_safety.from_log import said
from tallygate_deploy.cli import app

T0_MS = 1_750_000_000_000
HOUR_MS = 3_600_000
KEY = "tg-an-account-key"


def answer(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    return {"object": "chat.completion", "model": "m-1", "choices": [choice], "usage": usage}


class Log:
    """An export, line by line."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def asked(self, text: str, said: str, **changes: Any) -> None:
        """A request of 1,000 nano-USD, a minute after the one before. ``cache``, ``body``: changes of theirs."""
        number = len(self.rows) + 1
        row: dict[str, Any] = {
            "object": "cache.recording",
            "asked_at_ms": T0_MS + number * 60_000,
            "project_id": "prj_1",
            "endpoint": "chat/completions",
            "model": "m",
            "policy_epoch": "p",
            "body": {"messages": [{"role": "user", "content": text}], "temperature": 0} | changes.pop("body", {}),
            "cache": {
                "mode": "default",
                "max_age_s": None,
                "allow_sampled": False,
                "up_to": "exact",
                "max_error_ppm": None,
                "ttl_s": 0,
                "share_in_org": False,
            }
            | changes.pop("cache", {}),
            "served_mode": "fresh",
            "why_not_stored": None,
            "usage": {
                **dict.fromkeys(("cached_input_tokens", "cache_write_tokens", "reasoning_tokens"), 0),
                **dict.fromkeys(("images", "seconds", "calls"), 0),
                "input_tokens": 9,
                "output_tokens": 3,
                "provenance": "provider",
            },
            "fresh_usd": format_usd(1_000),
            "replay_usd": format_usd(250),
            "answer": answer(said),
            "age_ms": 0,
            "receipt_id": f"rcpt_{number}",
            "origin_receipt_id": None,
            "source_id": "s",
        }
        self.rows.append(row | changes)

    def lines(self) -> bytes:
        body = b"".join(json.dumps(row).encode() + b"\n" for row in self.rows)
        summary = {"object": "export.summary", "rows": len(self.rows), "sha256": hashlib.sha256(body).hexdigest()}
        return body + json.dumps(summary).encode() + b"\n"

    def replayed(self, text: str, said: str, origin: str, **changes: Any) -> None:
        """A request that the gateway itself replayed."""
        self.asked(text, said, served_mode="exact", receipt_id=None, origin_receipt_id=origin, **changes)


@pytest.fixture
def log() -> Log:
    """Fifteen requests. The exact tier replays six, for 250 of 1,000 nano-USD each but one: its origin cost more."""
    log = Log()
    log.asked("capital of France?", "Paris.")  # 1
    log.asked("capital of France?", "Paris.")  # 2: replayed, agrees
    log.asked("name a colour", "red", body={"temperature": 1})  # 3: sampled, never kept
    log.asked("name a colour", "blue", body={"temperature": 1})  # 4: as well
    log.asked("tell me of France", "It is large.", fresh_usd=format_usd(4_000), replay_usd=format_usd(1_000))  # 5
    log.asked("tell me of France", "It is old.")  # 6: replayed for the 1,000 of line 5, differs
    log.asked("pick", "one", body={"temperature": 1}, cache={"allow_sampled": True})  # 7
    log.asked("pick", "two", body={"temperature": 1}, cache={"allow_sampled": True})  # 8: replayed, may differ
    log.replayed("capital of France?", "Paris.", "rcpt_1")  # 9: replayed, not judged
    log.asked("capital of France?", "Paris.", project_id="prj_2")  # 10: another project's
    log.asked("capital of France?", "Paris.", cache={"max_age_s": 30})  # 11: asks for a younger one, and is kept
    log.asked("capital of France?", "Lyon.", cache={"mode": "off"})  # 12: off by policy; replayed, differs
    log.asked("capital of France?", "Paris.", asked_at_ms=T0_MS + 60 * HOUR_MS)  # 13: what was kept is too old
    log.replayed("before the log", "yes", "rcpt_older")  # 14: its origin is not in the log
    log.asked("before the log", "yes")  # 15: replayed
    return log


def run(path: Path | None, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    named = ["--file", str(path)] if path else []
    result = CliRunner().invoke(app, ["cache-safety", "--from-log", *named, *arguments], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def written(tmp_path: Path, lines: bytes) -> Path:
    path = tmp_path / "recorded.jsonl"
    path.write_bytes(lines)
    return path


EXACT = {
    "tier": "exact",
    "requests": 15,
    "hits": 6,
    "hits_fresh_usd": "0.000006",
    "hits_replay_usd": "0.00000225",
    "saved_usd": "0.00000375",
    "judged": 4,
    "differ": 2,
    "differ_upper95": 0.932414,
    "sampled_judged": 1,
    "sampled_differ": 1,
}


def test_a_known_story_gives_its_figures(log: Log, tmp_path: Path) -> None:
    code, output = run(written(tmp_path, log.lines()), "--tier", "exact")
    assert code == 0, output
    *told, line = output.splitlines()
    assert json.loads(line) == EXACT
    text = "\n".join(told)
    assert "exact: rcpt_6: the exact tier would have given the answer of rcpt_5, which differs\n" in text
    assert "rcpt_8: the exact tier would have given the answer of rcpt_7, which differs, as a sampled" in text
    assert "rcpt_12: the exact tier would have given the answer of rcpt_11, which differs" in text
    assert "2 answers can't be replayed: sampled: `temperature` is not 0" in text
    assert "All requests together cost 0.000018 $ fresh." in text


def test_each_tier_lives_through_the_log_on_its_own(log: Log, tmp_path: Path) -> None:
    _, output = run(written(tmp_path, log.lines()))
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [line["tier"] for line in lines] == ["exact", "canonical", "semantic"]
    assert lines[0] == EXACT
    for upper in lines[1:]:
        assert upper["requests"] == 15
        assert upper["hits"] >= EXACT["hits"], "an upper tier asks the ones before it first"


def test_differences_are_listed_up_to_a_number(log: Log, tmp_path: Path) -> None:
    _, output = run(written(tmp_path, log.lines()), "--tier", "exact", "--show", "1")
    assert output.count("which differs") == 1
    assert "2 more differ" in output


def test_days_leave_out_what_is_older(log: Log, tmp_path: Path) -> None:
    code, output = run(written(tmp_path, log.lines()), "--days", "1")
    assert code == 2
    assert "no requests are recorded" in output


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda lines: lines[: lines.rindex(b"{")], "the export was cut off"),
        (lambda lines: lines.replace(b"Paris", b"Lyons", 1), "not those that were exported"),
        (lambda lines: lines + lines, "line 17: the export ended with the line before"),
        (lambda lines: b"{\n" + lines, "line 1: not JSON"),
        (lambda lines: b"[]\n" + lines, "line 1: not a JSON object"),
        (lambda lines: b'{"object":"request"}\n' + lines, "line 1: `object` is 'request', not 'cache.recording'"),
        (lambda lines: lines.replace(b'"project_id"', b'"project"', 1), "line 1: 'project_id' is missing"),
        (lambda lines: lines.replace(b'"mode": "default"', b'"mode": "on"', 1), "line 1: `mode` is 'on', not one of"),
        (lambda lines: lines.replace(b'"0.000001"', b"0.000001", 1), "line 1: `fresh_usd` is float, not str"),
        (lambda lines: lines.replace(b'"rcpt_1"', b"null", 1), "line 1: neither `receipt_id` nor"),
        (lambda lines: lines.replace(b'"chat/completions"', b'""', 1), "endpoint is missing"),
        (lambda _: b"", "the export was cut off"),
    ],
)
def test_what_is_no_log_is_told_with_its_line(log: Log, tmp_path: Path, spoil: Any, said: str) -> None:
    code, output = run(written(tmp_path, spoil(log.lines())), "--tier", "exact")
    assert (code, said in output) == (2, True), output
    assert not [line for line in output.splitlines() if line.startswith("{")], "no figures of what can't be trusted"


def test_a_tier_that_is_none_is_refused(log: Log, tmp_path: Path) -> None:
    code, output = run(written(tmp_path, log.lines()), "--tier", "fuzzy")
    assert (code, "--tier is 'fuzzy', not one of exact, canonical, semantic" in output) == (2, True)


class Gateway(BaseHTTPRequestHandler):
    """Answers as the route of the edge does."""

    export = b""
    asked: list[str] = []  # noqa: RUF012 - of the class: each request is another object

    def do_GET(self) -> None:
        self.asked.append(self.path)
        right = self.headers["authorization"] == f"Bearer {KEY}"
        body = self.export if right else b'{"error":{"message":"The API key is not known.","code":"invalid_api_key"}}'
        self.send_response(200 if right else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def gateway(log: Log) -> Iterator[str]:
    Gateway.export, Gateway.asked = log.lines(), []
    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_the_log_is_fetched_from_a_gateway(gateway: str) -> None:
    code, output = run(None, "--tier", "exact", "--base-url", gateway, "--account-key", KEY)
    assert code == 0, output
    assert json.loads(output.splitlines()[-1]) == EXACT
    in_environment = {"TALLYGATE_URL": gateway, "TALLYGATE_ACCOUNT_KEY": KEY}
    assert run(None, "--days", "7", "--tier", "exact", environment=in_environment)[0] == 2, "all of it is older"
    assert Gateway.asked == ["/v1/cache/recordings", "/v1/cache/recordings?days=7"]


def test_a_gateway_that_refuses_or_no_key_is_told(gateway: str) -> None:
    code, output = run(None, "--base-url", gateway, "--api-key", "tg-nobody")
    assert (code, "The API key is not known. (401 invalid_api_key)" in output) == (1, True)
    code, output = run(None, "--base-url", gateway, environment={"TALLYGATE_ACCOUNT_KEY": ""})
    assert (code, "TALLYGATE_ACCOUNT_KEY" in output) == (2, True)


def test_what_an_answer_says_is_its_text_and_calls_and_not_its_ids() -> None:
    def spoken(**message: Any) -> list[dict[str, Any]]:
        return said(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())

    def call(arguments: str, call_id: str = "call_1", name: str = "look_up") -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    assert spoken(content="a") != spoken(content="b")
    assert spoken(content=None, refusal="no") != spoken(content="no")
    assert spoken(content="a", reasoning="x") == spoken(content="a", reasoning="y")
    one = spoken(tool_calls=[call('{"a": 1, "b": 2}')])
    assert one == spoken(tool_calls=[call('{"b":2,"a":1}', "call_2")])
    assert one != spoken(tool_calls=[call('{"a": 1, "b": 3}')])
    assert one != spoken(tool_calls=[call('{"a": 1, "b": 2}', name="other")])
    assert spoken(tool_calls=[call("{")]) != spoken(tool_calls=[call("{ ")])
    assert one != spoken(tool_calls=[call('{"a": 1, "b": 2}'), call("{}")])
    assert said(b'{"choices":[{"message":{"content":"a"},"finish_reason":"length"}]}') != spoken(content="a")


def test_what_does_not_go_with_it_is_refused(log: Log, tmp_path: Path) -> None:
    code, output = run(written(tmp_path, log.lines()), "--report", str(tmp_path / "out.html"))
    assert (code, "--from-log goes with neither --against nor --report" in output) == (2, True)
