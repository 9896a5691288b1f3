"""A project and its templates -> the files by which it is run in containers. Pure: nothing is read or written here."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from multidb.errors import UsageError
from multidb.model import App, Project, memory_text
from multidb.model.container import Container, Pooler, poolers
from multidb.render.env import PRIVATE, RenderedFile, env_files
from multidb.secret_source import SecretSource
from multidb.secrets import Secret

if TYPE_CHECKING:
    from multidb.certificates import Identity

from multidb.render.checks import check, template_position, wrong_template

__all__ = [
    "BACKUP",
    "CA_FILE",
    "CA_MOUNTED",
    "GRAFANA",
    "MONITORING",
    "TOKEN",
    "TlsMaterial",
    "alternate_of",
    "render",
    "volumes_beside",
]

MONITORING: Final = "monitoring"
BACKUP: Final = "backup"
_SERVE: Final = "serve"
_PROXY: Final = "proxy"
_SERVING: Final = (MONITORING, _PROXY, _SERVE)  # profiles with which multidb serve runs
_TIMERS: Final = ("crontab", "cronjob.yaml", "multidb-backup.service", "multidb-backup.timer")
TOKEN: Final = "multidb"
"""What `render` calls the token of `multidb serve` when it asks for a secret."""
GRAFANA: Final = "grafana"
"""What `render` calls the password of Grafana's admin when it asks for a secret."""
_MONITORS: Final = frozenset({"multidb", "prometheus", "alertmanager", "grafana"})
_VOLUMES: Final = {
    MONITORING: ("prometheus-data", "alertmanager-data", "grafana-data"),
    _PROXY: ("proxy-data", "proxy-config"),
}
_MONITORING_FILES: Final = {  # beside the compose file: template
    "prometheus/prometheus.yml": "prometheus.yml.j2",
    "prometheus/alerts.yml": "alerts.yml.j2",
    "prometheus/prometheus.sh": "prometheus.sh.j2",
    "alertmanager/alertmanager.yml": "alertmanager.yml.j2",
    "grafana/datasources/multidb.yml": "datasource.yml.j2",
    "grafana/dashboards/multidb.yml": "dashboards.yml.j2",
    "grafana/dashboards/multidb/overview.json": "overview.json.j2",
    "grafana/dashboards/multidb/app.json": "app.json.j2",
}
CA_FILE: Final = "tls/ca.crt"  # beside the compose file
CA_MOUNTED: Final = "/etc/multidb-tls/ca.crt"  # in every container, servers and apps
_PROGRAM: Final = 0o755
_APART: Final[dict[str, Any]] = {
    "profiles": (),
    "serving": (),
    "volumes_beside": (),
}  # where an app has its own servers


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What a deployment with TLS adds: whom everybody trusts, and how each server proves who it is.

    Args:
        authority: certificates in PEM.
        identities: by the server's name as apps call it.
    """

    authority: str
    identities: Mapping[str, Identity]


@dataclass(frozen=True, slots=True)
class _ComposeFile:
    """A compose file: where it is, and which servers and apps stand in it."""

    path: str
    containers: Sequence[Container]
    apps: Sequence[App] = ()
    secrets_file: str = ""  # read by the servers; empty: Compose takes their passwords from the .env beside the file

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def root(self) -> str:
        """The way from its folder to that of the manifest."""
        return "/".join([".."] * len(self.folder.split("/")))


def alternate_of(server: str) -> str:
    """What `render` calls the second password of a server's admin when it asks for a secret."""
    return f"{server}, alternate"


def volumes_beside(profiles: Collection[str]) -> list[str]:
    """The volumes that the services of the manifest's `profiles` have, beside the servers'."""
    return [name for profile, names in _VOLUMES.items() if profile in profiles for name in names]


def render(
    project: Project,
    containers: Sequence[Container],
    templates: Mapping[str, str],
    *,
    env: Mapping[str, Mapping[str, str | Secret]],
    secret: Callable[[str], Secret],
    trust: TlsMaterial | None = None,
    user: str = "",
) -> dict[str, RenderedFile]:
    """Every file of a deployment, by its path relative to the manifest's folder.

    Args:
        containers: the servers to run.
        templates: texts by name.
        env: the variables of each app.
        secret: the admin's password of the server so called; also that of the pooler, `TOKEN` and `GRAFANA`.
        trust: where the manifest asks for TLS.
        user: as ``uid:gid``, whose files the project's are; containers that read secrets of the project run as this.

    Raises:
        UsageError: a template is wrong, gives something that is not a compose file, or puts a secret where others can
            read it; or the manifest asks for what the strategy cannot do.
    """
    _refuse(project, containers)
    rendering = _Rendering(project, templates, secret, trust, user)
    files: dict[str, RenderedFile] = {}
    for place in _places(project, containers) if containers else ():
        files |= rendering.place(place)
    if project.deploy.strategy == "hybrid" or not containers:
        for app in project.apps.values():
            files[f"apps/{app.id}/docker-compose.yml"] = rendering.joining(app)
    for container in containers:
        for path, template in container.scripts.items():
            files[path] = RenderedFile(rendering.text(template, root="..", **container.settings), _PROGRAM)
    if BACKUP in project.deploy.profiles:
        for name in _TIMERS:
            files[f"infrastructure/backup/{name}"] = RenderedFile(rendering.text(f"backup/{name}.j2"))
    files |= rendering.on_the_machine(beside=bool(containers) and project.deploy.strategy != "separate")
    for app_id, variables in env.items():
        files |= env_files(app_id, variables)
    secrets = [rendering.used[name] for name in rendering.used]
    secrets += [identity.key for identity in trust.identities.values()] if trust else []
    secrets += [value for variables in env.values() for value in variables.values() if isinstance(value, Secret)]
    check(files, secrets)
    return dict(sorted(files.items()))


