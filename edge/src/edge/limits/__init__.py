"""Rate limits: how much a key may ask for in a minute, over all edges, and what it is told of that.

``window`` is the rule, ``memory`` and ``redis`` keep it, ``guarded`` keeps it while Redis is away, ``rates`` says which
limits a request stands under.
"""

from edge.limits.limiter import LimiterAway, RateLimiter
from edge.limits.rates import NOT_VALID, FixedLimits, RateLimits, Tokens
from edge.limits.window import Verdict

__all__ = ["NOT_VALID", "FixedLimits", "LimiterAway", "RateLimiter", "RateLimits", "Tokens", "Verdict"]
