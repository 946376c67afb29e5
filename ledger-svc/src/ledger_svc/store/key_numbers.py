"""The numbers of changes that watchers of keys are told of: counted over keys and organisations together, in the order
of the commits, because there is one writer.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, literal, select, union_all

from ledger_svc.service.revocations import name_of_organization
from ledger_svc.store.tables import API_KEY, ORG

_NEWEST = select(
    func.coalesce(select(func.max(API_KEY.c.change_seq)).where(API_KEY.c.change_seq > 0).scalar_subquery(), 0),
    func.coalesce(select(func.max(ORG.c.change_seq)).where(ORG.c.change_seq > 0).scalar_subquery(), 0),
)


def newest_change(connection: Connection) -> int:
    """The number of the last change; 0: none yet."""
    of_keys, of_orgs = connection.execute(_NEWEST).one()
    return max(int(of_keys), int(of_orgs))


def changes_after(connection: Connection, change_seq: int) -> list[tuple[str, int]]:
    """What was changed after a change, by the names that watchers are told, and the numbers, in their order."""
    keys, orgs = API_KEY.c, ORG.c
    of_keys = select(keys.change_seq, keys.key_id, literal(0)).where(keys.change_seq > 0, keys.change_seq > change_seq)
    of_orgs = select(orgs.change_seq, orgs.org_id, literal(1)).where(orgs.change_seq > 0, orgs.change_seq > change_seq)
    found = sorted(connection.execute(union_all(of_keys, of_orgs)).all())
    return [(name_of_organization(one) if whole else one, number) for number, one, whole in found]
