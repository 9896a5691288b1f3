"""Libraries whose profile the manifest names, with credentials and variables as they are issued, on a real Valkey."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.command import Folder, program_output, project_folder

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

MANIFEST = """\
version: 1
project: profiles
runtime: embedded
apps:
  jobs: {stores: [redis], redis: {profile: celery}}
  pjobs: {stores: [redis], redis: {profile: celery, isolation: prefix}}
  plain: {stores: [redis]}
  queue: {stores: [redis], redis: {profile: rq}}
  bull: {stores: [redis], redis: {profile: bullmq}}
  pbull: {stores: [redis], redis: {profile: bullmq, isolation: prefix}}
"""

CELERY = """\
import os, sys
from celery import Celery
prefix = {"global_keyprefix": os.environ["CELERY_KEY_PREFIX"]}
app = Celery("jobs", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.result_backend_transport_options = prefix
app.conf.broker_transport_options = prefix if os.environ.get("BROKER_PREFIX") else {}
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_send_task_events = True

@app.task
def add(a, b):
    return a + b
"""
CELERY_CLIENT = """\
from jobs import add, app
print(add.delay(1, 2).get(timeout=90))
print(sorted(app.control.inspect(timeout=60, limit=1).ping().values(), key=str))
add.apply_async((1, 2), queue="nobody_listens_here")
with app.connection_for_write() as connection:
    print(connection.default_channel.queue_purge("nobody_listens_here"))
"""
RQ = """\
import os, sys
import redis
from rq import Queue, SimpleWorker
connection = redis.Redis.from_url(os.environ["REDIS_URL"])
job = Queue("work", connection=connection).enqueue("operator.add", 1, 2)
SimpleWorker(["work"], connection=connection).work(burst=True)
job.refresh()
print(job.return_value())
"""
BULLMQ = """\
const { Queue, Worker, QueueEvents } = require("bullmq");
const connection = { url: process.env.REDIS_URL, maxRetriesPerRequest: null };
const options = { connection, prefix: process.env.BULLMQ_PREFIX };
(async () => {
  const queue = new Queue("work", options), events = new QueueEvents("work", options);
  const worker = new Worker("work", async (job) => job.data.a + job.data.b, options);
  await events.waitUntilReady();
  const job = await queue.add("add", { a: 1, b: 2 });
  console.log(await job.waitUntilFinished(events, 60000));
  await worker.close();
  await queue.obliterate({ force: true });
  await events.close();
  await queue.close();
})().catch((error) => { console.error(error.message); process.exit(1); });
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("profiles-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@contextmanager
def _celery_worker(at: Path, env: Mapping[str, str]) -> Iterator[Path]:
    (at / "jobs.py").write_text(CELERY)
    log = at / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "jobs", "worker", "--pool", "solo", "-n", "one@here", "-l", "INFO"]
    with log.open("wb") as out:
        worker = subprocess.Popen(command, cwd=at, env={**os.environ, **env}, stdout=out, stderr=out)
        try:
            yield log
        finally:
            worker.terminate()
            worker.wait(60)


@pytest.mark.parametrize(("app", "broker"), [("jobs", ""), ("jobs", "1"), ("pjobs", "1")])
def test_celery_works_and_answers_in_both_forms_of_isolation(
    folder: Folder, tmp_path: Path, app: str, broker: str
) -> None:
    """With the prefix on the results alone, and on the broker as well, whose channels then have other names."""
    env = {**folder.variables(app), "BROKER_PREFIX": broker}
    with _celery_worker(tmp_path, env) as log:
        (tmp_path / "client.py").write_text(CELERY_CLIENT)
        said = program_output([sys.executable, "client.py"], tmp_path, env).splitlines()
    assert said == ["3", "[{'ok': 'pong'}]", "1"]
    assert "No permissions" not in log.read_text()


def test_rq_works(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(RQ)
    assert program_output([sys.executable, "work.py"], tmp_path, folder.variables("queue")).splitlines()[-1] == "3"


@pytest.mark.rare
@pytest.mark.parametrize("app", ["bull", "pbull"])
def test_bullmq_works(folder: Folder, tmp_path: Path, app: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm: BullMQ is a package of Node.js")
    program_output([npm, "install", "--silent", "--no-audit", "bullmq@5"], tmp_path, {})
    (tmp_path / "work.js").write_text(BULLMQ)
    assert program_output(["node", "work.js"], tmp_path, folder.variables(app)).splitlines() == ["3"]


@pytest.mark.parametrize("app", ["jobs", "pjobs", "queue", "bull"])
def test_a_profile_opens_nothing_that_another_app_has(folder: Folder, app: str) -> None:
    """Neither what others have under the same names, nor a channel that no profile gives."""
    with redis.Redis.from_url(folder.variables(app)["REDIS_URL"]) as client:
        for channel in ("celery-task-meta-1", "rq:pubsub:w", "plain:x", "/99.celery.pidbox", "plain:/1.celery.pidbox"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.publish(channel, "x")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command("PSUBSCRIBE", "*")
    audit = json.loads(folder.ok("audit", "--json").out)
    assert audit["ok"]


def test_what_it_opens_is_said(folder: Folder) -> None:
    assert "a script of the app that writes and does not end" in folder.ok("show", "jobs").out
    assert "CELERY_KEY_PREFIX=jobs:" in folder.ok("env", "jobs").out
    assert "CELERY" not in folder.ok("env", "plain").out


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{profile: rq, isolation: prefix}", "isolation: database with profile: rq"),
        ("{profile: celery, scripts: false}", "scripts: true"),
        ("{profile: celry}", 'Did you mean "celery"'),
    ],
)
def test_what_does_not_go_together_is_refused(folder: Folder, entry: str, why: str) -> None:
    wrong = folder.path / "wrong.yaml"
    wrong.write_text(f"version: 1\nproject: profiles\napps:\n  ann:\n    stores: [redis]\n    redis: {entry}\n")
    done = folder.run("validate", "-f", "wrong.yaml")
    assert done.code == 2
    assert why in done.err
