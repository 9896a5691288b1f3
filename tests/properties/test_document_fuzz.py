"""Whatever stands in a document that is read back, it is taken as what it says or refused in words that name it."""

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from multidb import files
from multidb.admin_credentials import admin_changes
from multidb.alarms import AlarmKind
from multidb.alternation import alternations
from multidb.audit import record
from multidb.backup.jobs import JobFile
from multidb.backup.journal import Journal
from multidb.backup.repository import Repository
from multidb.backup.sets import MANIFEST, VERIFIED, BackupSet, Verification, stored_path
from multidb.backup.targets.folder import FolderTarget
from multidb.cli.apply import read_plan
from multidb.document import Unreadable, inside
from multidb.errors import MultidbError
from multidb.health import Checked, HealthReport
from multidb.health_history import SLOTS, HealthHistory
from multidb.model import Health, Status
from multidb.notification import LookScope, news
from multidb.renames import former_names, renames
from multidb.runtime.ledger import Ledger
from multidb.secrets import SecretRef
from multidb.sections import SECTIONS
from multidb.state import ProjectState
from multidb.tombstone import tombstones
from multidb.usage import History
from tests.support.examples import some_of

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ID = "20261121T140501Z-1a2b3c"
SHA = "ab" * 32

SET = {
    "format": "multidb set 1",
    "id": ID,
    "project": "shop",
    "app": "ann",
    "made": "2026-11-21T14:05:01+00:00",
    "finished": "2026-11-21T14:06:01+00:00",
    "multidb": "1.0",
    "reason": "asked",
    "absent": {"neo4j": "no Java"},
    "complete": True,
    "consistency": "per-store",
    "quiesced": False,
    "encryption": {"scheme": "age", "recipients": ["age1x"]},
    "declaration": {"stores": ["postgres"], "tenant_id": "ann-1", "labels": {"tier": "gold"}},
    "stores": {
        "postgres": {
            "format": "pg_dump custom",
            "server": "PostgreSQL 18.6",
            "client": "pg_dump 18.6",
            "consistent": False,
            "counts": {"table public.t": 3},
            "fingerprints": {"table public.t": SHA},
            "details": {"extensions": ["vector"], "app": "ann"},
            "files": [
                {
                    "name": "dump.pgc",
                    "stored": "postgres/dump.pgc.zst.age",
                    "bytes": 10,
                    "plain_sha256": SHA,
                    "stored_bytes": 12,
                    "sha256": SHA,
                }
            ],
        }
    },
}
PROOF = {
    "format": "multidb verification 1",
    "set": ID,
    "digest": SHA,
    "when": "2026-11-21T15:00:00+00:00",
    "multidb": "1.0",
    "ok": False,
    "failures": {"postgres": "no"},
    "unproved": {},
}
WHEN = "2026-11-21T14:05:01+00:00"
STATE = {
    "version": 1,
    "ports": {"postgres": 5432},
    "numbers": {"redis": {"ann": 1}},
    "processes": {
        "postgres": {
            "name": "postgres",
            "store": "postgres",
            "folder": "/f",
            "pid": 99,
            "started": 1.5,
            "ports": {"port": 1},
        }
    },
    "skipped": {"neo4j": "no Java"},
    "products": {"redis": "Valkey 9.1.2"},
    "offline": {"neo4j": True},
    "compose": {"volumes": ["a"]},
    "restricted": {"postgres": ["ann"]},
    "issued": {"ann": WHEN},
    "removed": {
        "bob": {
            "phase": "removed",
            "since": WHEN,
            "until": WHEN,
            "backup": ID,
            "edits": [{"file": "multidb.yaml", "before": "a", "after": "b", "entry": {"stores": ["postgres"]}}],
        }
    },
    "closed": {"cat": {"of": "ann", "masked": True}},
    "backup-work": {
        "making": {"ann": {"folder": f"shop/ann/{ID}", "to": ["sets/"]}},
        "paused": {"ann": {}},
        "verifying": {"ann": {"stores": ["postgres"]}},
        "restoring": {
            "ann": {
                "set": ID,
                "of": "ann",
                "target": "sets/",
                "stores": ["postgres"],
                "phase": "exchanging",
                "lasting": ["postgres"],
                "exchanged": ["postgres"],
            }
        },
        "importing": {
            "ann": {"sources": {"postgres": "postgresql://a@h/d"}, "phase": "exchanging", "exchanged": ["postgres"]}
        },
        "following": {
            "ann": {
                "sources": {"postgres": "postgresql://a@h/d"},
                "typed": {"postgres": "env:OLD"},
                "mark": "multidb_1",
                "phase": "following",
                "since": WHEN,
            }
        },
        "copying": {"ann": {"id": ID, "from": "a", "to": ["b"]}},
    },
    "copies": {"postgres": {"app": "ann", "stream": "20261121T140502Z", "base": ID, "at": WHEN, "since": WHEN}},
    "continuous": {
        "postgres": {
            "stream": "20261121T140502Z",
            "identity": "7",
            "last": "000000010000000000000007",
            "snapshot": "7:7:",
            "since": WHEN,
            "when": WHEN,
            "base": WHEN,
            "base_id": ID,
            "failed": {"when": WHEN, "message": "m"},
        }
    },
    "backups": {
        "ann": {
            "newest": ID,
            "when": WHEN,
            "sizes": {"postgres": 3},
            "failed": {"when": WHEN, "message": "m"},
            "verified": WHEN,
            "verified_set": ID,
            "tried": WHEN,
            "bad": {"id": ID, "message": "m"},
        }
    },
    "told": {
        "notify.webhooks[0]": {"drift/ann/": {"since": WHEN, "at": WHEN, "message": "m", "fix": "f", "ended": "yes"}}
    },
    "audit": {"finished": WHEN, "ok": True, "probes": 1, "breaches": 0, "holes": 0, "unproved": 0, "errors": 0},
    "secrets-from": {"age": {"file": "secrets.age"}},
    "alternation": {
        "ann": {"postgres": {"current": "b", "phase": "prepared", "since": WHEN, "issued": {"a": WHEN, "b": WHEN}}}
    },
    "admin-rotation": {"postgres": {"store": "postgres", "phase": "changed", "since": WHEN}},
    "renames": {"eve": {"to": "eva", "phase": "copying", "since": WHEN, "final_set": ID}},
    "moves": {
        "ann": {
            "store": "postgres",
            "phase": "copying",
            "from": {"database": None, "schema": None},
            "to": {"database": "unity", "schema": "ann"},
            "since": WHEN,
            "final_set": ID,
        }
    },
    "renamed": {"names": [{"from": "ada", "to": "ann", "until": WHEN}]},
    "identity": {"id": "0123456789abcdef", "project": "shop"},
    "seen": {"s3://bucket/shop": "0123456789abcdef"},
}
MOVED = {"version": 1, "numbers": {"redis": {"ann": 1}}, "moved": {"to": "s3://bucket/shop"}}
SECRETS = {"version": 1, "secrets": {"ann/postgres/password": "hush-hush-hush"}}
LOOK = {"at": WHEN, "sizes": {"ann": {"postgres": 3}}}
HEALTH = {
    "version": 1,
    "at": WHEN,
    "apps": {"ann": {"postgres": {"status": "healthy", "since": WHEN, "slots": "h-u", "latencies": [1.5, None, None]}}},
}
JOBS = {
    "version": 1,
    "command": "backup",
    "host": "elsewhere",
    "pid": 1,
    "since": WHEN,
    "work": {"ann": {"message": "dumping", "share": 0.5, "at": NOW.isoformat()}},
}
PLAN: dict[str, Any] = {
    "version": 1,
    "command": "plan",
    "adopt": [],
    "apps": ["ann"],
    "stores": None,
    "deep": True,
    "project": "shop",
    "digest": SHA,
    "counts": {"create": 1},
    "servers": [{"server": "postgres", "store": "postgres", "version": "18", "digest": SHA, "isolation": {}}],
    "changes": [
        {"action": "create", "store": "postgres", "server": "postgres", "kind": "role", "name": "x", "app": "ann"}
    ],
}
HOLDER = {"command": "multidb apply", "user": "a@b", "pid": 1, "since": WHEN}

