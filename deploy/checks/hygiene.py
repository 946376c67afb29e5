"""Fails on a lock file that says where packages were fetched from: an install must work from any index."""

from __future__ import annotations

import json
import sys
from pathlib import Path

REQUIREMENTS = sorted(Path("deploy/requirements").glob("*"))
NODE_LOCKS = sorted(path for path in Path("tests").glob("**/package-lock.json") if "node_modules" not in path.parts)


def findings() -> list[str]:
    """Where an address stands."""
    found = [
        f"{path}:{number}: an address in a lock file"
        for path in REQUIREMENTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "://" in line or line.lstrip().startswith(("--index", "--extra-index", "--find-links"))
    ]
    for path in NODE_LOCKS:
        packages = json.loads(path.read_text(encoding="utf-8"))["packages"]
        found += [f"{path}: {name} has 'resolved'" for name, entry in packages.items() if "resolved" in entry]
    return found


if __name__ == "__main__":
    addresses = findings()
    sys.exit("\n".join(addresses) if addresses else 0)
