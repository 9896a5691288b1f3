from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from multidb.certificates import Identity, issue, names_of, new_authority, problem, serves
from multidb.secrets import Secret

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
AUTHORITY = new_authority("digi", NOW)
POSTGRES = issue(AUTHORITY, "postgres", NOW)


def parsed(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate.encode())


def test_a_certificate_names_the_server_as_apps_and_as_multidb_call_it() -> None:
    alternatives = parsed(POSTGRES).extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert alternatives.get_values_for_type(x509.DNSName) == ["postgres", "localhost"]
    assert [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert problem(POSTGRES, AUTHORITY.certificate, names_of("postgres"), NOW) is None


def test_an_authority_signs_servers_and_nothing_more() -> None:
    extensions = parsed(AUTHORITY).extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    server = parsed(POSTGRES).extensions.get_extension_for_class(x509.BasicConstraints)
    assert (server.critical, server.value.ca) == (True, False)


def test_nothing_outlasts_its_authority() -> None:
    late = NOW + timedelta(days=3600)
    assert parsed(issue(AUTHORITY, "redis", late)).not_valid_after_utc == parsed(AUTHORITY).not_valid_after_utc


@pytest.mark.parametrize(("days", "fine"), [(0, True), (794, True), (796, False)])
def test_a_certificate_serves_until_thirty_days_before_its_end(days: int, fine: bool) -> None:
    assert serves(POSTGRES, AUTHORITY.certificate, ["postgres"], NOW + timedelta(days=days)) is fine


@pytest.mark.parametrize(
    ("identity", "authority", "names", "days", "words"),
    [
        (POSTGRES, new_authority("digi", NOW).certificate, ["postgres"], 0, "was not signed by the CA"),
        (POSTGRES, AUTHORITY.certificate, ["postgres", "redis", "10.0.0.1"], 0, "does not name redis, 10.0.0.1"),
        (POSTGRES, AUTHORITY.certificate, ["postgres"], 826, "to 2029-02-23 only"),
        (POSTGRES, AUTHORITY.certificate, ["postgres"], -1, "is valid from 2026-11-21"),
        (Identity(POSTGRES.certificate, AUTHORITY.key), AUTHORITY.certificate, [], 0, "the key does not belong"),
        (Identity(POSTGRES.certificate, Secret("x")), AUTHORITY.certificate, [], 0, "the key is not a private key"),
        (Identity("x", POSTGRES.key), AUTHORITY.certificate, [], 0, "the certificate is not one in PEM"),
        (POSTGRES, "x", [], 0, "the CA is not a certificate"),
    ],
)
def test_says_why_clients_would_refuse_a_certificate(
    identity: Identity, authority: str, names: list[str], days: int, words: str
) -> None:
    assert words in str(problem(identity, authority, names, NOW + timedelta(days=days)))


def test_key_and_certificate_are_kept_as_one_and_come_back_as_two() -> None:
    assert Identity.parse(POSTGRES.bundle()) == POSTGRES
    assert str(POSTGRES.bundle()) == "***"
