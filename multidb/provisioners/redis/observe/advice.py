"""What a Redis or Valkey server's limits mean for its apps."""

from __future__ import annotations

from collections.abc import Sequence

from multidb.model import App, Facts, Finding, Level, StoreContext, listed
from multidb.provisioners.redis.provision.options import STORE, AppOptions
from multidb.provisioners.redis.provision.resources import FORGETS, RedisFacts

__all__ = ["advise", "caveats"]


def caveats(facts: Facts) -> tuple[str, ...]:
    """What a restart of the server would cost."""
    return (
        (f"{FORGETS}; apps cannot log in then until multidb apply has made them again",)
        if RedisFacts.of(facts).forgets
        else ()
    )


def advise(apps: Sequence[App], context: StoreContext) -> tuple[Finding, ...]:
    """Whether the apps' users outlast a restart, and which apps may stop the server."""
    facts = RedisFacts.of(context.facts)
    if facts.forgets:
        fix = "give the server an aclfile in its configuration, restart it, then run multidb apply"
        findings = [Finding(Level.WARNING, "saved rules", caveats(facts)[0], fix)]
    else:
        findings = [Finding(Level.OK, "saved rules", f"multidb apply keeps them in {facts.rules_file}")]
    if scripting := [app.id for app in apps if AppOptions.of(app.stores[STORE]).scripts]:
        note = f"{listed(scripting, 5)} may run scripts; one that writes and does not end stops the server for all apps"
        findings.append(Finding(Level.OK, "scripts", note))
    return tuple(findings)
