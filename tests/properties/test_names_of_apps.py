"""Two apps of one manifest never meet on a server: their names differ, or the manifest is refused."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from multidb.errors import ManifestError
from multidb.model import App, Endpoint, Project, Resource, StoreContext
from multidb.project import load_project
from multidb.provisioners import INCLUDED, provisioner
from multidb.secrets import Secret
from tests.support.facts import FACTS

# Words of which the stores make names themselves, so that one app is called like what another one gets.
WORDS = ["core", "docs", "user", "rw", "db", "prefix", "system", "test"]
NAMED = {
    "postgres": {"role", "database"},
    "neo4j": {"database", "role", "user"},
    "qdrant": {"collection"},
    "redis": {"acl user"},
}

tails = st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map("_".join)
ids = st.one_of(tails, st.sampled_from(["core", "core_docs", "core_docs_user", "core_user", "core_rw", "core_test"]))
collections = st.dictionaries(
    st.one_of(tails, st.sampled_from(["docs", "user", "docs_user"])), st.just({"size": 4}), min_size=1, max_size=3
)
entries = st.fixed_dictionaries(
    {
        "postgres": st.fixed_dictionaries(
            {"roles": st.sampled_from(["simple", "split"]), "test_database": st.booleans()}
        ),
        "qdrant": st.fixed_dictionaries({"collections": collections}),
        "redis": st.fixed_dictionaries({"isolation": st.sampled_from(["database", "prefix"])}),
        "neo4j": st.just({}),
    }
)
manifests = st.dictionaries(ids, entries, min_size=2, max_size=5)


def loaded(apps: Mapping[str, object]) -> Project:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "multidb.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "project": "digi", "runtime": "embedded", "apps": apps}))
        return load_project(path)


def having(store: str, apps: list[App]) -> list[Resource]:
    """What the apps would get on one server, without what is the server's own."""
    found = provisioner(store)
    facts = FACTS[store]
    numbers = found.allocate(apps, facts, {}) if found.allocate else {}
    context = StoreContext("digi", facts, found.server_options(), numbers)
    return [resource for resource in found.desired(apps, context) if resource.app is not None]


@settings(max_examples=40)
@given(manifests)
@example(
    {
        "core": {"qdrant": {"collections": {"x_docs": {"size": 4}}}},
        "core_x": {"qdrant": {"collections": {"docs": {"size": 4}}}},
    }
)
def test_no_two_apps_share_a_name_unless_the_manifest_is_refused(apps: dict[str, object]) -> None:
    try:
        project = loaded(apps)
    except ManifestError as error:
        if "would be named" not in str(error) and "keeps for itself" not in str(error):
            raise
        event("refused")
        return
    event("taken")
    for store in INCLUDED:
        owners: dict[object, str | None] = {}
        for resource in having(store, list(project.apps.values())):
            assert owners.setdefault(resource.key, resource.app) == resource.app, f"{resource.key} is of two apps"
        refs = [spec.ref for app in project.apps.values() for spec in provisioner(store).secrets(app)]
        assert len(refs) == len(set(refs))


@settings(max_examples=40)
@given(ids, collections)
def test_what_an_app_is_named_on_a_server_is_checked_beforehand(app_id: str, kinds: dict[str, object]) -> None:
    """A name that `derived_names` does not list is one whose collision nobody would see."""
    try:
        app = loaded({app_id: {"qdrant": {"collections": kinds}, "postgres": {"roles": "split"}}}).apps[app_id]
    except ManifestError:
        return
    for store, kinds_of in NAMED.items():
        checked = {name.name for name in provisioner(store).derived_names(app)}
        assert {each.name for each in having(store, [app]) if each.kind in kinds_of} <= checked


@settings(max_examples=40)
@given(ids)
@example("prefix")
def test_no_variable_of_an_app_is_written_over_by_another(app_id: str) -> None:
    """Some variables have the app's id in their name, and an id may be any word."""
    try:
        app = loaded({app_id: {}}).apps[app_id]
    except ManifestError:
        return
    found: dict[str, str] = {}
    for store in INCLUDED:
        context = StoreContext("digi", FACTS[store], numbers={app_id: 1})
        address = Endpoint("127.0.0.1", 7)
        for name, value in provisioner(store).env(app, context, address, lambda ref: Secret(str(ref))).items():
            assert name not in found, f"{name} of {store} and of {found[name]}"
            found[name] = store
            if name == "QDRANT_COLLECTION_PREFIX":
                assert value == f"{app_id}_"
