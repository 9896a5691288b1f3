"""How much of the shared servers each app uses, how fast that grows, and what happens at a quota.

`looking` asks the servers. `report`: what they said, as values. `history`: a few figures of each look, kept for growth.
`quotas`: who is to be made read-only, and who no longer. `enforcement` makes it so.
"""

from multidb.usage.enforcement import Enforcement, enforce
from multidb.usage.history import History, Look
from multidb.usage.measurement import look
from multidb.usage.quotas import RELEASED, read_only_after
from multidb.usage.report import NEAR, Growth, QuotaUse, ServerSeen, StoreTotal, StoreUsage, UsageReport

__all__ = [
    "NEAR",
    "RELEASED",
    "Enforcement",
    "Growth",
    "History",
    "Look",
    "ServerSeen",
    "QuotaUse",
    "StoreTotal",
    "StoreUsage",
    "UsageReport",
    "enforce",
    "look",
    "read_only_after",
]
