"""Tokens as everybody else reads and writes them."""

from __future__ import annotations

import jwt
import pytest

from multidb.provisioners.qdrant.provision.tokens import claims_of, sign, signed_with
from multidb.secrets import Secret

KEY = Secret("a key of at least thirty-two bytes, ü")
CLAIMS = {"access": [{"collection": "ann_knowledge", "access": "rw"}], "exp": 4_000_000_000, "name": 'ü "quoted"'}


def test_a_token_is_one_for_others_and_theirs_for_us() -> None:
    token = sign(CLAIMS, KEY)
    assert jwt.decode(token.reveal(), KEY.reveal(), algorithms=["HS256"]) == CLAIMS
    theirs = Secret(jwt.encode(CLAIMS, KEY.reveal(), algorithm="HS256"))
    assert claims_of(theirs) == claims_of(token) == CLAIMS
    assert signed_with(theirs, KEY)
    assert signed_with(token, KEY)


def test_a_token_that_was_changed_or_signed_with_another_key_is_not_signed() -> None:
    header, claims, signature = sign(CLAIMS, KEY).reveal().split(".")
    _, others, _ = sign({**CLAIMS, "exp": 5_000_000_000}, KEY).reveal().split(".")
    assert not signed_with(Secret(f"{header}.{others}.{signature}"), KEY)
    assert not signed_with(Secret(f"{header}.{claims}.{signature[:-2]}"), KEY)
    assert not signed_with(Secret(f"{header}.{claims}."), KEY)
    assert not signed_with(Secret(f"{header}.{claims}.{signature}"), Secret("another key of thirty-two bytes or more"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "an api key",
        "a.b.c",
        "e30.e30",
        "e30.e30.e30",
        "bnVsbA.bnVsbA.bnVsbA",
        "\udcff.e30.e30",
        jwt.encode(CLAIMS, None, algorithm="none"),
        jwt.encode(CLAIMS, "x" * 64, algorithm="HS512"),
        sign({}, KEY).reveal().rpartition(".")[0],
    ],
)
def test_what_is_no_token_of_ours_says_nothing_and_is_not_signed(text: str) -> None:
    assert claims_of(Secret(text)) is None
    assert not signed_with(Secret(text), KEY)
