"""What `--json` prints, command by command, as types: `python scripts/docs` makes the JSON Schemas of docs/json/ of
them. No command imports this; the tests hold every document that a command prints against its schema.

Within version 1 keys are added, and none is taken away or gets another meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from multidb.cli.documents.access import AppsDocument, ConnectDocument, EnvDocument, LogsDocument, ShowDocument
from multidb.cli.documents.audit import AuditDocument
from multidb.cli.documents.backups import (
    BackupDocument,
    CloneDocument,
    CopiedSetsDocument,
    ExpireDocument,
    ListedSetsDocument,
    PruneDocument,
    RestoreDocument,
    ShownSetDocument,
    TriedSetsDocument,
)
from multidb.cli.documents.changes import (
    AddAppDocument,
    ApplyDocument,
    MoveDocument,
    PlanDocument,
    RecoverDocument,
    RenameAppDocument,
    RenderDocument,
    RotateDocument,
)
from multidb.cli.documents.envelope import FailedRunDocument
from multidb.cli.documents.importing import ImportDocument
from multidb.cli.documents.project import (
    HistoryDocument,
    MovedSecretsDocument,
    MovedStateDocument,
    PulledStateDocument,
    PushedStateDocument,
    RecoveredStateDocument,
    RekeyedDocument,
    StateDocument,
    UnlockedDocument,
)
from multidb.cli.documents.question import QuestionDocument
from multidb.cli.documents.removal import PurgeDocument, RemoveAppDocument, UndoRemoveDocument
from multidb.cli.documents.servers import (
    CompletionDocument,
    DoctorDocument,
    InitDocument,
    RestartDocument,
    SchemaDocument,
    ServersDocument,
    ValidateDocument,
)
from multidb.cli.documents.usage import ServeDocument, UsageDocument
from multidb.service.documents import HealthDocument

__all__ = ["DOCUMENTS", "FAILURE", "WITHOUT_DOCUMENT", "json_schemas"]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

DOCUMENTS: Final[Mapping[str, type[BaseModel]]] = {
    "init": InitDocument,
    "up": ServersDocument,
    "down": ServersDocument,
    "restart": RestartDocument,
    "doctor": DoctorDocument,
    "validate": ValidateDocument,
    "schema": SchemaDocument,
    "completion": CompletionDocument,
    "import": ImportDocument,
    "plan": PlanDocument,
    "apply": ApplyDocument,
    "add-app": AddAppDocument,
    "rotate": RotateDocument,
    "move": MoveDocument,
    "rename-app": RenameAppDocument,
    "render": RenderDocument,
    "secrets move": MovedSecretsDocument,
    "secrets rekey": RekeyedDocument,
    "state show": StateDocument,
    "state pull": PulledStateDocument,
    "state push": PushedStateDocument,
    "state move": MovedStateDocument,
    "state recover": RecoveredStateDocument,
    "state unlock": UnlockedDocument,
    "recover": RecoverDocument,
    "apps": AppsDocument,
    "show": ShowDocument,
    "env": EnvDocument,
    "connect": ConnectDocument,
    "status": ServersDocument,
    "logs": LogsDocument,
    "health": HealthDocument,
    "audit": AuditDocument,
    "usage": UsageDocument,
    "query": QuestionDocument,
    "history": HistoryDocument,
    "serve": ServeDocument,
    "backup": BackupDocument,
    "backups list": ListedSetsDocument,
    "backups show": ShownSetDocument,
    "backups verify": TriedSetsDocument,
    "backups copy": CopiedSetsDocument,
    "backups prune": PruneDocument,
    "restore": RestoreDocument,
    "clone": CloneDocument,
    "expire": ExpireDocument,
    "remove-app": RemoveAppDocument,
    "undo-remove": UndoRemoveDocument,
    "purge": PurgeDocument,
}
"""By command, what it prints when it came to a result; else it prints a failure."""

FAILURE: Final = "failure"
"""The schema of what is printed where the command line names no command."""

WITHOUT_DOCUMENT: Final[Mapping[str, str]] = {}
"""By command that has no document, why."""


def json_schemas() -> dict[str, dict[str, Any]]:
    """By command and under `FAILURE`, the JSON Schema (draft 2020-12) of its document."""
    schemas = {command: _schema(model | FailedRunDocument, command) for command, model in DOCUMENTS.items()}
    return {**schemas, FAILURE: _schema(FailedRunDocument, None)}


def _schema(model: Any, command: str | None) -> dict[str, Any]:
    made = TypeAdapter(model).json_schema()
    for section in (made, *made.get("$defs", {}).values()):
        properties = section.get("properties", {})
        if command is not None and {"version", "command"} <= properties.keys():
            properties["command"] = {**_untitled(properties["command"]), "const": command}
    title = f"multidb {command} --json" if command is not None else "multidb --json"
    return {"$schema": _DIALECT, "title": title, **_untitled(made)}


def _untitled(section: Any) -> Any:
    """Without the titles that pydantic makes of names, which say nothing more than these."""
    if isinstance(section, Mapping):
        return dict(_without_titles(section))
    return [_untitled(item) for item in section] if isinstance(section, list) else section


def _without_titles(section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if key in ("properties", "$defs"):  # names, one of which may be "title"
            yield key, {name: _untitled(item) for name, item in value.items()}
        elif key != "title":
            yield key, _untitled(value)
