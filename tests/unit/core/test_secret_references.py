"""Variables that name their secrets where they are kept: nothing that is in them means anything to a template."""

from __future__ import annotations

import re

import pytest
import yaml

from multidb.errors import UsageError
from multidb.model.secret_options import AwsSecrets, SecretStoreSpec, VaultSecrets
from multidb.render.env import EnvFormat, is_ours
from multidb.secret_stores.references import reference_text

_VAULT = SecretStoreSpec("vault", VaultSecrets(url="https://vault:8200", mount="kv", path="multidb/digi"))
_AWS = SecretStoreSpec("aws", AwsSecrets(region="eu-central-1", prefix="multidb/digi"))
_ENV = {
    "APP_NAME": "beep_boop",
    "ODD": "it's {{ $HOME }} \\",
    "DATABASE_URL": ["postgresql://u:{", "beep_boop/postgres/password", "@h/{{.x}}'\\"],
    "KEY": ["", "@qdrant-a/qdrant/key", ""],
}


@pytest.mark.parametrize("spec", [_VAULT, _AWS], ids=["vault", "aws"])
def test_the_operator_finds_each_secret_in_its_document(spec: SecretStoreSpec) -> None:
    text = reference_text("beep_boop", _ENV, EnvFormat.EXTERNAL_SECRET, spec)
    assert is_ours(text)
    brace = '{{ "{" }}'
    # The operator's schema (external-secrets.io/v1) was seen to take this; Go's templates and gjson, to read it back.
    assert yaml.safe_load(text) == {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": "beep-boop-databases"},
        "spec": {
            "refreshInterval": "1h0m0s",
            "secretStoreRef": {"kind": "SecretStore", "name": "multidb"},
            "target": {
                "name": "beep-boop-databases",
                "template": {
                    "engineVersion": "v2",
                    "data": {
                        "APP_NAME": "beep_boop",
                        "ODD": f"it's {brace}{brace} $HOME }}}} \\",
                        "DATABASE_URL": f"postgresql://u:{brace}{{{{ .secret2 }}}}@h/{brace}{brace}.x}}}}'\\",
                        "KEY": "{{ .secret1 }}",
                    },
                },
            },
            "data": [
                {
                    "secretKey": "secret1",
                    "remoteRef": {
                        "key": "multidb/digi/servers/qdrant-a",
                        "property": "secrets.\\@qdrant-a/qdrant/key",
                    },
                },
                {
                    "secretKey": "secret2",
                    "remoteRef": {
                        "key": "multidb/digi/apps/beep_boop",
                        "property": "secrets.beep_boop/postgres/password",
                    },
                },
            ],
        },
    }


def test_the_agents_template_is_the_env_file_with_secrets_looked_up() -> None:
    text = reference_text("beep_boop", _ENV, EnvFormat.VAULT, _VAULT)
    assert is_ours(text)
    looked_up = re.sub(
        r"{{ with secret \"(?P<path>[^\"]+)\" }}{{ index .Data.data.secrets \"(?P<name>[^\"]+)\" }}{{ end }}",
        r"<\g<path> \g<name>>",
        text,
    ).replace('{{ "{" }}', "{")
    name = "beep_boop/postgres/password"
    assert looked_up.split("\n")[1:] == [
        "APP_NAME=beep_boop",
        r"ODD='it\'s {{ $HOME }} \\'",
        rf"DATABASE_URL='postgresql://u:{{<kv/data/multidb/digi/apps/beep_boop {name}>@h/{{{{.x}}}}\'\\'",
        "KEY='<kv/data/multidb/digi/servers/qdrant-a @qdrant-a/qdrant/key>'",
        "",
    ]


@pytest.mark.parametrize(
    ("form", "spec"), [(EnvFormat.VAULT, _AWS), (EnvFormat.VAULT, SecretStoreSpec()), (EnvFormat.EXTERNAL_SECRET, None)]
)
def test_what_cannot_be_read_there_is_not_referred_to(form: EnvFormat, spec: SecretStoreSpec | None) -> None:
    with pytest.raises(UsageError, match="secrets are kept in") as refused:
        reference_text("beep_boop", _ENV, form, spec or SecretStoreSpec())
    assert "multidb secrets move" in (refused.value.hint or "")


def test_a_value_whose_secret_cannot_be_told_is_an_error() -> None:
    with pytest.raises(UsageError, match="what is secret in KEY"):
        reference_text("beep_boop", {**_ENV, "KEY": None}, EnvFormat.VAULT, _VAULT)