def _refuse(project: Project, containers: Sequence[Container]) -> None:
    profiles = project.deploy.profiles
    if MONITORING in profiles and (project.deploy.strategy == "separate" or not project.runtime.starts_servers):
        raise UsageError(
            "monitoring stands beside shared servers that run in containers, and here there are none",
            where=f"{project.file}: deploy.profiles",
            hint="take monitoring out of deploy.profiles, run multidb serve, and let your own Prometheus scrape it "
            "(docs/monitoring.md)",
        )
    if project.deploy.strategy == "separate" and (standing := list(poolers(containers, profiles))):
        raise UsageError(
            "a pooler stands before one shared server, and with strategy separate every app has its own",
            where=f"{project.file}: deploy.profiles",
            hint=f"take {', '.join(standing)} out of deploy.profiles, or choose strategy hybrid or single",
        )
    served = {(container.store, container.app) for container in containers if not container.scratch}
    if not project.runtime.starts_servers:
        return  # the servers exist already; their addresses were checked with the manifest
    names = {container.name for container in containers} | {"backup"}
    pooled = {container.pooler.name for container in containers if container.pooler is not None}
    names |= pooled | {f"{name}-setup" for name in pooled}
    names |= _MONITORS if MONITORING in profiles else set()
    names |= {"multidb", "proxy"} if {_SERVE, _PROXY} & set(profiles) else set()
    for app in project.apps.values():
        if project.deploy.strategy != "hybrid" and _service(app) in names:
            raise UsageError(
                f"strategy {project.deploy.strategy} cannot run it: a server is called {_service(app)} too",
                where=f"{project.file}: app {app.id}",
                hint="choose strategy hybrid, or give the app another name",
            )
        for store in app.stores:
            if (store, None) not in served and (store, app.id) not in served:
                raise UsageError(
                    f"strategy {project.deploy.strategy} has no server of {store} for it",
                    where=f"{project.file}: app {app.id}",
                    hint=f"take {store} out of the app's stores; multidb cannot run {store} in a container",
                )


def _places(project: Project, containers: Sequence[Container]) -> list[_ComposeFile]:
    if project.deploy.strategy == "separate":
        return [
            _ComposeFile(
                f"apps/{app.id}/docker-compose.yml",
                [container for container in containers if container.app == app.id],
                [app],
                secrets_file="servers/.env",
            )
            for app in project.apps.values()
        ]
    apps = tuple(project.apps.values()) if project.deploy.strategy == "single" else ()
    return [_ComposeFile("infrastructure/docker-compose.yml", containers, apps)]


