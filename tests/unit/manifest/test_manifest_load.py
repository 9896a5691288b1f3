"""What a right manifest becomes."""

import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from multidb.errors import ManifestError, UsageError
from multidb.manifest import load
from multidb.model import Enforce, Project, Quota
from multidb.model.options import AppDeploy, Keep
from tests.support.toy_stores import STORES

HEAD = "version: 1\nproject: digi\n"


def read(folder: Path, text: str) -> Project:
    write(folder, "multidb.yaml", text)
    return load(folder / "multidb.yaml", STORES)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(textwrap.dedent(text).encode())
    return path


def server(project: Project, store: str) -> Any:
    """What the manifest says of the one server of a store; its options and address are the store's own."""
    (found,) = (spec for spec in project.servers if spec.store == store)
    return found


def test_an_empty_entry_is_an_app_with_every_store(tmp_path: Path) -> None:
    project = read(tmp_path, HEAD + "apps:\n  lernmi: {}\n  devao:\n")
    assert list(project.apps) == ["lernmi", "devao"]
    for app in project.apps.values():
        assert list(app.stores) == ["tables", "vectors", "cache"]
        assert app.tenant_id == app.id
    assert project.apps["devao"].where == f"{tmp_path}/multidb.yaml:5:3"
    assert (project.name, project.runtime, project.file, project.root) == (
        "digi", "embedded", "multidb.yaml", str(tmp_path),
    )  # fmt: skip


@pytest.mark.parametrize("apps", ["", "apps:\n", "apps: {}\n", "servers:\ndefaults:\ninclude: []\n"])
def test_a_manifest_may_have_no_app(tmp_path: Path, apps: str) -> None:
    project = read(tmp_path, HEAD + apps)
    assert project.apps == {}
    assert server(project, "tables").options.port is None


def test_stores_limits_the_app(tmp_path: Path) -> None:
    app = read(tmp_path, HEAD + "apps: {lernmi: {stores: [cache, tables], tenant_id: lern-mi}}").apps["lernmi"]
    assert set(app.stores) == {"tables", "cache"}
    assert app.tenant_id == "lern-mi"


def test_defaults_hold_where_the_app_says_nothing(tmp_path: Path) -> None:
    project = read(
        tmp_path,
        HEAD
        + """\
defaults:
  tables: {connection_limit: 7, extensions: [ltree]}
  vectors: {collections: {knowledge: {size: 3}}}
apps:
  one: {}
  two: {tables: {connection_limit: 9}, vectors: {collections: {docs: {size: 4}}}}
  three: {tables: {extensions: [vector]}, vectors: {collections: {knowledge: {distance: dot}}}}
""",
    )
    tables = {name: app.stores["tables"] for name, app in project.apps.items()}
    assert [tables[name].connection_limit for name in ("one", "two", "three")] == [7, 9, 7]
    assert [tables[name].extensions for name in ("one", "two", "three")] == [("ltree",), ("ltree",), ("vector",)]
    collections = project.apps["two"].stores["vectors"].collections
    assert {name: kind.size for name, kind in collections.items()} == {"knowledge": 3, "docs": 4}
    changed = project.apps["three"].stores["vectors"].collections["knowledge"]
    assert (changed.size, changed.distance) == (3, "dot")


def test_a_required_option_may_come_from_app_and_defaults_together(tmp_path: Path) -> None:
    text = (
        HEAD
        + "defaults: {vectors: {collections: {docs: {distance: dot}}}}\n"
        + "apps: {aa: {vectors: {collections: {docs: {size: 2}}}}}"
    )
    assert read(tmp_path, text).apps["aa"].stores["vectors"].collections["docs"].size == 2


