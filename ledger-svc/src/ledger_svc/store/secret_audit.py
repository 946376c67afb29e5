"""What must always hold of stored secrets, as far as it can be seen without the keys that open them."""

from __future__ import annotations

from sqlalchemy import Select, and_, func, literal, or_, select

from ledger_svc.domain.envelope import VERSION
from ledger_svc.store.tables import DATA_KEY, PROVIDER_KEY

SEALED = "a provider key in force is sealed under its organisation's data key, and a revoked one is erased"


def _wrongly_sealed() -> Select[tuple[str, str]]:
    beginning = literal(f"{VERSION}:") + DATA_KEY.c.data_key_id + literal(":")
    under_it = func.substr(PROVIDER_KEY.c.sealed, 1, func.length(beginning)) == beginning
    in_force = PROVIDER_KEY.c.revoked_at_ms == 0
    return (
        select(PROVIDER_KEY.c.provider_key_id, PROVIDER_KEY.c.org_id)
        .outerjoin(DATA_KEY, DATA_KEY.c.org_id == PROVIDER_KEY.c.org_id)
        .where(
            or_(
                and_(in_force, or_(DATA_KEY.c.data_key_id.is_(None), ~under_it)),
                and_(~in_force, PROVIDER_KEY.c.sealed != ""),
            )
        )
        .order_by(PROVIDER_KEY.c.provider_key_id)
    )


SECRET_RULES = {SEALED: _wrongly_sealed()}
