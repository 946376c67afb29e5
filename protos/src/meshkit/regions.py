"""Where a request may be answered."""

from __future__ import annotations

from enum import Enum

MAINLAND_CHINA = "cn"


class RegionPolicy(Enum):
    """In which regions requests may be answered."""

    ANY = "any"
    CN_ONLY = "cn-only"
    OVERSEAS_ONLY = "overseas-only"

    def admits(self, region: str) -> bool:
        """Whether a source in this region of the catalog may answer; "": it is not known where it is, and only those
        may be answered there who may be answered anywhere.
        """
        if self is RegionPolicy.ANY:
            return True
        if not region:
            return False
        return (region == MAINLAND_CHINA) == (self is RegionPolicy.CN_ONLY)
