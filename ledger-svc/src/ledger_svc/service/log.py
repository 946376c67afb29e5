"""The log, as its readers see it: checkpoints, proofs, keys; and the task that signs checkpoints."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from ledger_svc.domain.checkpoints import Checkpoint
from ledger_svc.domain.errors import InvalidRequest, NotFound, Standby
from ledger_svc.domain.limits import check_range, check_text
from ledger_svc.domain.merkle import consistency_ranges, inclusion_ranges
from ledger_svc.domain.signing import Keyring
from ledger_svc.service.ports import LoggedReceipt, ReceiptLog, Sleep
from meshkit.clock import Clock

MAX_SIZE = 2**53 - 1

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Proves that a receipt stands in the log at a checkpoint."""

    receipt: LoggedReceipt
    checkpoint: Checkpoint
    hashes: list[bytes]


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """Proves that the log at one size begins the log at another."""

    first_size: int
    second_size: int
    hashes: list[bytes]


class LogService:
    """Reads the log, and grows it."""

    def __init__(self, *, log: ReceiptLog, keys: Keyring, origin: str, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._growing = asyncio.Lock()
        self.keys = keys
        self.origin = origin

    async def inclusion(self, org_id: str, receipt_id: str, tree_size: int) -> InclusionProof:
        """Proves a receipt in the checkpoint of a size; 0: in the newest, made now if the receipt is younger.

        Raises:
            NotFound: no such receipt, also where it is another organisation's.
            InvalidRequest: no checkpoint of this size, or one from before the receipt.
        """
        check_text("org_id", org_id, empty=True)
        check_range("tree_size", tree_size, 0, MAX_SIZE)
        receipt = await self._log.receipt(org_id, check_text("receipt_id", receipt_id))
        checkpoint, hashes = await self.path(receipt.leaf_index, tree_size)
        return InclusionProof(receipt, checkpoint, hashes)

    async def path(self, leaf_index: int, tree_size: int) -> tuple[Checkpoint, list[bytes]]:
        """The checkpoint of a size, and the hashes that lead from a leaf to its root; 0: the newest, made now if the
        leaf is younger.

        Raises:
            InvalidRequest: no checkpoint of this size, or one from before the leaf.
        """
        if check_range("tree_size", tree_size, 0, MAX_SIZE):
            try:
                checkpoint = await self._log.checkpoint(tree_size)
            except NotFound as error:
                raise InvalidRequest("tree_size", str(error)) from error
            if checkpoint.size <= leaf_index:
                raise InvalidRequest("tree_size", f"what is to be proved is leaf {leaf_index}, younger than that")
        else:
            checkpoint = await self._reaching(leaf_index)
        return checkpoint, await self._log.proof(inclusion_ranges(leaf_index, checkpoint.size))

    async def checkpoint(self, tree_size: int) -> Checkpoint:
        """The checkpoint of a size; 0: the newest.

        Raises:
            NotFound: none was signed at this size.
        """
        if check_range("tree_size", tree_size, 0, MAX_SIZE):
            return await self._log.checkpoint(tree_size)
        return await self._newest()

    async def consistency(self, first_size: int, second_size: int) -> ConsistencyProof:
        """Proves that the log only grew between two sizes; ``second_size`` 0: up to the newest checkpoint.

        Raises:
            InvalidRequest: the sizes are out of order or beyond the newest checkpoint.
        """
        newest = (await self._newest()).size
        second = check_range("second_size", second_size, 0, newest) or newest
        first = check_range("first_size", first_size, 0, second)
        return ConsistencyProof(first, second, await self._log.proof(consistency_ranges(first, second)))

    async def grow(self) -> int:
        """Signs a checkpoint of all that is in the log; gives the number of checkpoints that this took."""
        count = 0
        async with self._growing:  # two at once would do the same work twice
            while await self._log.grow(self._clock.now_ms()):
                count += 1
        return count

    async def run(self, interval_s: float, sleep: Sleep = asyncio.sleep) -> None:
        """Gives old receipts their leaves and grows the log, every ``interval_s`` until cancelled. A failure is logged;
        the next round tries again.
        """
        while True:
            try:
                await self._log.backfill()
                await self.grow()
            except Standby:
                pass  # the writer does it
            except Exception:  # noqa: BLE001 - whatever it was, receipts wait for the next round
                _log.exception("checkpoint_failed")
            await sleep(interval_s)

    async def _newest(self) -> Checkpoint:
        return await self._log.newest() or await self._reaching(-1)

    async def _reaching(self, leaf_index: int) -> Checkpoint:
        newest = await self._log.newest()
        if newest is None or newest.size <= leaf_index:
            await self.grow()
            newest = await self._log.newest()
        assert newest is not None, "growing leaves a checkpoint"
        assert newest.size > leaf_index, f"leaf {leaf_index} is in the log, of {newest.size} leaves"
        return newest
