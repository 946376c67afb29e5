"""What kills a process at a named point: a file that arms it, and whoever reaches the point.

One end is the harness, which arms and looks whether it has fired. The other is a seam in a process under test, or the
scripted source.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from tallygate_deploy.data_dir import write_private

ARMED = "TALLYGATE_FAULTS_ARMED"
PLANTED = "TALLYGATE_FAULTS_PLANTED"
REPLY_BEFORE_COMMIT = "reply-before-commit"


@dataclass(frozen=True, slots=True)
class Arming:
    """Kills ``victim_pid`` when a point is reached once more than ``passes`` times. ``number`` tells armings apart."""

    number: int
    point: str
    passes: int
    victim_pid: int


class Trigger:
    """The file is made to arm it, and renamed when it fires."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fired = path.with_suffix(".fired")
        self._number, self._passed = 0, 0

    def arm(self, arming: Arming) -> None:
        self._fired.unlink(missing_ok=True)
        write_private(self._path, json.dumps(asdict(arming)))

    def disarm(self) -> bool:
        """False where it has fired before."""
        self._path.unlink(missing_ok=True)
        return not self._fired.exists()

    @classmethod
    def of_environment(cls) -> Trigger:
        """In a process under test."""
        return cls(Path(os.environ[ARMED]))

    @property
    def has_fired(self) -> bool:
        return self._fired.exists()

    def reach(self, point: str) -> None:
        """Kills, if this is what it is armed for."""
        try:
            arming = Arming(**json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return
        if arming.point != point:
            return
        if arming.number != self._number:
            self._number, self._passed = arming.number, 0
        self._passed += 1
        if self._passed <= arming.passes:
            return
        try:
            self._path.rename(self._fired)
        except FileNotFoundError:  # another was faster
            return
        os.kill(arming.victim_pid, signal.SIGKILL)
