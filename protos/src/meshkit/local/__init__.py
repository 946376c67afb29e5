"""The in-process transport: servers and channels of ``local://NAME`` addresses that share one event loop."""

from meshkit.local.network import LocalNetwork

__all__ = ["LocalNetwork"]
