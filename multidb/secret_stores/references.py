"""The variables of an app as a text that names its secrets where they are kept, for what reads them there by itself:
the External Secrets operator of Kubernetes, the agent of Vault or OpenBao. No value of a secret is in it.

The operator looks a property up in a document with gjson, the agent's templates are consul-template's; both are Go
templates, in which only ``{{`` means something.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from multidb.errors import UsageError
from multidb.model.secret_options import AwsSecrets, SecretStoreSpec, VaultSecrets
from multidb.render.env import EnvFormat, env_header, env_text, yaml_text
from multidb.secret_stores.documents import document_name
from multidb.secrets import SecretRef

__all__ = ["reference_text"]

_BRACE: Final = '{{ "{" }}'  # one by one, since the last of a text may stand before what we write
_STORE: Final = "multidb"
_GJSON: Final = re.compile(r"[^A-Za-z0-9_/-]")  # may mean something in a path of gjson's


@dataclass(frozen=True, slots=True)
class _SecretDocument:
    """Where one owner's secrets are.

    Args:
        key: its name for the operator, without the mount.
        path: as Vault's API has it; None: it is not in Vault.
    """

    key: str
    path: str | None


def reference_text(
    app: str, env: Mapping[str, str | Sequence[str] | None], form: EnvFormat, spec: SecretStoreSpec
) -> str:
    """The variables of an app as text that ends in a newline.

    Args:
        env: for a variable with secrets in it, text and secrets' names in turns (`multidb.answers.parted`).
        form: one that `refers`.

    Raises:
        UsageError: what this form is for cannot read where the secrets are kept.
    """
    for name, value in env.items():
        if value is None:
            raise UsageError(
                f"what is secret in {name} cannot be told from the rest",
                where=f"app {app}",
                hint=f"make new credentials: multidb apply --regenerate {app}",
            )
    if form is EnvFormat.VAULT:
        return _agent_template(app, env, spec)
    return _external_secret(app, env, spec)


def _external_secret(app: str, env: Mapping[str, str | Sequence[str] | None], spec: SecretStoreSpec) -> str:
    refs = sorted({SecretRef.parse(name) for value in env.values() for name in _parts(value)[1::2]})
    keys = {str(ref): f"secret{number}" for number, ref in enumerate(refs, 1)}
    name = f"{app.replace('_', '-')}-databases"
    lines = [
        "apiVersion: external-secrets.io/v1",
        "kind: ExternalSecret",
        "metadata:",
        f"  name: {name}",
        "spec:",
        "  refreshInterval: 1h0m0s",
        f"  secretStoreRef: {{kind: SecretStore, name: {_STORE}}}",
        "  target:",
        f"    name: {name}",
        "    template:",
        "      engineVersion: v2",
        "      data:",
    ]
    for variable, value in env.items():
        text = _filled(_parts(value), lambda ref: f"{{{{ .{keys[ref]} }}}}")
        lines.append(f"        {variable}: {yaml_text(text)}")
    lines.append("  data:")
    for ref in refs:
        document = _document(app, ref, spec, EnvFormat.EXTERNAL_SECRET)
        held = "secrets." + _GJSON.sub(r"\\\g<0>", str(ref))
        remote = f"{{key: {yaml_text(document.key)}, property: {yaml_text(held)}}}"
        lines += [f"    - secretKey: {keys[str(ref)]}", f"      remoteRef: {remote}"]
    return env_header(app, EnvFormat.EXTERNAL_SECRET) + "\n".join(lines) + "\n"


def _agent_template(app: str, env: Mapping[str, str | Sequence[str] | None], spec: SecretStoreSpec) -> str:
    """A template whose result is the env file."""

    def looked_up(name: str) -> str:
        path = _document(app, SecretRef.parse(name), spec, EnvFormat.VAULT).path
        held = f"index .Data.data.secrets {json.dumps(name)}"
        return f"{{{{ with secret {json.dumps(path)} }}}}{{{{ {held} }}}}{{{{ end }}}}"

    lines = []
    for variable, value in env.items():
        if isinstance(value, str):
            text = env_text(app, {variable: value}, EnvFormat.DOTENV).split("\n", 1)[1].removesuffix("\n")
            lines.append(text.replace("{", _BRACE))
        else:
            quoted = [part.replace("\\", "\\\\").replace("'", "\\'") for part in _parts(value)]
            lines.append(f"{variable}='{_filled(quoted, looked_up)}'")
    return env_header(app, EnvFormat.VAULT) + "\n".join(lines) + "\n"


def _parts(value: str | Sequence[str] | None) -> Sequence[str]:
    return [value] if isinstance(value, str) else value or []


def _filled(parts: Sequence[str], action: Callable[[str], str]) -> str:
    """A Go template of text and secrets' names in turns."""
    return "".join(action(part) if at % 2 else part.replace("{", _BRACE) for at, part in enumerate(parts))


def _document(app: str, ref: SecretRef, spec: SecretStoreSpec, form: EnvFormat) -> _SecretDocument:
    name = document_name(ref.owner)
    match spec.options:
        case VaultSecrets(mount=mount, path=path):
            return _SecretDocument(f"{path}/{name}", f"{mount}/data/{path}/{name}")
        case AwsSecrets(prefix=prefix) if form is EnvFormat.EXTERNAL_SECRET:
            return _SecretDocument(f"{prefix}/{name}", None)
    places = "vault" if form is EnvFormat.VAULT else "vault or aws"
    raise UsageError(
        f"secrets are kept in {spec}, and {form} names them in {places}",
        where=f"app {app}",
        hint="move them there: multidb secrets move --to '{vault: {url: ..., mount: ..., path: ...}}'; "
        "with values in it: --format k8s-secret",
    )