class _Rendering:
    """One project with its templates. `used` are the secrets asked for, by the name of their server."""

    def __init__(
        self,
        project: Project,
        templates: Mapping[str, str],
        secret: Callable[[str], Secret],
        trust: TlsMaterial | None,
        user: str,
    ) -> None:
        self._project = project
        self._user = user
        self._secret = secret
        self._trust = trust
        self.used: dict[str, Secret] = {}
        import jinja2  # 60 ms, and an app's variables need none of it

        self._jinja = jinja2.Environment(
            loader=jinja2.FunctionLoader(lambda name: (templates[name], name, None) if name in templates else None),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=False,
            autoescape=False,  # noqa: S701 (none of the texts is HTML)
        )
        self._jinja.filters |= {"yaml": _yaml, "interpolated": _interpolated, "memory": memory_text}
        self._jinja.filters["image"] = lambda pooler: project.deploy.image_of(pooler.name, pooler.image)

    def _look_minutes(self) -> int:
        """How often timers look for what is due: what a server's disk takes with it is what was not archived yet."""
        archived = any(self._project.backup.continuous(store).continuous for store in self._project.stores)
        return 1 if archived else 10

    def text(self, template: str, **values: Any) -> str:
        """One template with its values; `UsageError` names the template and the line that is wrong."""
        header = (
            f"# Written by multidb from {self._project.file}; changes made here are lost. "
            f"Make it again: multidb render. Template: {template}"
        )
        common = {
            "header": header,
            "project": self._project.name,
            "network": self._project.name,
            "published": self._project.deploy.expose == "loopback",
            "profiles": self._project.deploy.profiles,
            "volumes_beside": volumes_beside(self._project.deploy.profiles),
            "serving": self._serving(),
            "proxy": self._project.deploy.proxy,
            "backup_image": self._project.deploy.backup_image,
            "backup_mounts": self._backup_mounts,
            "look_minutes": self._look_minutes(),
            "notify_option": ["--notify"] if self._receivers() else [],
            "notify_variables": sorted({receiver.env for receiver in self._receivers() if receiver.env}),
            "tls": self._trust is not None,
            "ca": CA_MOUNTED,
        }
        import jinja2

        try:
            return self._jinja.get_template(template).render({**common, **values}).rstrip("\n") + "\n"
        except jinja2.TemplateNotFound as error:
            raise UsageError(f"there is no template {error.name}", where=f"templates/{template}") from None
        except jinja2.TemplateSyntaxError as error:
            raise wrong_template(error.name or template, error.lineno, error.message or "syntax error") from None
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise wrong_template(*template_position(error, template), str(error)) from None

    def place(self, place: _ComposeFile) -> dict[str, RenderedFile]:
        """A compose file with servers in it, and the files that they need beside it."""
        folder = place.folder
        files = {place.path: RenderedFile(self._compose(place))}
        for container in place.containers:
            for path, template in container.files.items():
                files[f"{folder}/{path}"] = RenderedFile(self.text(template, container=container, root=place.root))
        secrets = {self._name(container, place): self._password(container) for container in place.containers}
        for container in place.containers:
            if container.two_passwords and container.alternate is not None:
                name = container.alternate.name if place.secrets_file else container.alternate_variable
                secrets[name] = self._used(alternate_of(container.server))
        for pooler, container in self._poolers(place).values():
            secrets[pooler.secret] = self._used(pooler.name)
            for path, template in pooler.files.items():
                text = self.text(template, container=container, root=place.root)
                files[f"{folder}/{path}"] = RenderedFile(text)
        if self._serving() and not place.secrets_file:
            secrets["MULTIDB_TOKEN"] = self._used(TOKEN)
        if MONITORING in self._project.deploy.profiles:
            secrets["GRAFANA_PASSWORD"] = self._used(GRAFANA)
            for path, template in _MONITORING_FILES.items():
                text = self.text(f"monitoring/{template}", root=place.root)
                files[f"{folder}/monitoring/{path}"] = RenderedFile(text)
        if self._trust is not None:
            files |= {f"{folder}/{path}": file for path, file in self._tls(self._trust, place).items()}
        env = f"{folder}/{place.secrets_file or '.env'}"
        values = {"compose_file": place.path, "separate": bool(place.secrets_file), "root": place.root}
        values["user"] = self._user if self._serving() or BACKUP in self._project.deploy.profiles else ""
        shown = {name: value.reveal() for name, value in secrets.items()}
        files[env] = RenderedFile(self.text("env.j2", secrets=shown, **values), PRIVATE)
        hidden = dict.fromkeys(secrets, "")
        files[f"{env}.example"] = RenderedFile(self.text("env.j2", secrets=hidden, **values))
        return files

    def _tls(self, trust: TlsMaterial, place: _ComposeFile) -> dict[str, RenderedFile]:
        """The certificates of a place, by their path beside its compose file: each server can read its own only."""
        authority = RenderedFile(self.text("tls/certificate.j2", pem=trust.authority))
        rendered = {CA_FILE: authority, "tls/.gitignore": RenderedFile(self.text("tls/gitignore.j2"))}
        users = {container.name: container.users for container in place.containers}
        files = {container.name: container.tls_files for container in place.containers}
        for pooler, _ in self._poolers(place).values():
            users[pooler.name], files[pooler.name] = pooler.users, pooler.tls_files
        for name, tls_files in files.items():
            identity, folder = trust.identities[name], f"tls/{name}"
            rendered[f"{folder}/ca.crt"] = authority
            rendered[f"{folder}/server.crt"] = RenderedFile(self.text("tls/certificate.j2", pem=identity.certificate))
            key = self.text("tls/certificate.j2", pem=identity.key.reveal())
            rendered[f"{folder}/server.key"] = RenderedFile(key, PRIVATE)
            for path, template in tls_files.items():
                rendered[f"{folder}/{path}"] = RenderedFile(self.text(template, users=users[name], root=place.root))
        return rendered

    def on_the_machine(self, *, beside: bool) -> dict[str, RenderedFile]:
        """What has `multidb serve`, and a proxy before it, run by the machine itself.

        Args:
            beside: the proxy is a service beside the servers.
        """
        profiles, files = self._project.deploy.profiles, {}
        proxied = _PROXY in profiles and not beside
        if _SERVE in profiles or proxied:
            values = {"proxied": proxied, "user": self._user.partition(":")}
            unit = self.text("serve/multidb-serve.service.j2", **values)
            files["infrastructure/serve/multidb-serve.service"] = RenderedFile(unit)
        if _PROXY in profiles:
            caddyfile = self.text("proxy/Caddyfile.j2", beside=beside)
            files["infrastructure/proxy/Caddyfile"] = RenderedFile(caddyfile)
        return files

    def joining(self, app: App) -> RenderedFile:
        """The compose file of an app whose servers run elsewhere."""
        joining = self._project.runtime.starts_servers
        values = {
            "app": self._app(app, ".", ()),
            "root": "../..",
            "joining": joining,
            "ca_file": f"../../infrastructure/{CA_FILE}" if self._trust and joining else "",
        }
        return RenderedFile(self.text("app.docker-compose.yml.j2", **values))

    def _compose(self, place: _ComposeFile) -> str:
        names = ", ".join(container.name for container in place.containers)
        about = f"The servers {names}" if not place.apps else f"The servers {names} and the apps on them"
        if place.secrets_file:
            about = f"The app {place.apps[0].id} with servers of its own"
        apps = []
        for app in place.apps:
            folder = "." if place.secrets_file else f"{place.root}/apps/{app.id}"
            serving = [
                container.name
                for container in place.containers
                if container.store in app.stores and container.serves(app.id)
            ]
            serving += [name for name, (_, server) in self._poolers(place).items() if server.store in app.stores]
            apps.append(self._app(app, folder, serving))
        network = f"{self._project.name}-{place.apps[0].id}" if place.secrets_file else self._project.name
        return self.text(
            "docker-compose.yml.j2",
            about=about + ".",
            containers=place.containers,
            poolers=list(self._poolers(place)),
            apps=apps,
            root=place.root,
            secrets_file=place.secrets_file,
            joining=True,
            ca_file=f"./{CA_FILE}" if self._trust else "",
            # Services beside the servers stand where all servers are; of the profiles, the timers are left.
            **(_APART | {"network": network} if place.secrets_file else {}),
        )

    def _app(self, app: App, folder: str, needs: Sequence[str]) -> dict[str, Any]:
        return {
            "id": app.id,
            "service": _service(app),
            "folder": folder,
            "needs": needs,
            "image": app.deploy.image,
            "command": app.deploy.command,
            "ports": [_loopback(port) for port in app.deploy.ports],
        }

    def _poolers(self, place: _ComposeFile) -> dict[str, tuple[Pooler, Container]]:
        return poolers(place.containers, self._project.deploy.profiles)

    def _serving(self) -> list[str]:
        return [profile for profile in _SERVING if profile in self._project.deploy.profiles]

    def _backup_mounts(self, root: str) -> list[str]:
        """The folders outside of the project that sets are written to, in the container where the manifest says."""
        named = [
            *self._project.backup.to,
            *(to for app in self._project.apps.values() for to in app.backup.to or ()),
        ]
        folders = dict.fromkeys(folder.rstrip("/") for folder in named if "://" not in folder)
        outside = [folder for folder in folders if folder.startswith(("/", "../"))]
        return [
            f"{folder}:{folder}" if folder.startswith("/") else f"{root}/{folder}:/project/{folder}"
            for folder in outside
        ]

    def _receivers(self) -> list[SecretSource]:
        """Where the addresses of those who are told come from."""
        notify = self._project.notify
        return [*(hook.url for hook in notify.webhooks), *([notify.heartbeat] if notify.heartbeat else [])]

    def _name(self, container: Container, place: _ComposeFile) -> str:
        return container.secret.name if place.secrets_file else container.variable

    def _password(self, container: Container) -> Secret:
        return Secret(container.secret.form.format(self._used(container.server).reveal()))

    def _used(self, server: str) -> Secret:
        self.used[server] = self._secret(server)
        return self.used[server]


def _service(app: App) -> str:
    return app.id.replace("_", "-")


def _yaml(value: Any) -> str:
    """A value as YAML on one line, with ``$`` as an ordinary character."""
    return json.dumps(value, ensure_ascii=False).replace("$", "$$")


def _interpolated(container: Container) -> str:
    return f'"${{{container.variable}:?multidb render writes it to .env}}"'


def _loopback(port: str) -> str:
    """A published port of an app; without an address it is one of this machine only."""
    return f"127.0.0.1:{port}" if port.count(":") == 1 else f"127.0.0.1:{port}:{port}" if ":" not in port else port