def test_every_section(tmp_path: Path) -> None:
    project = read(
        tmp_path,
        HEAD
        + """\
runtime: external
servers: {tables: {port: 5433}}
external:
  tables: {url: "tables://x", password: {env: TABLES}}
  vectors: {url: "x"}
  cache: {url: "$HOME", password: {file: f}}
apps:
  lernmi:
    labels: {tier: gold}
    quota: {tables: 5GB, cache: {size: 1.5MiB, enforce: read-only}}
    backup: {every: 1h}
    deploy: {image: "lernmi:1", ports: [8000, 22:22], command: [run, it]}
deploy: {strategy: single, profiles: [backup]}
backup: {every: 12h, to: [a/, b/], keep: {last: 1}, verify: daily}
""",
    )
    assert server(project, "tables").options.port == 5433
    assert server(project, "tables").address.password.env == "TABLES"
    assert server(project, "cache").address.url == "$HOME"  # nothing is taken from the environment
    app = project.apps["lernmi"]
    assert app.labels == {"tier": "gold"}
    assert app.quota == {"tables": Quota(5_000_000_000), "cache": Quota(3 * 1024**2 // 2, Enforce.READ_ONLY)}
    assert app.backup.model_dump(exclude_unset=True) == {"every": "1h"}
    assert app.deploy == AppDeploy(image="lernmi:1", ports=("8000", "22:22"), command=("run", "it"))
    assert (project.deploy.strategy, project.deploy.profiles) == ("single", ("backup",))
    assert project.backup.keep == Keep(last=1, daily=7, weekly=4, monthly=0)


def test_words_that_old_yaml_reads_as_truth_are_text(tmp_path: Path) -> None:
    text = HEAD + 'apps: {aa: {labels: {country: no, on: off, time: 12:30, old: 010}}, "no": {}}'
    project = read(tmp_path, text)
    assert project.apps["aa"].labels == {"country": "no", "on": "off", "time": "12:30", "old": "010"}
    assert "no" in project.apps


def test_anchors_aliases_and_merge_keys_work(tmp_path: Path) -> None:
    text = (
        HEAD
        + "apps:\n  aa: &a {tables: {connection_limit: 3}, stores: [tables]}\n  bb: *a\n"
        + "  cc: {<<: *a, stores: [tables, cache]}\n"
    )
    project = read(tmp_path, text)
    assert [app.stores["tables"].connection_limit for app in project.apps.values()] == [3, 3, 3]
    assert "cache" in project.apps["cc"].stores


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "multidb.yaml").write_bytes("\ufeffversion: 1\r\nproject: digi\r\napps:\r\n  lernmi: {}\r\n".encode())
    assert load(tmp_path / "multidb.yaml", STORES).apps["lernmi"].where.endswith(":4:3")


def test_included_files_bring_apps(tmp_path: Path) -> None:
    write(tmp_path, "apps/lernmi/app.yaml", "lernmi:\n  tables: {connection_limit: 3}\n")
    write(tmp_path, "apps/devao/app.yaml", "# nothing to say\ndevao:\n")
    write(tmp_path, "apps/none/app.yaml", "")
    project = read(tmp_path, HEAD + "include: [apps/*/app.yaml, apps/lernmi/*]\napps: {aa: {}}\n")
    assert list(project.apps) == ["aa", "devao", "lernmi"]
    assert project.apps["lernmi"].where == f"{tmp_path}/apps/lernmi/app.yaml:1:1"


def test_an_overlay_changes_what_it_names(tmp_path: Path) -> None:
    write(tmp_path, "apps/devao/app.yaml", "devao: {tables: {connection_limit: 3, split: true}}\n")
    write(
        tmp_path,
        "multidb.yaml",
        HEAD + "include: [apps/*/*.yaml]\nservers: {tables: {port: 1}}\napps:\n  lernmi: {labels: {a: b}}\n",
    )
    write(
        tmp_path,
        "multidb.prod.yaml",
        "servers: {tables: {port: 2}}\napps: {devao: {tables: {connection_limit: 99}}, lernmi: , extra: {}}\n",
    )
    project = load(tmp_path / "multidb.yaml", STORES, overlay="prod")
    devao = project.apps["devao"].stores["tables"]
    assert (devao.connection_limit, devao.split) == (99, True)
    assert server(project, "tables").options.port == 2
    assert project.apps["lernmi"].labels == {"a": "b"}
    assert project.apps["extra"].where.startswith(f"{tmp_path}/multidb.prod.yaml:2:")


def test_a_mistake_in_an_overlay_points_into_the_overlay(tmp_path: Path) -> None:
    write(tmp_path, "multidb.yaml", HEAD + "apps: {lernmi: {tables: {connection_limit: 3}}}\n")
    write(tmp_path, "multidb.prod.yaml", "apps:\n  lernmi: {tables: {connection_limit: none}}\n")
    with pytest.raises(ManifestError) as caught:
        load(tmp_path / "multidb.yaml", STORES, overlay="prod")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column) == (f"{tmp_path}/multidb.prod.yaml", 2, 39)


@pytest.mark.parametrize(
    ("overlay", "said"), [("stage", "no such manifest"), ("../x", "not the name of an environment")]
)
def test_an_overlay_that_is_not_there(tmp_path: Path, overlay: str, said: str) -> None:
    write(tmp_path, "multidb.yaml", HEAD)
    with pytest.raises(UsageError, match=said):
        load(tmp_path / "multidb.yaml", STORES, overlay=overlay)


def test_a_pooler_of_a_store_is_a_profile_with_an_image(tmp_path: Path) -> None:
    deploy = read(tmp_path, HEAD + "deploy: {profiles: [funnel, backup]}\n").deploy
    assert deploy.profiles == ("funnel", "backup")
    assert deploy.image_of("funnel", "none") == "funnel:3"
    deploy = read(tmp_path, HEAD + "deploy: {funnel_image: 'here/funnel:2'}\n").deploy
    assert deploy.image_of("funnel", "none") == "here/funnel:2"
    assert deploy.image_of("pipe", "pipe:1") == "pipe:1"


def test_no_manifest_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "multidb.yaml", STORES)
    assert "multidb init" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path, STORES)


def test_a_thousand_apps_load_quickly(tmp_path: Path) -> None:
    entry = "  app_{0}:\n    tables: {{connection_limit: {1}}}\n    vectors:\n      collections:\n"
    entry += "        docs: {{size: 3}}\n    cache: {{db: {0}}}\n"
    text = HEAD + "apps:\n" + "".join(entry.format(number, number + 1) for number in range(1000))
    started = time.process_time()
    assert len(read(tmp_path, text).apps) == 1000
    assert time.process_time() - started < 2.0  # 0.3 s when nobody else works here
