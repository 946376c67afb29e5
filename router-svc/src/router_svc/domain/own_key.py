"""A key that an organisation brought for a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshkit.secret import Secret


@dataclass(frozen=True, slots=True)
class OwnKey:
    """An organisation's own key at a source, "pk_...". ``fallback``: where that source fails, other sources may answer
    with the operator's key.
    """

    provider_key_id: str
    secret: Secret
    fallback: bool = True


OwnKeys = Mapping[str, OwnKey]
"""The keys of one organisation, by the id of their source."""
NO_KEYS: OwnKeys = {}
