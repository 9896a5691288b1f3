"""Env files: quoted for those who read them, secrets where they belong and nowhere else."""

from __future__ import annotations

import base64
import io
import json
import subprocess

import dotenv
import kubernetes_validate
import pytest
import yaml

from multidb.errors import UsageError
from multidb.render.env import EnvFormat, env_files, env_text, is_ours
from multidb.secrets import Secret

NASTY = [
    "plain",
    "a b",
    "it's",
    'say "hi"',
    "$HOME ${X} $$",
    "100%",
    "back\\slash",
    "ünïcode",
    "#hash",
    "",
    "a=b",
    "tab\there",
]


@pytest.mark.parametrize("value", NASTY)
def test_dotenv_reads_back_what_was_written(value: str) -> None:
    text = env_text("ann", {"X": value, "Y": Secret(value)}, EnvFormat.DOTENV)
    # python-dotenv puts variables into single-quoted values too, unless told not to; Compose takes them literally.
    # What multidb generates has no "$" in it.
    read = dotenv.dotenv_values(stream=io.StringIO(text), interpolate=False)
    assert read == {"X": value, "Y": value}


@pytest.mark.parametrize("value", NASTY)
def test_a_shell_reads_back_what_was_exported(value: str) -> None:
    text = env_text("ann", {"X": Secret(value)}, EnvFormat.EXPORT)
    ran = subprocess.run(["sh", "-c", text + 'printf %s "$X"'], capture_output=True, text=True, check=True)
    assert ran.stdout == value


def test_json_is_a_flat_object() -> None:
    assert json.loads(env_text("ann", {"A": "1", "B": Secret("topsecret")}, EnvFormat.JSON)) == {
        "A": "1",
        "B": "topsecret",
    }


def test_a_kubernetes_secret_can_be_applied() -> None:
    document = yaml.safe_load(env_text("beep_boop", {"A": Secret("värde")}, EnvFormat.K8S_SECRET))
    assert document["metadata"]["name"] == "beep-boop-databases"
    assert base64.b64decode(document["data"]["A"]).decode() == "värde"


@pytest.mark.parametrize("value", [*NASTY, "two\nlines", "yes", "1e3", "0o14", "\u05cd4", "\U0001f600\x7f\x85"])
def test_kubernetes_and_compose_read_back_what_was_written(value: str) -> None:
    env = {"X": value, "Y": Secret(value)}
    document = yaml.safe_load(env_text("beep_boop", env, EnvFormat.K8S_SECRET))
    kubernetes_validate.validate(document, "1.37", strict=True)
    assert {name: base64.b64decode(data).decode() for name, data in document["data"].items()} == {
        "X": value,
        "Y": value,
    }
    compose = yaml.safe_load(env_text("beep_boop", env, EnvFormat.DOCKER_SECRET))
    service = compose["services"]["beep_boop"]
    (given,) = service["secrets"]
    assert service["environment"] == {"X": value.replace("$", "$$"), "Y_FILE": f"/run/secrets/{given['target']}"}
    assert compose["secrets"] == {given["source"]: {"environment": "Y"}}


@pytest.mark.parametrize(
    ("value", "written"),  # each read back by godotenv 1.5.1, which gh has
    [
        ("plain", "plain"),
        ("a b", "'a b'"),
        ("$HOME ${X}", "'$HOME ${X}'"),
        ('say "hi"', "'say \"hi\"'"),
        ("two\nlines", "'two\nlines'"),
        ("it's $X", '"it\'s \\$X"'),
        ("'\\n", '"\'\\\\n"'),
        ("\"'\n", '"\\"\'\\n"'),
        ("a\r\nb", '"a\\r\\nb"'),
    ],
)
def test_gh_reads_back_what_was_written(value: str, written: str) -> None:
    text = env_text("ann", {"X": value, "Y": Secret("pw")}, EnvFormat.GITHUB)
    assert text.split("\n", 1)[1] == f"X={written}\nY=pw\n"


@pytest.mark.parametrize("value", ["a\\", "it's \\", "'\"", '\r"'])
def test_what_no_file_for_gh_can_say_is_handed_over_by_itself(value: str) -> None:
    with pytest.raises(UsageError, match="X ends in a way") as refused:
        env_text("ann", {"X": Secret(value)}, EnvFormat.GITHUB)
    assert refused.value.hint == "hand it over by itself: multidb env ann X | gh secret set X"


@pytest.mark.parametrize("form", [form for form in EnvFormat if not form.refers])
def test_masked_means_masked(form: EnvFormat) -> None:
    text = env_text("ann", {"A": Secret("topsecret")}, form, masked=True)
    assert "topsecret" not in text
    assert base64.b64encode(b"topsecret").decode() not in text


def test_the_example_has_the_names_and_no_secret() -> None:
    files = env_files("ann", {"A": "1", "B": Secret("topsecret")})
    file, example = files["apps/ann/.env"], files["apps/ann/.env.example"]
    assert (file.private, example.private) == (True, False)
    assert "A=1" in example.text
    assert "B=\n" in example.text
    assert "topsecret" not in example.text
    assert "B=topsecret\n" in file.text


def test_a_file_of_ours_is_known_by_its_first_line() -> None:
    for form in EnvFormat:
        assert form in (EnvFormat.EXPORT, EnvFormat.JSON) or form.refers or is_ours(env_text("ann", {}, form))
    assert not is_ours("DATABASE_URL=by-hand\n")
