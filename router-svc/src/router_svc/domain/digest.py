"""What a receipt says of the answer without giving it away: its salted digest (see meshkit.answers.statement)."""

from __future__ import annotations

from meshkit.answers import statement
from meshkit.digests import salted
from router_svc.domain.answer import Delivery


def answer_digest(delivery: Delivery, salt: bytes) -> str:
    """The digest of the answer; of a stream, of what was handed on to the client. Empty: nothing was.

    Raises:
        NoStatement: it can be read in more than one way.
    """
    if delivery.body:
        return salted(statement.of_body(delivery.body), salt)
    handed_on = delivery.payloads[: delivery.delivered]
    return salted(statement.of_stream(handed_on), salt) if handed_on else ""
