"""What a server with databases and roles lists, turned into resources that can be compared with the desired ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multidb.model import Inspection, Owner, Resource
from multidb.provisioners.neo4j.provision.resources import (
    PUBLIC,
    Database,
    Grant,
    Mark,
    Membership,
    PublicRights,
    Role,
    User,
    canonical,
    immutable,
    loads,
    read_mark,
)

__all__ = ["Listing", "Row", "owners_of"]

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """The answers of four commands, however many apps there are.

    Args:
        databases: ``SHOW DATABASES YIELD name, requestedStatus, access``.
        users: ``SHOW USERS YIELD user, suspended, passwordChangeRequired, home``.
        members: ``SHOW ROLES WITH USERS YIELD role, member``; the member is None for a role that nobody has.
        commands: the rows of ``SHOW ALL PRIVILEGES AS COMMANDS``.
    """

    databases: Sequence[Row]
    users: Sequence[Row]
    members: Sequence[Row]
    commands: Sequence[str]

    def owners(self, inspection: Inspection) -> dict[str, Owner]:
        """Whose the resources of each app are, by the marks on the server; an app without a mark is not in it."""
        return owners_of([mark[0] for row in self.members if (mark := read_mark(row["role"]))], inspection)

    def resources(self, inspection: Inspection) -> list[Resource]:
        """The live resources of the inspected apps, without the users, whose passwords only a login can tell."""
        owners = self.owners(inspection)
        resources: list[Resource] = [Mark(name=app, app=app, owner=owner) for app, owner in owners.items()]
        resources += self._databases(inspection, owners)
        resources += self._roles(inspection, owners)
        resources += self._rights(inspection)
        resources += self._memberships(inspection)
        # One of each: a cluster lists a database once per server.
        return list({resource.key: resource for resource in resources}.values())

    def _databases(self, inspection: Inspection, owners: Mapping[str, Owner]) -> list[Resource]:
        apps = {want.name: want.app for want in inspection.desired if isinstance(want, Database)}
        return [
            Database(
                name=row["name"],
                app=apps[row["name"]],
                owner=owners.get(apps[row["name"]] or ""),
                status=row["requestedStatus"],
                access=row["access"],
            )
            for row in self.databases
            if row["name"] in apps
        ]

    def _roles(self, inspection: Inspection, owners: Mapping[str, Owner]) -> list[Resource]:
        there = {row["role"] for row in self.members}
        roles = [want for want in inspection.desired if isinstance(want, Role) and want.name in there]
        return [Role(name=want.name, app=want.app, owner=owners.get(want.app or "")) for want in roles]

    def _rights(self, inspection: Inspection) -> list[Resource]:
        """The rights of our roles, and what PUBLIC may load. Immutable ones cannot be changed here: left out."""
        roles = {want.name: want.app for want in inspection.desired if isinstance(want, Role)}
        rights: list[Resource] = []
        for line in (line for command in self.commands for line in canonical(command) if not immutable(line)):
            role = line.rpartition(" TO ")[2].strip("`")
            if role in roles:
                rights.append(Grant(name=line, app=roles[role]))
        if any(isinstance(want, PublicRights) for want in inspection.desired):
            load = tuple(line for line in loads(self.commands) if not immutable(line))
            rights.append(PublicRights(name=PUBLIC, load=load))
        return rights

    def _memberships(self, inspection: Inspection) -> list[Resource]:
        """Who has our roles, and which roles our users have, wanted or not. Everybody has PUBLIC."""
        roles = {want.name: want.app for want in inspection.desired if isinstance(want, Role)}
        desired = [want for want in inspection.desired if isinstance(want, User)]
        users = {want.name: want.app for want in desired}
        leaving = {want.name for want in desired if want.password == "none"}  # with the user its memberships go
        return [
            Membership.of(row["role"], row["member"], roles.get(row["role"]) or users.get(row["member"]))
            for row in self.members
            if row["member"] is not None
            and row["role"] != PUBLIC
            and row["member"] not in leaving
            and (row["role"] in roles or row["member"] in users)
        ]


def owners_of(marks: Sequence[Owner], inspection: Inspection) -> dict[str, Owner]:
    """The owner of each app's resources; a mark of another project outweighs ours, so that neither side wins a race."""
    ours = inspection.context.project
    app_ids = {app.id for app in inspection.apps}
    owners: dict[str, Owner] = {}
    for owner in sorted(marks, key=lambda owner: (owner.project == ours, owner)):
        if owner.app in app_ids:
            owners.setdefault(owner.app, owner)
    return owners
