"""The files of a deployment, for each strategy and profile, to be read in review; `MULTIDB_UPDATE_GOLDEN=1` writes them
anew. Every compose file among them is accepted by a validator of the Compose specification, and by a real Compose.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from compose_spec import PyCompose

from multidb.project import load_deployment
from multidb.render.env import RenderedFile
from tests.golden.deployments_of_shop import CASES, deployment


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, tmp_path_factory.mktemp(request.param)


@pytest.fixture(scope="module")
def rendered(case: tuple[str, Path]) -> dict[str, RenderedFile]:
    made = deployment(case[1], CASES[case[0]])
    found = made.files(new_secrets=True)
    made.write(found)
    return found


def test_the_files_are_as_reviewed(case: tuple[str, Path], rendered: dict[str, RenderedFile]) -> None:
    text = "".join(
        f"{'=' * 20} {path} ({file.mode:o})\n{file.text}"
        for path, file in rendered.items()
        if not path.startswith("scripts/") and not path.endswith(".json")  # the same everywhere, and committed
    )
    text = re.sub(r"(?s)-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", r"(a \1, another in each project)", text)
    text = re.sub(r"(?m)^MULTIDB_USER=\d+:\d+$", "MULTIDB_USER=(the owner)", text)
    text = re.sub(r"(?m)^(User|Group)=\d+$", r"\1=(the owner's)", text)
    golden = Path(__file__).parent / "deployments" / f"{case[0]}.txt"
    if os.environ.get("MULTIDB_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_compose_specification_allows_every_compose_file(rendered: dict[str, RenderedFile]) -> None:
    composed = {path: file.text for path, file in rendered.items() if path.endswith("docker-compose.yml")}
    assert composed
    for path, text in composed.items():
        text = re.sub(r"\$\{MULTIDB_USER:[^}]*\}", "1000:1000", text)  # a variable may stand there, for Compose itself
        assert PyCompose.from_yaml(text).service_names(), path
        with pytest.raises(ValueError, match="restrat"):  # the control: the validator sees a mistake
            PyCompose.from_yaml(text.replace("restart:", "restrat:", 1))


def _compose() -> list[str]:
    if shutil.which("docker") is not None:
        ran = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if ran.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose") is not None:
        return ["docker-compose"]
    pytest.skip("no Docker Compose on this machine (Debian: apt-get install docker-compose)")


def test_a_real_compose_accepts_every_compose_file(case: tuple[str, Path], rendered: dict[str, RenderedFile]) -> None:
    command = _compose()
    for path in rendered:
        if path.endswith("docker-compose.yml"):
            ran = subprocess.run(
                [*command, "config"],
                cwd=case[1] / Path(path).parent,
                capture_output=True,
                text=True,
                timeout=60,
                env={**os.environ, "NEO4J_ACCEPT_LICENSE_AGREEMENT": "eval"},
                check=False,
            )
            assert ran.returncode == 0, f"{path}: {ran.stderr}"
            if "profiles" not in path and "infrastructure" in path:
                assert "secret.postgres.postgres.admin" in ran.stdout, "the password comes from the env file"
            if "digi_core" in path or case[0].startswith("single"):
                assert "a $$b" in ran.stdout, "a dollar in a command stays one"


def test_no_secret_is_in_a_file_that_others_may_read(rendered: dict[str, RenderedFile]) -> None:
    private = {path for path, file in rendered.items() if re.search(r"secret\.|PRIVATE KEY", file.text)}
    assert private
    assert {rendered[path].mode for path in private} == {0o600}
    ignored = {path.rpartition("/tls/")[0] + "/tls/.gitignore" for path in private if "/tls/" in path}
    assert ignored <= rendered.keys()
    assert {path.rpartition("/")[2] for path in private if "/tls/" not in path} == {".env"}, "the name in .gitignore"


def test_rendered_again_it_is_the_same(case: tuple[str, Path], rendered: dict[str, RenderedFile]) -> None:
    made = load_deployment(case[1] / "multidb.yaml")
    again = made.files(new_secrets=False)
    assert {path: file.text for path, file in again.items()} == {path: file.text for path, file in rendered.items()}
    assert set(made.compare(again).values()) == {"current"}
    for one, other in itertools.pairwise(again):
        assert one < other
