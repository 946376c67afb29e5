"""The table of promises names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PLACES = {
    "L": "ledger-svc/tests/test_ledger_",
    "E": "edge/tests/test_edge_",
    "A": "tests/account/test_account_",
    "X": "tests/e2e/test_",
    "R": "router-svc/tests/test_router_",
}
_NAMED = re.compile(r"`(?:([LEAXR]) )?([\w/]+)::(test_\w+)`")


def test_every_test_that_the_table_names_is_there() -> None:
    table = (HERE / "README.md").read_text(encoding="utf-8")
    named = _NAMED.findall(table)
    assert len(named) > 60
    assert table.count("::") == len(named), "each in the form that is looked for"
    missing = []
    for place, file, test in named:
        source = (ROOT / f"{PLACES.get(place, '')}{file}.py").read_text(encoding="utf-8")
        if not re.search(rf"def {test}\(", source):
            missing.append(f"{place} {file}::{test}")
    assert missing == []
