"""What a user installs: a wheel and an sdist that are the same wherever they are built, and that work in an environment
with nothing else in it, beside another project's package of this name too."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from multidb import DISTRIBUTION
from tests.support.command import REPOSITORY

pytestmark = pytest.mark.slow

MANIFEST = """\
version: 1
project: shop
runtime: compose
apps:
  lernmi: {}
deploy: {profiles: [backup, monitoring, pgbouncer]}
"""
VERSION = version(DISTRIBUTION)
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def build(source: Path, into: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(into)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return into


def copy_of_the_sources(into: Path) -> Path:
    """What git would commit, in another folder."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (REPOSITORY / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, into / name)  # new times, and the modes of this process
            if os.access(REPOSITORY / name, os.X_OK):
                (into / name).chmod(0o700)
    return into


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def built(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"multidb_cli-{VERSION}-py3-none-any.whl"


def test_a_build_is_the_same_anywhere(sources: Path, built: Path, tmp_path: Path) -> None:
    """In another folder, with other times and another umask; the wheel from the sdist, too."""
    before = os.umask(0o077)
    try:
        other = copy_of_the_sources(tmp_path / "elsewhere")
        again = build(other, tmp_path / "again")
        with tarfile.open(built / f"multidb_cli-{VERSION}.tar.gz") as archive:
            archive.extractall(tmp_path / "unpacked", filter="data")
        (unpacked,) = (tmp_path / "unpacked").iterdir()
        from_sdist = build(unpacked, tmp_path / "from-sdist")
    finally:
        os.umask(before)
    assert digests(again) == digests(built)
    name = f"multidb_cli-{VERSION}-py3-none-any.whl"
    assert digests(from_sdist)[name] == digests(built)[name]
    (other / "multidb" / "errors.py").write_text("")  # the control
    assert not digests(build(other, tmp_path / "changed")).items() & digests(built).items()


def test_the_wheel_has_what_is_used_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    shipped = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "templates").rglob("*") if path.is_file()}
    code = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "multidb").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    info = f"multidb_cli-{VERSION}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == code | {f"multidb/{name}" for name in shipped}
    assert {"multidb/py.typed", f"{info}licenses/LICENSE"} <= names


class Environment:
    """A virtual environment with the wheel and what it needs, and a project's folder."""

    def __init__(self, folder: Path, python: str, wheel: Path) -> None:
        self.bin = folder / "venv" / "bin"
        self.project = folder / "project"
        self.project.mkdir(parents=True)
        self.find_links = wheel.parent
        self.uv("venv", "--quiet", "--python", python, str(folder / "venv"))
        self.uv("pip", "install", "--quiet", "--python", str(self.bin / "python"), str(wheel))

    def uv(self, *arguments: str) -> None:
        env = self.variables(os.environ["PATH"])
        program = Path(sys.executable).with_name("uv")
        done = subprocess.run([program, *arguments], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def variables(self, path: str) -> dict[str, str]:
        """Those of this process without what leads to this checkout; the index may be a mirror."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        links = f"{os.environ.get('UV_FIND_LINKS', '')} {self.find_links}".strip().replace(" ", ",")
        return {**kept, "PATH": path, "NO_COLOR": "1", "UV_FIND_LINKS": links, "UV_PYTHON_DOWNLOADS": "never"}

    def shell(self, command: str, code: int = 0) -> str:
        """What a command prints, in the project's folder, with the environment's programs before all others."""
        path = f"{self.bin}:{Path(sys.executable).parent}:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.project, env=self.variables(path), capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{command}: exit {done.returncode}\n{said}"
        assert "Traceback" not in said
        return said


def python_of(version: str) -> str:
    """A Python of that version on this machine."""
    if version == RUNNING:
        return sys.executable
    candidates = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for candidate in filter(None, candidates):
        asked = subprocess.run([str(candidate), "-c", "import sys; print(sys.version)"], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.startswith(f"{version}."):
            return str(candidate)
    pytest.skip(f"no Python {version} on this machine")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("environment")
    yield Environment(folder, sys.executable, wheel)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "python", [pytest.param(python, marks=() if python == RUNNING else pytest.mark.rare) for python in PYTHONS]
)
def test_it_works_where_nothing_else_is_installed(
    python: str, wheel: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Installed as a user installs it: what it needs comes with it, templates and all."""
    if python == RUNNING:
        environment: Environment = request.getfixturevalue("environment")
    else:
        environment = Environment(tmp_path, python_of(python), wheel)
    assert environment.shell("multidb --version") == f"multidb {VERSION} (multidb-cli)\n"
    assert f"Python {python}" in environment.shell("python --version")
    environment.shell("multidb init && multidb validate && multidb schema >schema.json")
    assert f"multidb-cli {VERSION}" in environment.shell("python -m multidb doctor")
    (environment.project / "multidb.yaml").write_text(MANIFEST)
    environment.shell("multidb render")
    environment.shell("multidb render --check")
    rendered = {str(path.relative_to(environment.project)) for path in environment.project.rglob("*") if path.is_file()}
    assert {"infrastructure/docker-compose.yml", "scripts/init-multiple-databases.sh"} <= rendered
    assert environment.shell("python -c 'import multidb.client as c; print(c.__file__)'").startswith(
        str(environment.bin.parent)
    )


def test_a_hint_installs_what_is_missing(environment: Environment) -> None:
    """The command that is named, typed as it stands."""
    said = environment.shell("multidb serve --show-token", code=2)
    hint = re.search(r"^  (.*install.*'multidb-cli\[serve\]')$", said, re.MULTILINE)
    assert hint is not None, said
    environment.shell(hint[1])
    assert len(environment.shell("multidb serve --show-token").strip()) > 20


def test_another_projects_package_of_this_name_is_told(environment: Environment, tmp_path: Path) -> None:
    """Installed over ours, and taken away again: both leave ours not whole, and the commands that are named mend it."""
    other = tmp_path / "multidb-0.1.4-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("multidb/__init__.py", "__version__ = '0.1.4'\n")
        info = "multidb-0.1.4.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: multidb\nVersion: 0.1.4\nSummary: Another\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        names = ("multidb/__init__.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    pip = f"uv pip {{}} --quiet --python {environment.bin}/python"
    environment.shell("rm -f multidb.yaml && multidb init")
    environment.shell(f"{pip.format('install')} --reinstall {other}")
    assert "is not this tool's" in environment.shell("multidb doctor", code=2)
    environment.shell(f"{pip.format('uninstall')} multidb")
    assert "is not this tool's" in environment.shell("multidb --version", code=2)
    environment.shell(f"{pip.format('install')} --reinstall --no-deps multidb-cli")
    environment.shell("multidb doctor")

    lost = Path(environment.shell("python -c 'import multidb; print(multidb.__path__[0])'").strip()) / "ports.py"
    text = lost.read_text()
    lost.unlink()
    for command in ("doctor", "plan"):
        said = environment.shell(f"multidb {command}", code=2)
        assert "multidb is not installed whole" in said
        assert "--force-reinstall multidb-cli" in said
    lost.write_text(text + "#")
    assert "multidb/ports.py of multidb-cli" in environment.shell("multidb doctor", code=1)
    lost.write_text(text)
    with (environment.bin / "multidb").open("a") as command:
        command.write("# written anew, as pipx does\n")
    environment.shell("multidb doctor")
