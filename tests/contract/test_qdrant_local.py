"""What is special to Qdrant's local mode: a folder, one process at a time, no walls, nothing said twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from multidb.errors import Locked, NotAllowed, ServerDown
from multidb.model import App, Endpoint, Inspection, Server, StoreContext
from multidb.plan import diff
from multidb.provisioners.qdrant import PROVISIONER
from multidb.provisioners.qdrant.provision.options import AppOptions, ServerOptions
from multidb.secrets import MemorySecretStore
from tests.contract.case_qdrant import opened

pytestmark = pytest.mark.server

RICH = {
    "docs": {
        "vectors": {
            "title": {"size": 3, "distance": "dot", "on_disk": True, "datatype": "float16"},
            "body": {"size": 5},
        },
        "sparse": {"words": {"modifier": "idf", "on_disk": True}},
        "strict": {"max_query_limit": 5},
        "quantization": {"type": "scalar"},
        "hnsw": {"m": 0, "payload_m": 16},
        "indexes": {"lang": "keyword"},
        "shard_number": 2,
    },
    "plain": {"size": 4, "distance": "manhattan", "datatype": "uint8"},
    "words": {"sparse": {"only": {}}},
}


HOLD = "import sys, qdrant_client; held = qdrant_client.QdrantClient(path=sys.argv[1]); print('open', flush=True)"


def server(folder: Path) -> Server:
    return Server("qdrant", "qdrant", Endpoint(path=str(folder / "q")), timeout=1.0)


def apps(count: int = 1) -> list[App]:
    return [App(f"app{n}", f"app{n}", {"qdrant": AppOptions(collections=RICH)}) for n in range(count)]


def apply(where: Server, tenants: list[App]) -> int:
    """How many changes it took; asserts that there is none afterwards."""
    secrets = MemorySecretStore()
    with PROVISIONER.connect(where, None, "test") as session:
        context = StoreContext("contract", session.facts, ServerOptions(), server=where)
        wanted = PROVISIONER.desired(tenants, context)
        inspection = Inspection(context, tenants, wanted, secrets)
        changes = diff(wanted, session.inspect(inspection))
        list(session.run([s for change in changes for s in PROVISIONER.statements(change, context)], secrets))
        assert not diff(wanted, session.inspect(inspection))
    return len(changes)


def test_every_option_is_applied_or_not_planned_and_nothing_is_warned(tmp_path: Path) -> None:
    where = server(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert apply(where, apps()) == 3
        assert apply(where, apps()) == 0, "the folder keeps vectors and marks"


def test_other_vectors_are_a_conflict_here_too(tmp_path: Path) -> None:
    where = server(tmp_path)
    apply(where, apps())
    other = [App("app0", "app0", {"qdrant": AppOptions(collections={"plain": {"size": 9}})})]
    with PROVISIONER.connect(where, None, "test") as session:
        context = StoreContext("contract", session.facts, ServerOptions())
        wanted = PROVISIONER.desired(other, context)
        (change,) = diff(wanted, session.inspect(Inspection(context, other, wanted, MemorySecretStore())))
    assert "4 manhattan uint8, the manifest wants 9 cosine" in change.reason


def test_a_lost_mark_is_a_conflict_and_adopting_writes_it_back(tmp_path: Path) -> None:
    where = server(tmp_path)
    apply(where, apps())
    with opened(where.endpoint.path) as client:
        client.update_collection("app0_plain", metadata={"multidb": None})
    with PROVISIONER.connect(where, None, "test") as session:
        context = StoreContext("contract", session.facts, ServerOptions())
        wanted = PROVISIONER.desired(apps(), context)
        inspection = Inspection(context, apps(), wanted, MemorySecretStore())
        assert diff(wanted, session.inspect(inspection))[0].reason.endswith("multidb did not make it")
        (change,) = diff(wanted, session.inspect(inspection), frozenset({"app0"}))
        list(session.run(PROVISIONER.statements(change, context), MemorySecretStore()))
        assert not diff(wanted, session.inspect(inspection))


def test_a_second_process_hears_that_the_folder_is_taken(tmp_path: Path) -> None:
    where = server(tmp_path)
    apply(where, apps())
    holder = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", f"{HOLD}; input()", where.endpoint.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(Locked, match="one process at a time") as refused:
            apply(where, apps())
        assert refused.value.hint
    finally:
        holder.communicate("\n")
    assert apply(where, apps()) == 0


def test_a_run_that_follows_closely_waits_a_moment(tmp_path: Path) -> None:
    where = replace(server(tmp_path), timeout=30.0)
    apply(where, apps())
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", f"{HOLD}; import time; time.sleep(0.5)", where.endpoint.path],
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        assert apply(where, apps()) == 0


def test_a_damaged_folder_is_an_error_in_words(tmp_path: Path) -> None:
    where = server(tmp_path)
    apply(where, apps())
    meta = Path(where.endpoint.path) / "meta.json"
    for text in ("{", "[]", json.dumps({"collections": {"a": {"vectors": "what"}}, "aliases": {}})):
        meta.write_text(text)
        with pytest.raises(ServerDown, match="cannot be opened"):
            apply(where, apps())


def test_a_folder_that_was_only_begun(tmp_path: Path) -> None:
    where = server(tmp_path)
    Path(where.endpoint.path).mkdir()
    (Path(where.endpoint.path) / "meta.json").touch()
    assert apply(where, apps()) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir(mode=0o000)
    with pytest.raises(NotAllowed):
        apply(server(tmp_path), apps())


def made(where: Server) -> int:
    """How many collections the folder has."""
    try:
        return len(json.loads((Path(where.endpoint.path) / "meta.json").read_text())["collections"])
    except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or being written
        return 0


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.rare)])
def test_killed_anywhere_the_next_apply_converges(tmp_path: Path, kills: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    randomly = random.Random(seed)
    begun = 0
    for number in range(60):
        if number >= kills and begun:
            break
        where = server(tmp_path / str(number))
        child = multiprocessing.get_context("fork").Process(target=apply, args=(where, apps(10)))
        child.start()
        enough = randomly.randrange(30)
        while made(where) < enough and child.is_alive():
            time.sleep(0.001)
        child.kill()
        child.join()
        left = apply(where, apps(10))
        begun += 0 < left < 30
        assert apply(where, apps(10)) == 0, f"seed {seed}"
    assert begun, f"seed {seed}: no kill hit an apply that was half done"
