"""A secret shows nowhere; references, generation, redaction."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from multidb import secrets
from multidb.secrets import MASK, MemorySecretStore, Secret, SecretRef, generate, redact

VALUE = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    "shown", [str, repr, "{}".format, "{:>30}".format, "{!r}".format, lambda s: f"{s}", lambda s: repr([s])]
)
def test_no_way_of_printing_shows_it(shown: object) -> None:
    assert callable(shown)
    text = shown(Secret(VALUE))
    assert VALUE not in text
    assert MASK in text


def test_an_address_hides_its_password_only() -> None:
    address = Secret(f"postgresql://ann_user:{VALUE}@db.example:5432/ann?sslmode=require")
    assert str(address) == "postgresql://ann_user:***@db.example:5432/ann?sslmode=require"
    assert repr(address) == MASK


@pytest.mark.parametrize(
    "odd", ["://x:y@z", f"http://a:{VALUE}/b@c:d@e", f"x {VALUE}", f"a://b:{VALUE}@c@d", f"a://{VALUE}"]
)
def test_what_is_not_quite_an_address_is_hidden_whole(odd: str) -> None:
    assert str(Secret(odd)) == MASK


def test_it_cannot_be_pickled_or_copied_away() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret(VALUE))
    with pytest.raises(TypeError):
        copy.deepcopy(Secret(VALUE))


def test_equal_by_value() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(VALUE + "x")
    assert Secret(VALUE) != VALUE
    assert len({Secret(VALUE), Secret(VALUE)}) == 1


def test_an_empty_secret_is_false() -> None:
    assert not Secret("")


def test_generated_ones_are_long_url_safe_and_different() -> None:
    made = {generate().reveal() for _ in range(50)}
    assert len(made) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", value) for value in made)


@pytest.fixture
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own: other tests have had secrets that are ordinary words."""
    monkeypatch.setattr(secrets, "HELD_VALUES", set())


@pytest.mark.usefixtures("nothing_held")
def test_redaction_covers_every_value_this_process_held() -> None:
    made = generate()
    assert redact(f"FATAL: password {made.reveal()!r} is wrong") == "FATAL: password '***' is wrong"


def test_redaction_hides_the_longer_of_two_overlapping_values_whole() -> None:
    short = Secret("abcdefgh-overlap")
    long = Secret(short.reveal() + "-and-more")
    assert redact(long.reveal()) == MASK


def test_references_are_written_and_read_back() -> None:
    ref = SecretRef("lernmi", "postgres", "user")
    assert SecretRef.parse(str(ref)) == ref
    with pytest.raises(ValueError):
        SecretRef.parse("lernmi/postgres")


def test_the_memory_store_keeps_what_it_is_given() -> None:
    ref = SecretRef("a", "b", "c")
    store = MemorySecretStore({ref: Secret(VALUE)})
    assert store.get(ref) == Secret(VALUE)
    store.delete([ref, ref])
    assert store.get(ref) is None
