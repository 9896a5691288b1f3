"""Whether the walls between apps hold: tried with the apps' own credentials, and looked for in the servers' catalogs.

`pairs`: who tries whom. `asking`: the only part that talks to servers. `findings`: what was found, and whether that is
a proof. `markdown`: the same for an auditor to read; `formats`: for CI systems.
"""

from multidb.audit.attempts import audit
from multidb.audit.findings import Audit, ServerAudited, ServerHole, Summary, Tried, Untried
from multidb.audit.formats import audit_junit, audit_sarif
from multidb.audit.markdown import markdown
from multidb.audit.pairs import ALL_PAIRS, Pairs, choose
from multidb.audit.record import last, remember

__all__ = [
    "ALL_PAIRS",
    "Audit",
    "ServerHole",
    "Pairs",
    "ServerAudited",
    "Summary",
    "Tried",
    "Untried",
    "audit",
    "audit_junit",
    "audit_sarif",
    "choose",
    "last",
    "markdown",
    "remember",
]
