"""An app, what the functions of the store are told of its server, and the user that it gets."""

from __future__ import annotations

import hashlib
from typing import Any

from multidb.model import App, StoreContext
from multidb.plan import diff
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.provision.options import AppOptions, ServerOptions
from multidb.provisioners.redis.provision.resources import (
    AclUser,
    RedisFacts,
)
from multidb.secrets import MemorySecretStore, Secret, SecretRef
from tests.support.redis_tables import VALKEY_9

PASSWORD = "a-password-of-forty-three-characters-or-so"


DIGEST = hashlib.sha256(PASSWORD.encode()).hexdigest()


HELD = MemorySecretStore({SecretRef("lernmi", "redis", "user"): Secret(PASSWORD)})


def app(name: str = "lernmi", **options: Any) -> App:
    return App(name, name, {"redis": AppOptions(**options)}, where=f"multidb.yaml:{name}")


def context(facts: RedisFacts = VALKEY_9, number: int = 3, **options: Any) -> StoreContext:
    return StoreContext("digi", facts, ServerOptions(**options), {"lernmi": number})


def wanted_user(facts: RedisFacts = VALKEY_9, **options: Any) -> AclUser:
    user = PROVISIONER.desired([app(**options)], context(facts, 0 if options.get("isolation") == "prefix" else 3))[0]
    assert isinstance(user, AclUser)
    return user


def sent(want: AclUser, facts: RedisFacts) -> str:
    """The rule that would be sent for a user, as a line of ACL LIST with the password in it."""
    [change] = diff([want], [])
    [statement] = PROVISIONER.statements(change, context(facts))
    return statement.text.replace("ACL SETUSER", "user").replace("$user_sha256", DIGEST)
