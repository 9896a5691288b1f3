"""How a project is run in containers: which servers, what its apps see of them, and the files that say so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from multidb import files
from multidb.admin_credentials import alternate_password
from multidb.alternation import alternates_on
from multidb.errors import Refused, UsageError
from multidb.model import App, Endpoint, Project, StoreContext
from multidb.model.container import Container, poolers, scratch
from multidb.model.options import Certificates
from multidb.numbers import numbers_on
from multidb.provisioners import provisioner
from multidb.render.deployment import BACKUP, CA_MOUNTED, GRAFANA, TOKEN, TlsMaterial, alternate_of, render
from multidb.render.env import RenderedFile, is_ours
from multidb.secrets import Secret, SecretRef, generate
from multidb.state import ProjectState
from multidb.variables import Reached, variables

if TYPE_CHECKING:
    from multidb.certificates import Identity

__all__ = [
    "Deployment",
    "FileState",
    "TOKEN_REF",
    "app_endpoint",
    "containers",
    "secured",
    "unused_containers",
]

TOKEN_REF: Final = SecretRef(f"@{TOKEN}", "monitoring", "token")
"""What callers of `multidb serve` have to know, in the rendered services and on this machine alike."""

_BESIDE_SERVERS: Final = {
    TOKEN: TOKEN_REF,
    GRAFANA: SecretRef(f"@{GRAFANA}", "monitoring", "admin"),
}
_AUTHORITY_REF: Final = SecretRef("@tls", "tls", "authority")
_SUCCESSOR_REF: Final = SecretRef("@tls", "tls", "authority_successor")
"""The authority that takes the other's place: trusted for a year before it signs anything."""
_FORMER_REF: Final = SecretRef("@tls", "tls", "authority_former")
"""The one whose place was taken: trusted until it ends, so that a server which still has a certificate of it is."""
_OF_TLS: Final = re.compile(r"(?:infrastructure|apps/[^/]+)/tls/.*")
_OF_AN_APP: Final = re.compile(r"apps/[^/]+/\.env")


def containers(project: Project) -> list[Container]:
    """The servers that the project's apps need, as containers; none where the servers exist already."""
    if not project.runtime.starts_servers:
        return []
    per_app = project.deploy.strategy == "separate"
    servers_of_all: list[Container] = []
    for spec in project.servers:
        apps = [app.id for app in project.apps_on(spec)]
        describe = provisioner(spec.store).containers
        if apps and describe is not None:
            servers = describe(spec, apps, per_app)
            servers_of_all += servers
            if servers[0].app is not None and not per_app and BACKUP in project.deploy.profiles:
                servers_of_all.append(scratch(servers[0]))
    return servers_of_all


def unused_containers(project: Project) -> list[Container]:
    """The servers that the project's apps would share, and that none of them uses."""
    if not project.runtime.starts_servers or project.deploy.strategy == "separate":
        return []
    described = ((spec, provisioner(spec.store).containers) for spec in project.servers if not project.apps_on(spec))
    return [
        container for spec, describe in described if describe is not None for container in describe(spec, (), False)
    ]


def secured(endpoint: Endpoint, container: Container, ca_file: str) -> Endpoint:
    """The endpoint of a server that speaks TLS, to clients that find the authority's certificate in `ca_file`."""
    trust = {option: value.format(ca_file) for option, value in container.trust.items()}
    return replace(endpoint, tls=True, params={**endpoint.params, **trust})


def app_endpoint(project: Project, container: Container) -> Endpoint:
    """The server as an app in the same network reaches it, with what stands before it."""
    (_, port), *others = container.ports.items()
    params = {option: str(number) for option, number in others}

    def at(host: str, port: int) -> Endpoint:
        endpoint = Endpoint(host=host, port=port, params=params)
        return secured(endpoint, container, CA_MOUNTED) if project.deploy.tls != "none" else endpoint

    pooled = [at(pooler.name, pooler.port) for pooler, _ in poolers([container], project.deploy.profiles).values()]
    return replace(at(container.name, port), pooler=pooled[0] if pooled else None)


