"""Certificates in the rendered files: made once, renewed in time, given ones checked, nothing kept by a mere look."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from multidb.certificates import Identity, issue, new_authority, problem, valid_until
from multidb.deployment import Deployment
from multidb.errors import UsageError
from multidb.project import load_project
from multidb.render.env import RenderedFile
from multidb.secrets import Secret
from tests.unit.core.deployments import NOW, deployment

CERTIFICATE, KEY, CA = (
    f"infrastructure/tls/{name}" for name in ("postgres/server.crt", "postgres/server.key", "ca.crt")
)


def made(found: dict[str, RenderedFile], *paths: str) -> list[str]:
    return [found[path].text for path in paths]


def test_rendered_again_the_certificates_stay(tmp_path: Path) -> None:
    first = deployment(tmp_path).files(new_secrets=True)
    again = deployment(tmp_path, days=700).files(new_secrets=True)

    assert first == again
    assert first[KEY].mode == 0o600
    assert "tls/.gitignore" in str(list(first))


def test_a_certificate_that_ends_soon_is_renewed_and_the_authority_stays(tmp_path: Path) -> None:
    first = deployment(tmp_path).files(new_secrets=True)
    looked = deployment(tmp_path, days=800)
    looked.write(first)
    states = looked.compare(looked.files(new_secrets=False))
    renewed = deployment(tmp_path, days=800).files(new_secrets=True)

    assert {path for path, state in states.items() if state != "current"} >= {CERTIFICATE, KEY}
    assert states[CA] == "current"
    assert made(renewed, CA) == made(first, CA)
    assert made(renewed, CERTIFICATE, KEY) != made(first, CERTIFICATE, KEY)
    assert deployment(tmp_path, days=801).files(new_secrets=True) == renewed


def test_a_new_authority_means_new_certificates(tmp_path: Path) -> None:
    first = deployment(tmp_path).files(new_secrets=True)
    late = deployment(tmp_path, days=3640).files(new_secrets=True)

    for path in (CA, CERTIFICATE, "infrastructure/tls/redis/ca.crt", "infrastructure/tls/redis/server.key"):
        assert first[path] != late[path]


def authorities(text: str) -> list[str]:
    return [f"-----BEGIN{part}" for part in text.split("-----BEGIN")[1:]]


def test_an_authority_is_trusted_for_a_year_before_it_signs_and_until_it_ends(tmp_path: Path) -> None:
    """So that no client is ever without what it has to trust: not one that reads the file now and then only, and not
    while a server still has a certificate of the former."""
    first = deployment(tmp_path).files(new_secrets=True)
    (former,) = authorities(first[CA].text)
    beside = deployment(tmp_path, days=3300).files(new_secrets=True)
    assert authorities(beside[CA].text)[0] == former
    _, successor = authorities(beside[CA].text)
    assert serves_by(beside, former)
    assert deployment(tmp_path, days=3301).files(new_secrets=True) == beside, "one successor"
    taken = deployment(tmp_path, days=3640).files(new_secrets=True)
    assert authorities(taken[CA].text) == [successor, former]
    assert serves_by(taken, successor)
    assert not serves_by(taken, former)
    assert authorities(deployment(tmp_path, days=3660).files(new_secrets=True)[CA].text) == [successor]
    ends = deployment(tmp_path, days=3660).certificates()
    assert set(ends) == {"authority", "postgres", "redis"}


def serves_by(found: dict[str, RenderedFile], authority: str) -> bool:
    """Whether a client that trusts this authority alone takes the server."""
    identity = Identity(*(found[CERTIFICATE].text, Secret(found[KEY].text)))
    when = valid_until(identity.certificate) - timedelta(days=1)
    return problem(identity, authority, ("postgres",), when) is None


def test_a_look_makes_no_successor(tmp_path: Path) -> None:
    deployment(tmp_path).files(new_secrets=True)
    late = deployment(tmp_path, days=3300)
    assert not [path for path in late.files(new_secrets=False) if "/tls/" in path], "it would be another every time"
    assert late.state.secrets.refs("@tls") == deployment(tmp_path).state.secrets.refs("@tls")


def test_where_the_authority_is_not_known_its_files_are_not_compared(tmp_path: Path) -> None:
    found = deployment(tmp_path).files(new_secrets=False)

    assert not [path for path in found if "/tls/" in path]
    assert "ssl=on" in found["infrastructure/docker-compose.yml"].text
    assert not (tmp_path / ".multidb").exists()


def given(root: Path, *servers: str, days: int = 0) -> None:
    authority = new_authority("elsewhere", NOW)
    identity = issue(authority, servers[0], NOW)
    for name, text in (("cert", identity.certificate), ("key", identity.key.reveal()), ("ca", authority.certificate)):
        (root / f"{name}.pem").write_text(text)


GIVEN = "{cert: cert.pem, key: key.pem, ca: ca.pem}"


def test_a_given_certificate_has_to_name_every_server(tmp_path: Path) -> None:
    given(tmp_path, "postgres")

    with pytest.raises(UsageError, match="does not name redis") as caught:
        deployment(tmp_path, GIVEN).files(new_secrets=True)

    assert "one certificate for all servers" in str(caught.value.hint)
    assert not (tmp_path / ".multidb").exists()


def test_a_given_certificate_is_used_as_it_is(tmp_path: Path) -> None:
    given(tmp_path, "postgres")
    (tmp_path / "multidb.yaml").unlink(missing_ok=True)
    alone = deployment(tmp_path, GIVEN)
    (tmp_path / "multidb.yaml").write_text((tmp_path / "multidb.yaml").read_text().replace(", redis", ""))
    alone = Deployment(load_project(tmp_path / "multidb.yaml"), alone.state, alone.templates, alone.clock)
    found = alone.files(new_secrets=True)

    for path, source in ((CERTIFICATE, "cert.pem"), (KEY, "key.pem"), (CA, "ca.pem")):
        assert (tmp_path / source).read_text().strip() in found[path].text
    assert found[KEY].mode == 0o600
    (tmp_path / "key.pem").unlink()
    assert not [path for path in alone.files(new_secrets=False) if "/tls/" in path], "CI has no key"
    with pytest.raises(UsageError, match=r"there is no file key\.pem"):
        alone.files(new_secrets=True)


def test_an_address_that_no_certificate_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no certificate can name"):
        deployment(tmp_path, more=", expose: none").files(new_secrets=True)
