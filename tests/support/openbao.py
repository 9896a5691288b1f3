"""A real server for secrets, OpenBao: it has HashiCorp Vault's API, and keeps what it is given in memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dotenv
import pytest
import urllib3

ROOT_TOKEN = "root-of-the-test"


@dataclass(frozen=True)
class Bao:
    """A real server, with its storage in memory."""

    url: str

    def ask(self, method: str, path: str, body: object = None, *, fine: bool = True) -> dict[str, Any]:
        answer = urllib3.request(
            method,
            f"{self.url}/v1/{path}",
            body=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": ROOT_TOKEN},
        )
        assert not fine or answer.status < 300, answer.data
        return json.loads(answer.data) if answer.data.strip() else {}

    def unseal_key(self, folder: Path) -> str:
        """What opens it again when it was sealed, as it has said when it began in this folder."""
        said = re.search(r"Unseal Key: (\S+)", (folder / "bao.log").read_text())
        assert said is not None
        return said[1]

    def token(self, rights: dict[str, list[str]], uses: int = 0) -> str:
        """One that has these rights and no others, by path, for so many requests; 0: for any number."""
        name = f"policy-{time.monotonic_ns()}"
        policy = json.dumps({"path": {path: {"capabilities": verbs} for path, verbs in rights.items()}})
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        answer = self.ask(
            "POST", "auth/token/create", {"policies": [name], "no_default_policy": False, "num_uses": uses}
        )
        return str(answer["auth"]["client_token"])

    def rendered(self, template: Path, token: str) -> dict[str, str | None]:
        """The env file that a real agent makes of a template, with this token."""
        program, folder = _program(), template.parent
        (folder / "agent.token").write_text(token)
        (folder / "agent.hcl").write_text(
            f"""
            exit_after_auth = true
            vault {{ address = "{self.url}" }}
            auto_auth {{
              method "token_file" {{ config = {{ token_file_path = "{folder / "agent.token"}" }} }}
            }}
            template {{
              source = "{template}"
              destination = "{folder / "agent.env"}"
              error_on_missing_key = true
            }}
            """
        )
        subprocess.run(
            [program, "agent", f"-config={folder / 'agent.hcl'}"], check=True, capture_output=True, timeout=60
        )
        return dotenv.dotenv_values(folder / "agent.env", interpolate=False)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Bao]:
    program = _program()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    argv = ["server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT_TOKEN}"]
    argv.append(f"-dev-listen-address=127.0.0.1:{port}")
    with (folder / "bao.log").open("wb") as log:
        process = subprocess.Popen([program, *argv], stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if urllib3.request("GET", f"{url}/v1/sys/health", retries=False, timeout=2).status == 200:
                    break
            assert process.poll() is None, (folder / "bao.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Bao(url)
    finally:
        process.terminate()
        process.wait(20)


def _program() -> str:
    program = shutil.which("bao", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("bao is not on this machine")
    return program