RAW = [
    *[
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        '""',
        '"x"',
        "[]",
        "{}",
        "[[]]",
        '{"a":1}',
        "1e400",
        "-1e400",
        "NaN",
        "Infinity",
    ],
    *["9" * 5000, str(2**63), '"../../.."', '"/etc/passwd"', '"a/../../b"', '"a\\\\b"', '"a\\u0000b"', '"\\ud800"'],
    *['"x\\n"', '"\\u001b[2J"', '"' + "x" * 3000 + '"', "[" * 90_000, '{"a":' * 70 + "1" + "}" * 70, '{"a":1,"a":2}'],
    *[
        '"9999-12-31T23:59:59+00:00"',
        '"0001-01-01T00:00:00+14:00"',
        '"2026-01-01"',
        "1e18",
        "[null]",
        '["x","x"]',
        "//",
    ],
]


@st.composite
def hostile(draw: st.DrawFn, document: Any) -> str:
    """The document's text with accidents: values of other kinds, keys that go or come, bytes that change."""
    found = copy.deepcopy(document)
    raws: dict[str, str] = {}
    for number in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_places(found))))
        act = draw(st.sampled_from(["raw", "raw", "raw", "gone", "new", "twin"]))
        if act == "gone":
            del holder[key]
        elif act == "new" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["x", "../x", "", "a/b", "\u202e", "version", "A" * 300]))] = draw(
                st.sampled_from([1, None, {}, "x"])
            )
        elif act == "twin" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            mark = f"@@{number}@@"
            raws[json.dumps(mark)] = draw(st.sampled_from(RAW))
            holder[key] = mark
        if not list(_places(found)):
            break
    text = json.dumps(found)
    for mark, raw in raws.items():
        text = text.replace(mark, raw)
    if draw(st.booleans()) and draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["", "{", '"', ",", "\ufeff", "}", "\x00"])) + text[at + 1 :]
    return text


