"""The router's use cases, and the Protocols of what they need."""

from router_svc.service.ports import Cache, Catalog, Charge, Hold, Ledger, SourceCall, SourceClient
from router_svc.service.router import Limits, RouterService

__all__ = [
    "Cache",
    "Catalog",
    "Charge",
    "Hold",
    "Ledger",
    "Limits",
    "RouterService",
    "SourceCall",
    "SourceClient",
]
