"""Files fetched from the network into the user's cache, which all projects share.

``MULTIDB_CACHE`` moves the cache. Proxies come from ``https_proxy`` and ``no_proxy``, certificate authorities from
``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, as everywhere in Python. Whoever fetches a file knows its SHA-256 and compares,
before the file gets the name by which it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from multidb import files
from multidb.errors import RuntimeUnavailable, UsageError
from multidb.model import PROGRESS_TIMEOUT, size_in_words
from multidb.state import holder

__all__ = ["IDLE_TIMEOUT", "PAUSE", "NotFetched", "cache_folder", "fetch", "filling", "host_of", "read"]

Arrived = Callable[[int, int | None], None]
"""Told how many bytes have arrived, and of how many, where that is known."""

_CONNECTING: Final = 5.0  # seconds; where there is no network, it is a matter of milliseconds or of waiting in vain
IDLE_TIMEOUT: Final = 30.0  # seconds without a byte before a download counts as broken
_ATTEMPTS: Final = 3
PAUSE: Final = 1.0  # seconds after the first attempt; twice that after the second
_CHUNK: Final = 1 << 16


class NotFetched(Exception):
    """Why a file could not be fetched, in words.

    Args:
        untrusted: the host has shown a certificate that is not trusted.
    """

    def __init__(self, reason: str, *, untrusted: bool = False) -> None:
        super().__init__(reason)
        self.untrusted = untrusted


def cache_folder() -> Path:
    """The user's cache of multidb, shared by all projects: ``MULTIDB_CACHE``, else the platform's usual place.

    Raises:
        RuntimeUnavailable: the user has no home folder, as in some containers.
    """
    if chosen := os.environ.get("MULTIDB_CACHE"):
        return Path(chosen)
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "multidb"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multidb"
    except RuntimeError:
        raise RuntimeUnavailable(
            "this user has no home folder to keep downloads in", hint="name another folder with MULTIDB_CACHE"
        ) from None


@contextlib.contextmanager
def filling(folder: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Makes a folder of the cache and holds its lock while the block puts files into it.

    Args:
        waiting: told who holds it, where another process does.

    Raises:
        RuntimeUnavailable: the cache cannot be written.
        Locked: another process has held it for ten minutes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.lock(folder.with_name(f"{folder.name}.lock"), holder("multidb"), PROGRESS_TIMEOUT, waiting):
            yield
    except (OSError, UsageError) as error:
        why = error.message if isinstance(error, UsageError) else error.strerror or str(error)
        raise RuntimeUnavailable(
            f"the cache cannot be written: {why}",
            where=str(folder),
            hint="free space, or choose another place with MULTIDB_CACHE",
        ) from None


def host_of(url: str) -> str:
    """The host of an address, for messages: no login that may stand before it."""
    with contextlib.suppress(ValueError):
        return urllib.parse.urlsplit(url).hostname or "an address without a host"
    return "an address without a host"


def fetch(url: str, part: Path, largest: int, arrived: Arrived, *, reconnect: bool = True) -> str:
    """Writes what is at `url` to `part`, and tries again after a fault that may pass. The SHA-256 of what has arrived.

    Args:
        largest: bytes; more is refused.
        reconnect: also tries again where the host could not be reached at all, or has fallen silent.

    Raises:
        NotFetched: it cannot be had, or not whole.
        OSError: `part` cannot be written.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with part.open("wb") as file:
                return _copy(url, file, largest, arrived)
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
            if attempt == _ATTEMPTS or not _may_pass(error, reconnect):
                raise _not_fetched(error) from None
        time.sleep(attempt * PAUSE)
    raise AssertionError("the last attempt has returned or raised")


def read(url: str, largest: int) -> bytes:
    """What is at `url`, a small document; asked for once.

    Raises:
        NotFetched: it cannot be had, or not whole.
    """
    document = io.BytesIO()
    try:
        _copy(url, document, largest, lambda done, total: None)
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
        raise _not_fetched(error) from None
    return document.getvalue()


def _copy(url: str, file: IO[bytes], largest: int, arrived: Arrived) -> str:
    if not url.startswith(("http://", "https://")):
        raise NotFetched("its address begins with neither http:// nor https://")
    digest, done = hashlib.sha256(), 0
    opener = urllib.request.build_opener(_Http, _Https(context=ssl.create_default_context()), _Redirects)
    try:
        response = opener.open(urllib.request.Request(url, headers={"User-Agent": "multidb"}), timeout=_CONNECTING)  # noqa: S310
    except (ValueError, UnicodeError):
        raise NotFetched("its address cannot be understood") from None
    with response:
        total: int | None = response.length
        while chunk := response.read(_CHUNK):
            done += len(chunk)
            if max(done, total or 0) > largest:
                raise NotFetched(f"it is larger than {size_in_words(largest)}")
            digest.update(chunk)
            file.write(chunk)
            arrived(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")
    return digest.hexdigest()


def _may_pass(error: Exception, reconnect: bool) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    if isinstance(error, urllib.error.URLError):  # before there was an answer
        return reconnect and not isinstance(error.reason, ssl.SSLCertVerificationError)
    return reconnect or not isinstance(error, TimeoutError)


def _not_fetched(error: Exception) -> NotFetched:
    if isinstance(error, urllib.error.HTTPError):
        return NotFetched(f"the server answers {error.code} {error.reason}")
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return NotFetched("it does not answer" if error is not reason else f"no byte has come for {IDLE_TIMEOUT:.0f} s")
    words = reason.strerror if isinstance(reason, OSError) else None
    return NotFetched(
        words or str(reason) or type(reason).__name__, untrusted=isinstance(reason, ssl.SSLCertVerificationError)
    )


class _HttpConnection(http.client.HTTPConnection):
    """Is quick to give up while it connects, and patient afterwards."""

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(IDLE_TIMEOUT)


class _HttpsConnection(http.client.HTTPSConnection):
    """As `_HttpConnection`; the handshake belongs to connecting."""

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(IDLE_TIMEOUT)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpConnection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._trusting = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HttpsConnection, req, context=self._trusting)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none out of https: from there on anybody on the way could answer."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("https://",) if req.type == "https" else ("https://", "http://")):
            raise NotFetched(f"{req.host} sends to an address without https ({host_of(newurl)}), which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
