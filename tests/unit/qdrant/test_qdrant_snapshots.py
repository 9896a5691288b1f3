"""What a server's refusal of a snapshot says of the snapshot, and what is left of it on the server."""

from __future__ import annotations

from typing import Any, cast

import pytest

from multidb.errors import ArchiveError, MultidbError, ServerError
from multidb.model import Endpoint, Server
from multidb.provisioners.qdrant.backup.snapshots import Snapshots
from multidb.provisioners.qdrant.driver.transport import Http, Reply
from multidb.provisioners.qdrant.provision.catalog import Catalog
from multidb.provisioners.qdrant.provision.statements import Call

SERVER = Server("qdrant", "qdrant", Endpoint("127.0.0.1", 6333))


class Refusing:
    """A server that takes no snapshot, with these words of Qdrant 1.18's."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.sent: list[str] = []

    def upload(self, target: str, chunks: Any, seconds: float) -> Reply:
        return Reply(500, None, self.words)

    def send(self, call: Call, **options: Any) -> Reply:
        self.sent.append(f"{call.verb} {call.target}")
        return Reply(404, None, "Not found: Snapshot snapshot not found")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("An error occurred processing field: snapshot", ServerError),
        (
            "Service internal error: File IO error: failed to unpack `/storage/tmp/col-a-recovery/0/wal/open-2`",
            ServerError,
        ),
        ("Service internal error: IO Error: No space left on device (os error 28)", ServerError),
        ("Checksum mismatch: expected 00, actual 11", ArchiveError),
        ("Service internal error: File IO error: Malformed tar archive, reached unknown entry", ArchiveError),
    ],
)
def test_only_what_is_wrong_with_a_snapshot_is_said_of_it(words: str, kind: type[MultidbError]) -> None:
    http = Refusing(words)
    snapshots = Snapshots(SERVER, cast("Http", http), cast("Catalog", None))
    with pytest.raises(MultidbError) as refused:
        snapshots.recover("a", iter([b"it"]), "00")
    assert isinstance(refused.value, kind)
    assert ("free space" in (refused.value.hint or "")) == (kind is ServerError)
    assert http.sent == ["DELETE /collections/a/snapshots/snapshot?wait=true"]
