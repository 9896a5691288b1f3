"""Who a caller is, how often he may come, and what is written down of it."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from multidb.errors import UsageError
from multidb.secrets import Secret
from multidb.service.access_log import AccessLog, LoggedRequest, LogWriter, common_line, json_line
from multidb.service.clients import Clients, network_from
from multidb.service.rate import ClientRate, network_of

PROXY, NEXT = network_from("10.0.0.2"), network_from("10.1.0.0/24")


def scope(peer: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return {"type": "http", "client": peer and (peer, 4711), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["203.0.113.9"], "192.0.2.7"),  # nobody's word is taken who is no proxy
        ("10.0.0.2", [], "10.0.0.2"),
        ("10.0.0.2", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.2", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),  # what the caller had sent stands before it
        ("10.0.0.2", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.2", ["198.51.100.1, 203.0.113.9, 10.1.0.8"], "203.0.113.9"),  # two proxies
        ("10.0.0.2", ["10.1.0.8"], "10.1.0.8"),
        ("10.0.0.2", ["198.51.100.1, unknown"], "10.0.0.2"),
        ("10.0.0.2", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.0.0.2", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:192.0.2.7", [], "192.0.2.7"),
        (None, ["203.0.113.9"], "-"),
    ],
)
def test_only_a_trusted_proxy_says_for_whom_it_asks(peer: str | None, forwarded: list[str], client: str) -> None:
    assert Clients((PROXY, NEXT)).of(scope(peer, *forwarded)) == client


def test_on_a_unix_socket_every_caller_is_believed() -> None:
    clients = Clients(trust_socket=True)
    assert clients.of(scope(None, "203.0.113.9")) == "203.0.113.9"
    assert clients.of(scope(None)) == "-"
    assert clients.of(scope("192.0.2.7", "203.0.113.9")) == "192.0.2.7"


@pytest.mark.parametrize("text", ["proxy", "10.0.0.1/8", "10.0.0.0/33", ""])
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="no address") as caught:
        network_from(text)
    assert "10.4.0.0/24" in str(caught.value.hint)


def test_a_caller_may_come_so_often_and_again_after_a_while() -> None:
    now = 100.0
    rate = ClientRate(6, clock=lambda: now)
    assert [rate.wait("a") for _ in range(7)] == [0, 0, 0, 0, 0, 0, 10.0]
    assert rate.wait("b") == 0, "another's is another's"
    now += 9.9
    assert rate.wait("a") == pytest.approx(0.1)
    now += 0.11
    assert [rate.wait("a") > 0 for _ in range(2)] == [False, True]
    now += 3600
    assert [rate.wait("a") > 0 for _ in range(7)] == [False] * 6 + [True], "what is not used is not saved up"


def test_callers_without_end_take_no_memory_without_end() -> None:
    rate = ClientRate(1, clock=lambda: 0.0)
    assert rate.wait("first") == 0
    for number in range(9_999):
        rate.wait(number)
    assert rate.wait("first") > 0, "ten thousand are remembered"
    for number in range(10_000):
        rate.wait(f"other {number}")
    assert rate.wait("first") == 0
    assert len(rate._buckets) == 10_000


def test_the_addresses_of_one_subscriber_are_one_caller() -> None:
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9") != network_of("2001:db8:1:3::1")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("-") == "-"


AT = datetime(2026, 11, 29, 1, 2, 3, 456789, UTC)


def test_a_line_is_the_common_log_format_or_json() -> None:
    entry = LoggedRequest(AT, "203.0.113.9", "GET", "/health/databases", 200, 512, 0.0123)
    expected = '203.0.113.9 - - [29/Nov/2026:01:02:03 +0000] "GET /health/databases HTTP/1.1" 200 512 0.012'
    assert common_line(entry) == expected
    assert json.loads(json_line(entry)) == {
        "asked_at": "2026-11-29T01:02:03.456+00:00",
        "client": "203.0.113.9",
        "method": "GET",
        "path": "/health/databases",
        "status": 200,
        "bytes": 512,
        "seconds": 0.0123,
    }
    assert " - 0 0.0" in common_line(LoggedRequest(AT, "-", "GET", "/", None, 0, 0.0))


@pytest.mark.parametrize("line", [common_line, json_line])
@pytest.mark.parametrize("path", ['/a" 200\n1.2.3.4 - -', "/\x1b[2J\x9b1m", "/\u202e\u2066x", "/" + "é" * 5000, "/\\x"])
def test_no_path_is_more_than_one_plain_line(line: Any, path: str) -> None:
    written = line(LoggedRequest(AT, "192.0.2.1", "GET", path, 404, 0, 0.0))
    assert written.isascii()
    assert written.isprintable()
    assert written.count('"') == (
        2 if line is common_line else json_line(LoggedRequest(AT, "", "", "", 1, 0, 0.0)).count('"')
    )
    assert len(written) < 300 * 6 + 200


def test_no_secret_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    token = Secret("a-token-that-stands-in-an-address")
    token.reveal()
    entries: list[LoggedRequest] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await send({"type": "http.response.body", "body": b"de"})

    async def ask(method: str, path: str) -> None:
        transport = httpx.ASGITransport(AccessLog(app, Clients(), entries.append), client=("192.0.2.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await client.request(method, path, headers={"Authorization": f"Bearer {token.reveal()}"})

    encoded = "".join(f"%{ord(letter):02x}" for letter in token.reveal())
    for path in (f"/{token.reveal()}", f"/{encoded}", f"/?token={token.reveal()}", f"/x;{token.reveal()}?{encoded}"):
        asyncio.run(ask("GET", path))
        for line in (common_line(entries[-1]), json_line(entries[-1])):
            assert token.reveal() not in line
            assert encoded not in line
            assert "?" not in line
    asyncio.run(ask("HEAD", "/"))
    assert [(entry.status, entry.size) for entry in entries] == [(401, 5)] * 4 + [(401, 0)]


def test_who_goes_before_the_answer_is_written_down_too() -> None:
    entries: list[LoggedRequest] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    async def ask() -> None:
        asked = {**scope("192.0.2.1"), "method": "GET", "path": "/", "http_version": "1.0"}
        with pytest.raises(asyncio.CancelledError):
            await AccessLog(app, Clients(), entries.append)(asked, None, None)  # type: ignore[arg-type]

    asyncio.run(ask())
    assert [(entry.client, entry.status, entry.version) for entry in entries] == [("192.0.2.1", None, "1.0")]


class Stuck(io.StringIO):
    """A pipe that nobody reads until he is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Event()

    def write(self, text: str) -> int:
        assert self.read.wait(20)
        return super().write(text)


def test_a_pipe_that_nobody_reads_holds_up_no_request_and_its_lost_lines_are_counted() -> None:
    stream, said = Stuck(), list[str]()
    writer = LogWriter(stream, lambda entry: entry.path, said.append)
    for number in range(2_500):
        writer.put(LoggedRequest(AT, "-", "GET", f"/{number}", 200, 0, 0.0))
    stream.read.set()
    writer.close()
    written = stream.getvalue().splitlines()
    assert written[:2] == ["/0", "/1"]
    assert 2_000 <= len(written) <= 2_001
    assert said == [f"{2_500 - len(written)} lines of the access log: lost, nobody read in time"]


def test_a_log_that_cannot_be_written_ends_with_a_word() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("No space left on device")

    said = list[str]()
    writer = LogWriter(Full(), lambda entry: entry.path, said.append)
    for _ in range(3):
        writer.put(LoggedRequest(AT, "-", "GET", "/", 200, 0, 0.0))
    writer.close()
    assert said == ["the access log ends here, it cannot be written: No space left on device"]
