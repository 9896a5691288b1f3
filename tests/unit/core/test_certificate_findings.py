"""What `doctor` says of the certificates of a deployment: until when each holds, before and after its end."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from multidb.certificates import issue, new_authority
from multidb.diagnosis import certificate_findings
from multidb.model import Level
from tests.unit.core.deployments import NOW, deployment


@pytest.mark.parametrize(
    ("days", "level", "said"),
    [
        (0, Level.OK, "holds until 2029-02-23"),
        (794, Level.OK, "holds until 2029-02-23"),
        (796, Level.WARNING, "in 29 days"),
        (825, Level.ERROR, "has ended on 2029-02-23"),
    ],
)
def test_the_certificates_of_its_own_authority(tmp_path: Path, days: int, level: Level, said: str) -> None:
    made = deployment(tmp_path)
    made.files(new_secrets=True)
    ends = made.certificates()
    assert set(ends) == {"authority", "postgres", "redis"}
    found = {one.subject: one for one in certificate_findings(made.project, ends, NOW + timedelta(days=days))}
    assert found["certificate postgres"].level is level
    assert said in found["certificate postgres"].message
    assert found["certificate authority"].level is Level.OK
    assert "2036-11-18" in found["certificate authority"].message
    assert bool(found["certificate postgres"].fix) is (level is not Level.OK)


def test_given_certificates_and_files_that_are_none(tmp_path: Path) -> None:
    authority = new_authority("somebody", NOW)
    identity = issue(authority, "postgres", NOW)
    (tmp_path / "ca.pem").write_text(authority.certificate)
    (tmp_path / "cert.pem").write_text(identity.certificate)
    made = deployment(tmp_path, "{cert: cert.pem, key: key.pem, ca: ca.pem}")
    ends = made.certificates()
    assert ends == {"cert.pem": datetime(2029, 2, 23, 12, tzinfo=NOW.tzinfo), "ca.pem": ends["ca.pem"]}
    (tmp_path / "cert.pem").write_text("not a certificate")
    (tmp_path / "ca.pem").unlink()
    found = list(certificate_findings(made.project, made.certificates(), NOW))
    assert [(one.subject, one.level) for one in found] == [
        ("certificate cert.pem", Level.ERROR),
        ("certificate ca.pem", Level.ERROR),
    ]
    assert all("put a new one there" in one.fix for one in found)


def test_without_tls_or_before_anything_was_made_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert deployment(tmp_path, "none").certificates() == {}
    assert deployment(tmp_path).certificates() == {}
