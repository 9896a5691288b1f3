"""Env files: quoted for those who read them, secrets where they belong and nowhere else."""

from __future__ import annotations

import base64
import io
import json
import subprocess

import dotenv
import pytest
import yaml

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


@pytest.mark.parametrize("form", list(EnvFormat))
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
    assert is_ours(env_text("ann", {}, EnvFormat.DOTENV))
    assert not is_ours("DATABASE_URL=by-hand\n")
