"""The words of multidb as frozen values and protocols. No I/O, no driver.

`core`: apps, servers, resources, changes, statements. `health`, `audit`, `usage`, `archive`: what is found, measured
and kept of them. `figures`: sizes, times and lists in words. `provisioner`: what a store is to the engine.
"""

from multidb.model.archive import Archive, ArchiveReader, ArchiveWriter, Measures, Part, Place, PlaceKind, TableArchive
from multidb.model.audit import Hole, Outcome, Probe, Remark, Search, Searched
from multidb.model.core import (
    Action,
    App,
    Change,
    DerivedName,
    Endpoint,
    Facts,
    FieldChange,
    Finding,
    Inspection,
    Isolation,
    Level,
    Owner,
    Progress,
    Project,
    Resource,
    Server,
    Statement,
    StoreContext,
    Tenant,
    unwatched,
)
from multidb.model.figures import bytes_of, duration_of, listed, size_in_words, time_in_words
from multidb.model.health import Health, Status, worst
from multidb.model.provisioner import Provisioner, Session
from multidb.model.usage import AppUsage, Enforce, Query, Quota, ServerUsage

__all__ = [
    "Action",
    "App",
    "AppUsage",
    "Archive",
    "ArchiveReader",
    "ArchiveWriter",
    "Change",
    "DerivedName",
    "Endpoint",
    "Enforce",
    "Facts",
    "FieldChange",
    "Finding",
    "Health",
    "Hole",
    "Inspection",
    "Isolation",
    "Level",
    "Measures",
    "Outcome",
    "Owner",
    "Part",
    "Place",
    "PlaceKind",
    "Probe",
    "Progress",
    "Project",
    "Provisioner",
    "Query",
    "Quota",
    "Remark",
    "Resource",
    "Search",
    "Searched",
    "Server",
    "ServerUsage",
    "Session",
    "Statement",
    "Status",
    "StoreContext",
    "TableArchive",
    "Tenant",
    "bytes_of",
    "duration_of",
    "listed",
    "size_in_words",
    "time_in_words",
    "unwatched",
    "worst",
]
