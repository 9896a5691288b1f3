"""A project's state, moved from one place to another: whole, by one run, and again from wherever it was cut off."""

from __future__ import annotations

from multidb.errors import Locked, Refused
from multidb.state_folder import MACHINE
from multidb.state_store import Holder, KeptFile, StateStore, identified, refuse_moved

__all__ = ["is_moved", "move_state"]

_OF_PLACE = frozenset({"identity", "moved", "version"})


def is_moved(old: StateStore, address: str) -> bool:
    """Whether the state was moved from there to the address already.

    Raises:
        Refused: it was moved elsewhere.
        Locked: a run is at work with it.
    """
    there = old.read().document
    if there.get("moved", {}).get("to") == address:
        return True
    refuse_moved(there, old.title)
    for lock in old.locks():
        raise Locked(f"a run is at work: {lock.who}", where=old.title, hint="wait for it to end, then run it again")
    return False


def move_state(old: StateStore, new: StateStore, address: str, project: str, holder: Holder) -> int:
    """Copies the state to another place, with the texts beside it (the history, sizes, checks), and leaves in its own
    place where it went. In between nobody can write the state.

    Args:
        address: `new`, as the manifest names it.
        project: whose state it is.

    Returns:
        How many sections went; 0 where an earlier run had moved it there already.

    Raises:
        Refused: there is the state of another project, or another one of this; or it was moved elsewhere already.
        Locked: a run is at work with it.
        StateUnavailable: one of the places cannot be reached; the state is where it was.
    """
    if is_moved(old, address):
        return 0
    with old.change(holder) as document:  # a copy of it is known again by this, if we end before the next step does
        identified(document, project)
    with old.change(holder) as document:
        refuse_moved(document, old.title)
        moved = {name: section for name, section in document.items() if name not in MACHINE | _OF_PLACE}
        _copy(document["identity"], moved, new, holder)
        texts = _copy_files(old, new)
        for name in moved:
            del document[name]
        document["moved"] = {"to": address}
    for name, kept in texts.items():  # what was written meanwhile stays there
        old.write_file(name, "", kept.version)
    return len(moved)


def _copy_files(old: StateStore, new: StateStore) -> dict[str, KeptFile]:
    """Puts the texts beside the state to the new place, and nothing in the place of others there. Gives them."""
    names = old.file_names()
    texts = {name: old.read_file(name) for name in names}
    for name in {*names, *new.file_names()}:
        text, there = texts.get(name, KeptFile()).text or "", new.read_file(name)
        if text != (there.text or "") and not new.write_file(name, text, there.version):
            raise Refused(
                f"{name} was written there by another run meanwhile; nothing was moved",
                where=new.title,
                hint="run the command again",
            )
    return {name: kept for name, kept in texts.items() if kept.text}


def _copy(identity: dict[str, str], sections: dict[str, object], new: StateStore, holder: Holder) -> None:
    with new.change(holder) as document:
        known = document.get("identity", identity)
        held = [name for name in document if name not in MACHINE | _OF_PLACE]
        if known.get("id") != identity["id"] or ("identity" not in document and held):
            raise Refused(
                "there is a state of this project already, and it is not a copy of this one; nothing was moved",
                where=new.title,
                hint="keep it, and have the manifest say so; or take it away there, then run the command again",
            )
        for name in (*held, "moved"):
            document.pop(name, None)
        document.update({**sections, "identity": identity})
