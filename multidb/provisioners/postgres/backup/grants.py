"""Rights of a set, given in what was loaded of it: by a login that may do no more than the app."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from multidb.errors import ServerError
from multidb.provisioners.postgres.driver.connection import Answer, Connection
from multidb.provisioners.postgres.isolation import rights
from multidb.provisioners.postgres.provision.admin_inside import AdminInside

__all__ = ["give", "give_on_member", "give_on_objects", "send"]

_AT_ONCE = 500  # statements in one message, or spans in one question


def give(connection: Connection, kept: Sequence[rights.Right]) -> None:
    """Who may do what with single things."""
    if not kept:
        return
    asked = json.dumps([[right.type, right.names, right.args] for right in kept], ensure_ascii=False)
    for step in (rights.owned, rights.given):
        there = rights.things(json.loads(connection.ask(rights.resolution(), (asked,))))
        pairs = [(right, thing) for right, thing in zip(kept, there, strict=True) if thing is not None]
        send(connection, [text for right, thing in pairs for text in step(right, thing)])
    _pass_on(connection, pairs)


def give_on_objects(connection: Connection, groups: Sequence[rights.Objects]) -> None:
    """Large objects to their owners, and who may do what with them."""
    for group in groups:
        for there in _large_objects(connection, group.spans):
            send(connection, [text for thing in there for text in rights.owned(group.right(thing), thing)])
        for there in _large_objects(connection, group.spans):
            pairs = [(group.right(thing), thing) for thing in there]
            send(connection, [text for right, thing in pairs for text in rights.given(right, thing)])
            _pass_on(connection, pairs)


def _pass_on(connection: Connection, pairs: Sequence[tuple[rights.Right, rights.Thing]]) -> None:
    for right, thing in pairs:
        for text, otherwise in rights.passed_on(right, thing):
            # Who gave it may have lost its way to the thing since: the owner then gives the same.
            if not _took(connection.send(text)):
                connection.execute(otherwise)


def _large_objects(connection: Connection, spans: Sequence[tuple[int, int]]) -> Iterator[list[rights.Thing]]:
    """Those that are there of these, some at a time."""
    for start in range(0, len(spans), _AT_ONCE):
        asked, last = json.dumps(spans[start : start + _AT_ONCE]), 0
        while True:
            answer = json.loads(connection.ask(rights.objects_query(), (asked, str(last))))
            there = [thing for thing in rights.things(answer) if thing is not None]
            if there:
                yield there
                last = int(there[-1].identity)
            if len(there) < rights.MOST_OBJECTS:
                break


def give_on_member(
    admin: AdminInside, connection: Connection, member: rights.Member, live: rights.Grants, roles: Sequence[str]
) -> list[str]:
    """What was given and taken on a member of an extension; the statements that are left.

    Args:
        live: what is given on it in the app's live database.
    """
    asked = json.dumps([[member.type, member.names, member.args]], ensure_ascii=False)
    try:
        (thing,) = rights.things(json.loads(connection.ask(rights.resolution(), (asked,))))
    except ServerError:  # another version of the extension has it no longer
        return []
    if thing is None or not thing.is_member:
        return []
    desired = member.right(thing)
    if thing.owner in roles:
        send(connection, list(rights.given(desired, thing)))
        left = []
    else:
        everybodys = {privilege for grantee, privilege, _, _ in thing.grants if not grantee}
        may = {
            grant for grant in member.given if grant[3] or grant in live or (grant[1] in everybodys and not grant[2])
        }
        right = replace(member, given=frozenset(may)).right(thing)
        sent = set(rights.given(right, thing))
        left = [text for text in rights.given(desired, thing) if text not in sent] + admin.set_right(right, thing)
    for text, otherwise in rights.passed_on(desired, thing):
        if not _took(connection.send(text)):
            connection.execute("RESET ROLE")
            left.append(otherwise)
    return left


def _took(answer: Answer) -> bool:
    """Whether what was to be given was: who holds a right and may not pass it on gets a warning and no error."""
    return answer.refusal is None and not answer.warnings


def send(connection: Connection, texts: Sequence[str]) -> None:
    for start in range(0, len(texts), _AT_ONCE):
        connection.execute(";\n".join(texts[start : start + _AT_ONCE]))
