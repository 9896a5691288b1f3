"""An app with extensions through the command line: its sets are verified, brought back, and made another app's and a
clone's, on real servers with extensions of our own and of the distribution."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Folder
from tests.support.postgres_extensions import FILES
from tests.support.postgres_servers import Cluster, cluster

pytestmark = pytest.mark.server

_OWN = (
    (
        "INSERT INTO displayed VALUES (7)",
        "GRANT SELECT ON displayed TO ann_readonly",
        "REVOKE ALL ON FUNCTION open_to_all() FROM PUBLIC",
        "GRANT EXECUTE ON FUNCTION open_to_all() TO ann_owner",
    ),
    "SELECT a, relacl::text ~ '{app}_readonly', has_function_privilege('{app}_owner', 'open_to_all()', 'EXECUTE'), "
    "has_function_privilege('{app}_ro', 'open_to_all()', 'EXECUTE') FROM displayed, pg_class "
    "WHERE relname = 'displayed'",
    (7, True, True, False),
    "DELETE FROM displayed; GRANT EXECUTE ON FUNCTION open_to_all() TO PUBLIC",
)
_POSTGIS = (
    (
        "INSERT INTO spatial_ref_sys SELECT 990001, 'ours', 990001, srtext, proj4text FROM spatial_ref_sys "
        "WHERE srid = 3857",
        "SET ROLE ann_owner",
        "CREATE TABLE place (id int, at geometry(Point, 990001))",
        "INSERT INTO place VALUES (1, ST_SetSRID(ST_MakePoint(1, 2), 990001))",
        "CREATE INDEX ON place USING gist (at)",
    ),
    "SELECT count(*), auth_name, ST_AsText(at), has_table_privilege('{app}_rw', 'spatial_ref_sys', 'INSERT'), "
    "has_table_privilege('{app}_ro', 'spatial_ref_sys', 'SELECT') FROM place JOIN spatial_ref_sys s "
    "ON s.srid = ST_SRID(at) GROUP BY 2, 3",
    (1, "ours", "POINT(1 2)", False, True),
    "DROP TABLE place; DELETE FROM spatial_ref_sys WHERE srid > 990000",
)


@pytest.fixture(scope="module", params=[18, pytest.param(15, marks=pytest.mark.rare)])
def served(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(request.param, shipped=FILES) as made:
        yield made


def test_an_app_with_extensions_goes_through_every_command(served: Cluster) -> None:
    postgis = served.sql("SELECT FROM pg_available_extensions WHERE name = 'postgis'") != []
    making, looking, expected, losing = _POSTGIS if postgis else _OWN
    extensions = "postgis" if postgis else "tt_some"
    env = {"ADMIN_PASSWORD": served.password}
    with tempfile.TemporaryDirectory(prefix="extensions-") as name:
        folder = Folder(Path(name), [])
        folder.manifest(
            "version: 1\nproject: maps\nruntime: external\nbackup: {to: [sets/]}\nknown: {postgres: [plat]}\n"
            f"external: {{postgres: {{url: 'postgresql://postgres@127.0.0.1:{served.port}', "
            "password: {env: ADMIN_PASSWORD}}}\n"
            f"apps:\n  ann: {{stores: [postgres], postgres: {{extensions: [{extensions}]}}}}\n"
        )
        folder.ok("apply", "--yes", env=env)
        served.sql(*making, database="ann")
        assert served.sql(looking.format(app="ann"), database="ann") == [expected]
        made = folder.ok("backup", "ann", "--json", env=env).json()
        (verified,) = folder.ok("backups", "verify", "ann", "--json", env=env).json()["sets"]
        assert verified["verified"] is True, made
        for command in (["restore", "ann", "--as", "bob"], ["clone", "ann", "ann_pr"], ["restore", "ann", "--replace"]):
            if "--replace" in command:
                served.sql(losing, database="ann")
            done = folder.run(*command, env=env)
            # 1: walls that are told of; the folder of our own extensions is one of the server's settings
            assert done.code == 0 or (done.code, postgis, "extension_control_path" in done.err) == (1, False, True)
            assert "allowed" not in done.err
        for app in ("ann", "bob", "ann_pr"):
            assert served.sql(looking.format(app=app), database=app) == [expected], app
        assert folder.run("plan", "--check", env=env).code == 0
        audited = folder.run("audit", "--json", env=env)
        holes = [str(hole) for hole in audited.json()["holes"]]
        assert [hole for hole in holes if "extension_control_path" not in hole] == []
        assert audited.code == (1 if holes else 0), audited.err
