"""The folder in which one installation keeps what must survive a restart."""

from __future__ import annotations

import base64
import datetime as dt
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


class DataDirError(Exception):
    """The folder can't be used as asked; the message says what to do."""


class DataDirInUseError(DataDirError):
    """Another process serves from this folder."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """The organisation and project that the first start made."""

    org_id: str
    project_id: str


class DataDir:
    """Paths and small state files under one root, readable by their owner only.

    Raises:
        DataDirError: the folder can't be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataDirError(f"{self.root} can't be used ({error.strerror}): choose another with --data") from error

    @property
    def ledger_db(self) -> Path:
        """The SQLite database of the all-in-one ledger."""
        return self.root / "ledger.db"

    @property
    def postgres(self) -> Path:
        """The cluster of the mesh's PostgreSQL."""
        return self.root / "postgres"

    @property
    def signing_keys_file(self) -> Path:
        """See ``signing_keys``, which makes it."""
        return self.root / "signing-keys.json"

    @property
    def revisions(self) -> Path:
        """Catalog revisions; receipts refer to them."""
        return self.root / "catalog-revisions"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes this process the only one that serves from the folder. The kernel lets go when the process ends.

        Raises:
            DataDirInUseError: another process holds it.
        """
        with (self.root / "lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataDirInUseError(
                    f"another tallygate serves from {self.root}: stop it, or choose another folder with --data"
                ) from None
            yield

    @property
    def is_served(self) -> bool:
        """Whether a process holds ``locked``. Only looks: it holds nobody up and writes nothing."""
        try:
            with (self.root / "lock").open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @property
    def mode(self) -> str:
        """The command that the folder belongs to, "up" or "mesh"; empty before the first start."""
        path = self.root / "mode"
        return path.read_text(encoding="ascii").strip() if path.exists() else ""

    def claim(self, mode: str) -> None:
        """Makes the folder that of ``mode`` for good: the two keep their ledgers in different databases.

        Raises:
            DataDirError: it belongs to the other.
        """
        if self.mode not in {"", mode}:
            raise DataDirError(
                f"{self.root} belongs to `tallygate {self.mode}`: use that, or choose another folder with --data"
            )
        if not self.mode:
            self.write_private("mode", mode)

    def pepper(self) -> str:
        """The secret with which key hashes are made; made on first use. Whoever loses it loses every key."""
        path = self.root / "pepper"
        if not path.exists():
            self.write_private("pepper", secrets.token_hex(32))
        return path.read_text(encoding="ascii").strip()

    def signing_keys(self) -> dict[str, str]:
        """The Ed25519 seeds that sign receipts and checkpoints, by kid, in base64url; made on first use.

        To rotate, add a line with a later date to the file: the greatest kid signs, the others still verify.
        """
        return self._keys(self.signing_keys_file.name)

    def secrets_keys(self) -> dict[str, str]:
        """The keys under which the ledger stores secrets that it must read again, by kid, 32 bytes in base64url; made
        on first use. Whoever loses them loses those secrets.

        To rotate, add a line with a later date to the file: the greatest kid encrypts, the others still decrypt.
        """
        return self._keys("secrets-keys.json")

    def _keys(self, name: str) -> dict[str, str]:
        path = self.root / name
        if not path.exists():
            kid = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}-{secrets.token_hex(4)}"  # unique: verifiers pin it
            key = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
            self.write_private(name, json.dumps({kid: key}, indent=2))
        keys: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return keys

    def tenant(self) -> Tenant | None:
        """What the first start made; None before it."""
        path = self.root / "tenant.json"
        return Tenant(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def save_tenant(self, tenant: Tenant) -> None:
        """Keep what the first start made."""
        self.write_private("tenant.json", json.dumps(asdict(tenant)))

    def ledger_address(self) -> str | None:
        """Where the running ledger answers its operator; None when nothing serves from the folder."""
        path = self.root / "ledger.addr"
        return path.read_text(encoding="utf-8").strip() if path.exists() else None

    @contextmanager
    def announced_ledger(self, address: str) -> Iterator[None]:
        """Tells the operator's commands where the ledger is, for as long as it is there."""
        path = self.write_private("ledger.addr", address)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def write_private(self, name: str, text: str) -> Path:
        """Write a file at once or not at all, readable by its owner only."""
        return write_private(self.root / name, text)


def write_private(path: Path, text: str) -> Path:
    """Write ``path`` at once or not at all, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    return draft.replace(path)
