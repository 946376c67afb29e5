"""Fails on a source file or a function that has grown past what one reader holds: look for the missing noun."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

FILE_LINES_MAX = 400  # most are under 300; the rest is room for a file with one idea and many small parts
FUNCTION_LINES_MAX = 60
GENERATED = ("protos/src/tallygate/",)


def python_files() -> list[Path]:
    """The Python files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    paths = {Path(line) for line in listed.stdout.splitlines() if not line.startswith(GENERATED)}
    return sorted(path for path in paths if path.exists())


def findings(path: Path) -> list[str]:
    """What is too long in one file."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    found = [f"{path}: {lines} lines, at most {FILE_LINES_MAX}"] if lines > FILE_LINES_MAX else []
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES_MAX}")
    return found


if __name__ == "__main__":
    too_long = [finding for path in python_files() for finding in findings(path)]
    sys.exit("\n".join(too_long) if too_long else 0)