def _places(value: Any) -> Any:
    entries = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, below in entries:
        yield value, key
        yield from _places(below)


QUICK = settings(max_examples=some_of(300), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def resigned(text: str) -> str:
    """What whoever may write to a target does after changing a manifest: its digest is right."""
    try:
        body = json.loads(text)
        body.pop("digest", None)
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return json.dumps({**body, "digest": digest})
    except (ValueError, AttributeError, TypeError, RecursionError):
        return text


def test_the_documents_are_good_ones_before_anything_happens_to_them() -> None:
    assert BackupSet.from_json(resigned(json.dumps(SET)), "here").app == "ann"
    proof = Verification.from_json(json.dumps(PROOF))
    assert proof is not None
    assert proof.failures == {"postgres": "no"}
    assert sorted(SECTIONS) == sorted({*STATE, *MOVED} - {"version"}), "every section of the state is tried here"


@QUICK
@given(hostile(SET).map(resigned))
@example(resigned(json.dumps({**SET, "id": "20261121T140501Z-1A2B3C"})))
def test_a_sets_manifest(text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        target = FolderTarget("sets", Path(root))
        good = Path(root, "shop", "ann", "20261121T140502Z-1a2b3c")
        for folder, said in ((good, _good()), (Path(root, "shop", "ann", ID), text.encode("utf-8", "surrogatepass"))):
            folder.mkdir(parents=True)
            (folder / MANIFEST).write_bytes(said)
            (folder / VERIFIED).write_text(json.dumps(PROOF))
        copies = Repository("shop", [target]).copies()
        assert [copy.id for copy in copies] == [good.name, ID]
        assert copies[0].backup_set is not None, "the other one is there, whatever is wrong with this"
        found = copies[1].backup_set
        if found is None:
            assert copies[1].problem
            return
        assert found.to_json()
        assert found.size >= 0
        for store, part in found.parts.items():
            for file in part.files:
                assert file.stored == stored_path(store, file.name, encrypted=bool(found.recipients))
                assert inside(file.stored)
        assert found.consistency
        assert not copies[1].verified


def _good() -> bytes:
    return resigned(json.dumps({**SET, "id": "20261121T140502Z-1a2b3c", "made": "2026-11-21T14:05:02+00:00"})).encode()


@QUICK
@given(hostile(PROOF))
def test_a_proof_of_a_set(text: str) -> None:
    found = Verification.from_json(text)
    assert found is None or found.when.tzinfo is not None


@QUICK
@given(hostile(STATE))
def test_the_state(text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        state = ProjectState(Path(root))
        state.folder.mkdir()
        (state.folder / "state.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        reads: list[Callable[[], object]] = [
            *(lambda name=name: state.read(name) for name in SECTIONS),  # type: ignore[misc]
            lambda: tombstones(state),
            lambda: admin_changes(state),
            lambda: alternations(state),
            lambda: renames(state),
            lambda: former_names(state),
            lambda: record.last(state),
            lambda: Ledger(state).read(),
            lambda: [_told(told) for told in state.read("told").values()],
            lambda: [Journal(state).known(app) for app in ("ann", "bob")],
        ]
        for error in filter(None, map(_refusal, reads)):
            assert "state.json" in (error.where or "")
            assert error.hint
            assert "\x1b" not in error.message
            assert "\n" not in error.message
        if _refusal(lambda: state.read("numbers")) is None:
            held = [number for apps in state.read("numbers").values() for number in apps.values()]
            assert all(type(number) is int and number >= 0 for number in held)
        if _refusal(lambda: state.read("ports")) is None:
            assert all(type(port) is int and 0 < port < 65536 for port in state.read("ports").values())
        if _refusal(lambda: _numbered(state)) is not None:
            return
        assert state.read("numbers")["redis"] == {"ann": 2}


@QUICK
@given(hostile(MOVED))
def test_a_state_that_was_moved(text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        state = ProjectState(Path(root))
        state.folder.mkdir()
        written = text.encode("utf-8", "surrogatepass")
        (state.folder / "state.json").write_bytes(written)
        if (error := _refusal(lambda: _numbered(state))) is None:
            assert "moved" not in json.loads((state.folder / "state.json").read_text())
            return
        assert "state.json" in (error.where or "")
        assert "\x1b" not in error.message + (error.hint or "\x1b")
        assert "\n" not in error.message
        assert (state.folder / "state.json").read_bytes() == written


def _numbered(state: ProjectState) -> None:
    with state.change("numbers") as numbers:
        numbers["redis"] = {"ann": 2}


def _refusal(read: Callable[[], object]) -> MultidbError | None:
    try:
        read()
    except MultidbError as error:
        return error
    return None


def _told(told: Any) -> object:
    return news(told, [], LookScope(frozenset(AlarmKind)), NOW, NOW - NOW)


@QUICK
@given(hostile(SECRETS))
def test_the_secrets(text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        state = ProjectState(Path(root))
        state.folder.mkdir()
        path = state.folder / "secrets.json"
        path.touch(0o600)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        error = _refusal(lambda: state.secrets.get(SecretRef("ann", "postgres", "password")))
        assert error is None or "secrets.json" in (error.where or "")
        assert "hush" not in str(error)


@QUICK
@given(hostile(LOOK))
def test_the_sizes_of_earlier_looks(text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        state = ProjectState(Path(root))
        state.folder.mkdir()
        (state.folder / "usage.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
        looks, note = History(state).looks()
        assert looks or note or not text.strip()


@QUICK
@given(hostile(HEALTH))
@example(json.dumps({**HEALTH, "at": "9999-12-31T23:59:59+00:00"}))
def test_the_history_of_health(text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        state = ProjectState(Path(root))
        state.folder.mkdir()
        path = state.folder / "health.json"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        history = HealthHistory(state)
        history.load()
        assert all(1 <= len(place.slots) <= SLOTS for place in history.places.values())
        check = Checked("bob", "redis", "redis", Health(Status.HEALTHY, "wrote and read", 0.001))
        history.add(HealthReport("shop", (check,), checked_at=NOW))
        kept = HealthHistory(state)
        kept.load()
        assert kept.places == history.places, "what was damaged is in nobody's way"


@QUICK
@given(hostile(JOBS))
def test_the_work_that_is_under_way(text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        state = ProjectState(Path(root))
        state.folder.mkdir()
        (state.folder / "backup-progress.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        for job in JobFile(state).jobs(frozenset(), NOW):
            assert job.share is None or 0 <= job.share <= 1
            assert job.since.tzinfo is not None


@QUICK
@given(hostile(PLAN))
def test_a_saved_plan(text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root, "next.json")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        error = _refusal(lambda: read_plan(path))
        assert error is None or error.where or "store" in error.message or "app id" in error.message


@QUICK
@given(hostile(HOLDER))
def test_who_holds_a_lock(text: str) -> None:
    who, way_on = files._described(text.encode("utf-8", "surrogatepass"))
    assert who.isprintable()
    assert way_on.isprintable()


@pytest.mark.parametrize(
    "path",
    [
        *["", ".", "..", "/", "/etc/passwd", "../x", "a/../b", "a/..", "a//b", "a/", "./a", "a\\b", "..\\x", "a\x00b"],
        *["a\nb", "a\x7fb", "x" * 256, "ü" * 128, "a/" * 600 + "a", "\ud800"],
    ],
)
def test_a_path_that_leaves_its_folder_is_none(path: str) -> None:
    with pytest.raises(Unreadable):
        inside(path)


@given(st.text(max_size=30))
def test_a_path_that_stays_is_found_below_its_folder(path: str) -> None:
    try:
        inside(path)
    except Unreadable:
        return
    assert Path("/root", path).is_relative_to("/root")
    assert ".." not in Path(path).parts
