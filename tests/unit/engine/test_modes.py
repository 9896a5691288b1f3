"""What is asked for where nothing may be taken: `multidb.plan.added`."""

from __future__ import annotations

from multidb.model import Action, Owner
from multidb.plan import added, diff
from multidb.provisioners.postgres.provision.resources import Access, Database, Membership, Role, Settings
from multidb.provisioners.redis.provision.resources import AclUser

ANN = Owner("shop", "ann")
APPS = frozenset({"ann"})


def membership(member: str, role: str, app: str | None = "ann") -> Membership:
    return Membership(name=f"{member} in {role}", app=app, role=role, member=member)


def test_what_is_not_ours_keeps_what_it_has_and_is_given_nothing() -> None:
    desired = [
        Role(name="ann_user", app="ann", owner=ANN, login=True, password="current"),
        Database(name="ann", app="ann", owner=ANN, belongs_to="admin"),
        Access(name="ann", app="ann", privileges=frozenset({("ann_user", "CONNECT")})),
        membership("ann_user", "ann_owner"),
        Settings(name="ann_user in ann", app="ann", role="ann_user", database="ann", values=frozenset()),
        AclUser(name="ann_user", app="ann", owner=ANN, db=1, keys=("*",), channels=(), databases="1"),
    ]
    live = [
        Role(name="ann_user", login=True, superuser=True, password="other"),
        Database(name="ann", belongs_to="bob", connection_limit=3),
        Access(name="ann", privileges=frozenset({("public", "CONNECT")})),
        membership("ann_user", "staff"),
        AclUser(name="ann_user", db=0, keys=("*",), channels=("*",), databases="all"),
    ]
    (change,) = diff(added(desired, live, APPS), live)
    assert (change.action, change.resource.kind) == (Action.UPDATE, "access to database")
    assert change.fields[0].new == frozenset({("ann_user", "CONNECT"), ("public", "CONNECT")})


def test_what_is_ours_is_made_as_it_should_be() -> None:
    desired = [Role(name="ann_user", app="ann", owner=ANN, login=True)]
    live = [Role(name="ann_user", app="ann", owner=ANN, login=False)]
    (change,) = diff(added(desired, live, APPS), live)
    assert [field.field for field in change.fields] == ["login"]


def test_what_is_anothers_is_in_the_way_as_ever() -> None:
    desired = [Database(name="ann", app="ann", owner=ANN, belongs_to="admin")]
    live = [Database(name="ann", app="ann", owner=Owner("other", "ann"), belongs_to="admin")]
    (change,) = diff(added(desired, live, APPS), live)
    assert change.action is Action.CONFLICT


def test_apps_that_are_not_named_are_compared_as_ever() -> None:
    desired = [membership("bob_user", "bob_owner", "bob")]
    live = [membership("bob_user", "staff", "bob")]
    assert diff(added(desired, live, APPS), live) == diff(desired, live)
