"""An audit as a page for an auditor: what was asked of whom, how, what came of it, and what was left out. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from multidb.audit.findings import Audit, ServerHole, Tried
from multidb.model import Outcome, moment_in_words
from multidb.secrets import redact

__all__ = ["markdown"]

_METHOD = """\
Each app's own credentials were used to try what would reach another app. A probe changes nothing even where it
succeeds: what would write or destroy is asked for as a dry run, in a transaction that is rolled back, or as a change
of nothing. Before a refusal counts, the same act is tried on the app's own things (its control); where that fails the
probe is *broken* and proves nothing. Beside the probes, the catalogs of every server were searched, with the admin's
login, for anything that lets an app or everybody through. No data of any app was read or changed.
"""


def markdown(audit: Audit) -> str:
    """The report. It holds no secret."""
    sections = (
        _head(audit),
        _servers(audit),
        _matrix(audit),
        _findings(audit),
        _known(audit),
        _searched(audit),
        _probes(audit),
        _gaps(audit),
    )
    return redact("\n".join(line for section in sections for line in section)) + "\n"


def _head(audit: Audit) -> Iterator[str]:
    verdict = "every wall that is promised was proved" if audit.ok else "NOT PROVED; see the findings"
    if audit.ok and audit.unread:
        verdict = "every wall was proved that could be looked at; NOT PROVED: what could not be read, see the findings"
    if not audit.apps:
        verdict = "there are no apps, and so no walls"
    yield f"# Isolation audit of {audit.project}\n"
    yield f"- Result: **{verdict}**"
    yield f"- Started {moment_in_words(audit.started)}, finished {moment_in_words(audit.finished)}"
    yield f"- multidb {audit.multidb}"
    yield f"- Apps: {', '.join(audit.apps) or 'none'}"
    yield f"- Probes: {len(audit.tried)}, on pairs of apps: " + (
        "; ".join(f"{store}: {pairs}" for store, pairs in audit.pairs.items()) or "none"
    )
    if any(pairs.sampled for pairs in audit.pairs.values()):
        yield "- Where pairs were drawn, each attacker tried its neighbours in a ring of random order. Catalogs were"
        yield "  searched for every app."
    yield "\n## Method\n"
    yield _METHOD


def _servers(audit: Audit) -> Iterator[str]:
    yield "## Servers\n"
    rows = [
        (server.server, server.version or "", server.skipped or str(server.error or "")) for server in audit.servers
    ]
    yield from _table(("server", "version", "not asked because"), rows)


def _matrix(audit: Audit) -> Iterator[str]:
    yield "## Apps and stores\n"
    yield from _table(("app", *audit.stores), [(app, *_cells(audit, app)) for app in audit.apps])
    reasons = sorted({(store, *why) for stores in audit.isolation.values() for store, why in stores.items()})
    yield from (f"- {store}, {level.value}: {why}" for store, level, why in reasons)
    yield ""


def _cells(audit: Audit, app: str) -> Iterator[str]:
    for store in audit.stores:
        verdict = audit.verdict(app, store)
        yield f"**{verdict}**" if verdict in ("breach", "hole", "not proved") else verdict


def _findings(audit: Audit) -> Iterator[str]:
    yield "## Findings\n"
    if audit.ok and not audit.unread:
        yield "None.\n"
        return
    yield from (_breach(breach) for breach in audit.breaches)
    yield from (line for hole in audit.holes for line in _hole(hole))
    for attempt in audit.broken:
        yield f"- **Broken probe** on {attempt.server}: {attempt.act}: {attempt.probe.detail}"
    for gap in audit.untried:
        yield f"- **Not tried**: {gap}"
    for server, unread in audit.unread:
        yield f"- **Not proved** on {server}: {_plain(unread.catalog)}: {_plain(unread.why)}"
    for subject, error in audit.errors:
        yield f"- **Not asked**: {subject}: {error}"
    yield ""


def _known(audit: Audit) -> Iterator[str]:
    """What accounts could do that somebody has answered for in the manifest."""
    if not audit.known:
        return
    yield "## Known accounts, and what they could do\n"
    for server, known in audit.known:
        yield f"- {server}: {_plain(known.account)}" + (":" if known.could else ": nothing that would be a hole")
        yield from (f"  - {_plain(hole)}" for hole in known.could)
    yield ""


def _breach(breach: Tried) -> str:
    return f"- **Breach** on {breach.server}: {breach.act} worked{breach.detail}"


def _hole(finding: ServerHole) -> Iterator[str]:
    hole = finding.hole
    yield f"- **Hole** on {finding.server}: {hole.name}, {_plain(hole.subject)}. {_plain(hole.message)} What closes it:"
    lines = [line for statement in hole.closes for line in statement.splitlines()]
    fence = max(["``", *re.findall("`{3,}", "\n".join(lines))], key=len) + "`"  # a name in it cannot end it
    yield f"\n  {fence}"
    yield from (f"  {line}" for line in lines)
    yield f"  {fence}\n"


def _searched(audit: Audit) -> Iterator[str]:
    yield "## Catalogs that were searched\n"
    rows = [
        (server.server, f"`{catalog.catalog}`", str(catalog.objects), catalog.looked_for)
        for server in audit.servers
        for catalog in server.search.catalogs
    ]
    yield from _table(("server", "catalog", "objects", "looked for"), rows)
    yield from (
        f"- Note on {server}: {_plain(remark.subject)}: {_plain(remark.message)}." for server, remark in audit.remarks
    )
    yield ""


def _probes(audit: Audit) -> Iterator[str]:
    yield "## Every probe\n"
    counts = Counter((attempt.store, attempt.probe.name, attempt.probe.got) for attempt in audit.tried)
    kinds = dict.fromkeys((attempt.store, attempt.probe.name) for attempt in audit.tried)
    rows = [(*kind, *(str(counts[(*kind, outcome)]) for outcome in Outcome)) for kind in kinds]
    yield from _table(("store", "probe", *(outcome.value for outcome in Outcome)), rows)


def _gaps(audit: Audit) -> Iterator[str]:
    yield "## Exceptions: open, and promised to nobody\n"
    yield from (f"- {store}: {name} ({count})" for (store, name), count in audit.exceptions.items())
    if not audit.exceptions:
        yield "None."
    yield "\nThe levels are explained in docs/security.md."


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _plain(text: str) -> str:
    """Text whose letters are none of Markdown's."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", text)
