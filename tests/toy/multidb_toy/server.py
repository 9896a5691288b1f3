"""The server: named boxes of text, each with a colour, a mark of its owner, and the digest of the key that opens it.

A request is a line of JSON, ``{"do": "PUT lernmi greeting $value", "bind": {"value": "hello"}}``, and so is an answer:
``{"ok": ...}``, or ``{"error": "...", "denied": true}``. Everything is kept in one file, written anew with each change.
Needs nothing but Python, so that it runs as a program of its own: ``python server.py CONFIG``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socketserver
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSION = "1.0"


class Denied(Exception):
    """The login may not do that."""


class Failed(Exception):
    """It cannot be done."""


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Shelf:
    """The boxes, in memory and in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.boxes: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        self.holders: dict[str, tuple[int, str]] = {}
        self.turn = threading.RLock()

    def save(self) -> None:
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.boxes))
        temporary.replace(self._file)

    def box(self, name: str) -> dict[str, Any]:
        if name not in self.boxes:
            raise Failed(f"there is no box {name}")
        return self.boxes[name]


class Session(socketserver.StreamRequestHandler):
    """One connection. `user` is ``admin``, the name of a box, or empty before the login."""

    server: Server

    def handle(self) -> None:
        self.user = ""
        shelf = self.server.shelf
        while line := self.rfile.readline(1 << 20):
            with shelf.turn:
                try:
                    request = json.loads(line)
                    answer: dict[str, Any] = {"ok": self._do(request["do"], request.get("bind", {}))}
                except Denied as error:
                    answer = {"error": str(error), "denied": True}
                except (Failed, ValueError, KeyError, TypeError, IndexError) as error:
                    answer = {"error": str(error) or type(error).__name__}
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    def finish(self) -> None:
        with self.server.shelf.turn:
            holders = self.server.shelf.holders
            for project in [name for name, (session, _) in holders.items() if session == id(self)]:
                del holders[project]
        super().finish()

    def _do(self, text: str, binds: dict[str, str]) -> Any:
        verb, *words = (binds[word[1:]] if word.startswith("$") else word for word in shlex.split(text))
        if verb == "LOGIN":
            return self._login(*words)
        if self.user == "":
            raise Denied("log in first")
        inside: dict[str, Callable[..., Any]] = {
            "KEYS": self._keys,
            "GET": self._get,
            "PUT": self._put,
            "DEL": self._del,
        }
        if verb in inside:
            if words[0] != self.user:
                raise Denied(f"{self.user} may not look into {words[0]}")
            if self.server.shelf.box(words[0])["digest"] == "" and not self.became:
                raise Denied("the box is shut")
            return inside[verb](*words)
        if self.user != "admin":
            raise Denied(f"{self.user} may not {verb}")
        return self._administer(verb, words)

    def _login(self, user: str, key: str) -> str:
        self.became = False
        expected = self.server.admin if user == "admin" else self.server.shelf.boxes.get(user, {}).get("digest", "")
        if not expected or digest_of(key) != expected:
            raise Denied("wrong key")
        self.user = user
        return VERSION

    def _keys(self, name: str) -> list[str]:
        return sorted(self.server.shelf.box(name)["values"])

    def _get(self, name: str, key: str) -> str:
        value: str = self.server.shelf.box(name)["values"][key]
        return value

    def _put(self, name: str, key: str, value: str) -> None:
        box = self.server.shelf.box(name)
        if box["sealed"]:
            raise Denied("the box is sealed")
        box["values"][key] = value
        self.server.shelf.save()

    def _del(self, name: str, key: str) -> None:
        self.server.shelf.box(name)["values"].pop(key, None)
        self.server.shelf.save()

    def _administer(self, verb: str, words: list[str]) -> Any:
        shelf = self.server.shelf
        match verb, words:
            case "LIST", []:
                return {name: {**box, "values": None, **_weight(box)} for name, box in shelf.boxes.items()}
            case "HOLD", [project, holder]:
                if shelf.holders.setdefault(project, (id(self), holder))[0] != id(self):
                    raise Failed(f"held by {shelf.holders[project][1]}")
                return None
            case "BECOME", [name]:  # no way back: what follows is done with no more power than the box has
                shelf.box(name)
                self.user, self.became = name, True
                return None
        self._change(verb, words)
        shelf.save()
        return None

    def _change(self, verb: str, words: list[str]) -> None:
        shelf = self.server.shelf
        match verb, words:
            case "MAKE", [name, owner]:
                if name in shelf.boxes:
                    raise Failed(f"there is a box {name}")
                shelf.boxes[name] = {"owner": owner, "colour": "bare", "digest": "", "sealed": False, "values": {}}
            case "OWN", [name, owner]:
                shelf.box(name)["owner"] = owner
            case "PAINT", [name, colour]:
                shelf.box(name)["colour"] = colour
            case "LOCK", [name, digest]:
                shelf.box(name)["digest"] = digest
            case "SEAL", [name, "shut" | "open" as how]:
                shelf.box(name)["sealed"] = how == "shut"
            case "SHUT", [name]:
                shelf.box(name)["digest"] = ""
            case "MOVE", [new, name]:
                shelf.box(name)["values"] = shelf.box(new)["values"]
                del shelf.boxes[new]
            case "DROP", [name]:
                shelf.boxes.pop(name, None)
            case _:
                raise Failed(f"there is no such command: {verb}")


def _weight(box: dict[str, Any]) -> dict[str, int]:
    size = sum(len(key.encode()) + len(value.encode()) for key, value in box["values"].items())
    return {"size": size, "count": len(box["values"])}


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], file: Path, admin: str) -> None:
        self.shelf, self.admin = Shelf(file), admin
        super().__init__(address, Session)


if __name__ == "__main__":
    os.umask(0o077)
    config = json.loads(Path(sys.argv[1]).read_text())
    with Server((config["host"], config["port"]), Path(config["file"]), config["admin"]) as toy:
        print("ready", flush=True)
        toy.serve_forever()