class FileState(StrEnum):
    """What a rendered file is compared with the one that is there."""

    CURRENT = "current"
    MISSING = "missing"
    DIFFERENT = "different"


def _shipped_templates() -> Path:
    """The templates that come with multidb: in the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The files of one project.

    Args:
        templates: the folder of templates that comes with multidb.
        clock: the time now, by which certificates are made and renewed.
        user: as ``uid:gid``, whose the project is; by default the owner of its folder.
    """

    project: Project
    state: ProjectState
    templates: Path = field(default_factory=_shipped_templates)
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    user: str = ""

    def files(self, *, new_secrets: bool) -> dict[str, RenderedFile]:
        """Every file, by its path relative to the manifest's folder.

        Args:
            new_secrets: make the admin passwords and certificates that are missing or soon too old, and keep them.
                Without it, files whose secrets are not known here (in CI) are left out.

        Raises:
            UsageError: a template or a given certificate is wrong, or the manifest asks for what cannot be rendered.
                Nothing is kept then.
        """
        servers = [self._with_alternate(server) for server in containers(self.project)]
        refs = {server.server: server.admin_ref for server in servers} | _BESIDE_SERVERS
        refs |= {
            name: SecretRef(f"@{name}", server.store, "admin")
            for name, (_, server) in poolers(servers, self.project.deploy.profiles).items()
        }
        known = {name: self.state.secrets.get(ref) for name, ref in refs.items()}
        known |= {
            alternate_of(server.server): alternate_password(self.state, server.server, server.store)
            for server in servers
            if server.two_passwords
        }
        made = {name: generate() for name, value in known.items() if value is None}
        env = {app.id: self._env(app, servers) for app in self.project.apps.values()} if servers else {}
        trust, issued = self._trust(servers, needed=new_secrets)
        used: set[str] = set()

        def secret(server: str) -> Secret:
            used.add(server)
            return known[server] or made[server]

        user = self.user or owner(self._root)
        rendered = render(self.project, servers, self._templates(), env=env, secret=secret, trust=trust, user=user)
        if not self.project.runtime.in_containers:  # the app's env file is about the servers that it really has
            rendered = {path: file for path, file in rendered.items() if not _OF_AN_APP.fullmatch(path)}
        fresh = {refs[name]: made[name] for name in used & set(made)}
        if new_secrets and (fresh or issued):
            self.state.secrets.put({**fresh, **issued})
        if fresh and not new_secrets:
            rendered = {path: file for path, file in rendered.items() if not file.private}
        if not new_secrets and not issued.keys().isdisjoint({_AUTHORITY_REF, _SUCCESSOR_REF}):
            rendered = {path: file for path, file in rendered.items() if not _OF_TLS.fullmatch(path)}
        return rendered

    def _with_alternate(self, server: Container) -> Container:
        """The container, told to take a second password of its admin's where one is replacing the other."""
        if server.alternate is None:
            return server
        return replace(server, two_passwords=alternate_password(self.state, server.server, server.store) is not None)

    def compare(self, rendered: Mapping[str, RenderedFile]) -> dict[str, FileState]:
        """How each file stands on the disk. A private one that others can read counts as different."""
        states = {}
        for path, file in rendered.items():
            there = files.read_text(self._root / path)
            if there is None:
                states[path] = FileState.MISSING
            elif there != file.text or (file.private and (self._root / path).stat().st_mode & 0o077):
                states[path] = FileState.DIFFERENT
            else:
                states[path] = FileState.CURRENT
        return states

    def write(self, rendered: Mapping[str, RenderedFile]) -> list[str]:
        """Writes what is missing or different, all files or none, and says which.

        Raises:
            Refused: a file stands in the way that multidb did not write.
            UsageError: a folder cannot be written.
        """
        todo = [path for path, state in self.compare(rendered).items() if state is not FileState.CURRENT]
        foreign = [path for path in todo if not is_ours(files.read_text(self._root / path) or "# Written by multidb")]
        if foreign:
            raise Refused(
                "multidb did not write it, so it is not replaced, and nothing was written",
                where=", ".join(foreign),
                hint="move it away, or keep it and put what differs into a template (docs/deploying.md)",
            )
        files.write_all({self._root / path: (rendered[path].text, rendered[path].mode) for path in todo})
        return todo

    @property
    def _root(self) -> Path:
        return Path(self.project.root)

    def _env(self, app: App, servers: list[Container]) -> dict[str, str | Secret]:
        """The app's variables; without its secrets where it has none yet (`multidb apply` makes them)."""
        missing: list[SecretRef] = []

        def secret(ref: SecretRef) -> Secret:
            value = self.state.secrets.get(ref)
            if value is None:
                missing.append(ref)
            return value or Secret("")

        reached = [
            Reached(server.store, app_endpoint(self.project, server), self._context(server))
            for server in servers
            if server.store in app.stores and server.serves(app.id)
        ]
        values = variables(self.project, app, reached, secret)
        if missing:
            return {name: Secret("") if isinstance(value, Secret) else value for name, value in values.items()}
        return values

    def _trust(
        self, servers: Sequence[Container], *, needed: bool
    ) -> tuple[TlsMaterial | None, dict[SecretRef, Secret]]:
        """Who proves what to whom where the manifest asks for TLS; and what had to be made for that just now.

        Args:
            needed: given files have to be there. Otherwise ones made up stand for them, as for an authority not known.
        """
        tls = self.project.deploy.tls
        if tls == "none" or not servers:
            return None, {}
        if self.project.deploy.expose == "none":
            raise UsageError(
                "with expose none, multidb reaches servers by addresses that no certificate can name",
                where=f"{self.project.file}: deploy.tls",
                hint="choose expose: loopback, or tls: none",
            )
        names = [server.name for server in servers]
        names += poolers(servers, self.project.deploy.profiles)
        if tls == "own":
            return self._own(names, self.state.secrets.get)
        if not needed and not all((self._root / path).exists() for path in (tls.cert, tls.key, tls.ca)):
            return self._own(names, lambda _: None)
        return self._given(tls, names), {}

    def _own(
        self, names: Sequence[str], known: Callable[[SecretRef], Secret | None]
    ) -> tuple[TlsMaterial, dict[SecretRef, Secret]]:
        """Certificates of the project's own authority. Another authority means new certificates for all, and who trusts
        the servers has had a year to learn of it: its successor is made that long before, and trusted beside it.
        """
        from multidb.certificates import (  # cryptography: 60 ms
            SUCCEEDED,
            Identity,
            issue,
            names_of,
            new_authority,
            serves,
            valid_until,
        )

        now = self.clock()
        made: dict[SecretRef, Secret] = {}

        def kept(ref: SecretRef) -> Identity | None:
            bundle = known(ref)
            return Identity.parse(bundle) if bundle else None

        authority, successor, former = kept(_AUTHORITY_REF), kept(_SUCCESSOR_REF), kept(_FORMER_REF)
        if successor == authority:
            successor = None
        if authority is None or not serves(authority, authority.certificate, (), now):
            if authority is not None:
                former, made[_FORMER_REF] = authority, authority.bundle()
            useful = successor is not None and serves(successor, successor.certificate, (), now)
            authority, successor = (successor if useful and successor else new_authority(self.project.name, now)), None
            made[_AUTHORITY_REF] = authority.bundle()
        elif successor is None and valid_until(authority.certificate) - now < SUCCEEDED:
            successor = new_authority(self.project.name, now)
            made[_SUCCESSOR_REF] = successor.bundle()
        beside = [one.certificate for one in (successor, former) if one is not None]
        trusted = [authority.certificate, *(one for one in beside if valid_until(one) > now)]
        identities = {}
        for name in names:
            ref = SecretRef("@tls", "tls", name)
            identity = kept(ref)
            if identity is None or not serves(identity, authority.certificate, names_of(name), now):
                identity = issue(authority, name, now)
                made[ref] = identity.bundle()
            identities[name] = identity
        return TlsMaterial("".join(trusted), identities), made

    def forget_certificates(self, servers: Iterable[str]) -> None:
        """Has the next `files` make the certificates of these servers and poolers anew, as if they were due.

        Args:
            servers: by the names of their containers.
        """
        refs = {SecretRef("@tls", "tls", server) for server in servers}
        self.state.secrets.delete(refs & self.state.secrets.refs(_AUTHORITY_REF.owner))

    def replace_authority(self) -> None:
        """Has the next `files` make another authority. The one until now is trusted until `distrust_former`: servers
        that run still have certificates of it."""
        authority = self.state.secrets.get(_AUTHORITY_REF)
        if authority is not None:
            self.state.secrets.put({_FORMER_REF: authority})
        self.state.secrets.delete({_AUTHORITY_REF, _SUCCESSOR_REF} & self.state.secrets.refs(_AUTHORITY_REF.owner))

    def distrust_former(self) -> None:
        """Has the next `files` trust no authority but the one that signs, and its successor."""
        self.state.secrets.delete({_FORMER_REF} & self.state.secrets.refs(_AUTHORITY_REF.owner))

    def certificates(self) -> dict[str, datetime | None]:
        """When each certificate of the deployment ends, in UTC, by whose it is: the authority's, a server's, or a given
        file's; None where it cannot be told. Nothing without TLS; those not made yet are left out.
        """
        from multidb.certificates import Identity, valid_until

        tls, texts = self.project.deploy.tls, dict[str, str]()
        if tls == "none":
            return {}
        if tls == "own":
            refs = self.state.secrets.refs(_AUTHORITY_REF.owner) - {_SUCCESSOR_REF, _FORMER_REF}
            for ref in sorted(refs):
                if (bundle := self.state.secrets.get(ref)) is not None:
                    texts[ref.name] = Identity.parse(bundle).certificate
        else:
            texts = {path: files.read_text(self._root / path) or "" for path in (tls.cert, tls.ca)}
        ends: dict[str, datetime | None] = {}
        for name, text in texts.items():
            try:
                ends[name] = valid_until(text)
            except ValueError:
                ends[name] = None
        return ends

    def _given(self, given: Certificates, names: Sequence[str]) -> TlsMaterial:
        """The certificate that the manifest names, for every server. `UsageError` when apps would refuse it."""
        from multidb.certificates import Identity, names_of, problem

        where = f"{self.project.file}: deploy.tls"
        texts = {}
        for part, path in (("cert", given.cert), ("key", given.key), ("ca", given.ca)):
            text = files.read_text(self._root / path)
            if text is None:
                raise UsageError(f"there is no file {path}", where=f"{where}.{part}")
            texts[part] = text
        identity = Identity(texts["cert"], Secret(texts["key"]))
        wrong = problem(identity, texts["ca"], [host for name in names for host in names_of(name)], self.clock())
        if wrong is not None:
            hint = "one certificate for all servers, with their names, localhost and 127.0.0.1; or tls: own"
            raise UsageError(wrong, where=where, hint=hint)
        return TlsMaterial(texts["ca"], dict.fromkeys(names, identity))

    def _context(self, server: Container) -> StoreContext:
        store = provisioner(server.store)
        apps = [app for app in self.project.apps_with(server.store) if server.serves(app.id)]
        recorded = numbers_on(self.state, server.server)
        numbers = store.allocate(apps, server.facts, recorded) if store.allocate and server.facts else {}
        spec = self.project.spec_of(server.name, server.store, server.app)
        return StoreContext(
            self.project.name,
            server.facts,
            spec.options if spec else None,
            {**recorded, **numbers},
            known=spec.known if spec else frozenset(),
            alternates=alternates_on(self.state, server.store),
        )

    def _templates(self) -> dict[str, str]:
        """The templates that come with multidb, those of stores that do not, and over them those in the project's own
        ``templates/``."""
        templates: dict[str, str] = {}
        stores = (provisioner(store) for store in self.project.stores if self.project.apps_with(store))
        added = [store.templates for store in stores if store.templates is not None]
        for folder in (self.templates, *added, self._root / "templates"):
            for path in sorted(folder.rglob("*.j2")):
                templates[path.relative_to(folder).as_posix()] = files.read_text(path) or ""
        return templates


def owner(folder: Path) -> str:
    """Whose the folder is, as ``uid:gid``."""
    status = folder.stat()
    return f"{status.st_uid}:{status.st_gid}"
