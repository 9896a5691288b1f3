"""Where files of an app are: on this machine, or in storage that fsspec knows; and new ones beside them, on their way
in.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from multidb.backup.app_files.entries import FileEntry, FileKind, Omissions, Tally
from multidb.backup.app_files.mounts import mounted_in
from multidb.backup.app_files.sqlite import COMPANIONS
from multidb.backup.app_files.tar import Member
from multidb.backup.app_files.tree import CREATE, move, names_of, open_folder, read_tree, remove_tree, status_at
from multidb.backup.targets import Target, open_target
from multidb.document import printable
from multidb.errors import ArchiveError, Refused, TargetError
from multidb.model import Measures, counted, listed
from multidb.model.file_options import is_url

__all__ = ["Location", "StagedFiles", "explaining", "open_location", "opened", "staged_in"]

_NEW, _OLD = ".multidb-new-", ".multidb-old-"
_PRIVATE: Final = 0o700
_STORAGE_FOLDER: Final = 0o755
_BLOCK: Final = 1024**2


class Location(Protocol):
    """Where some of an app's files are. What goes wrong is an `ArchiveError` that names it."""

    name: str

    def entries(self, omissions: Omissions) -> Iterator[FileEntry]:
        """What is there now; nothing where it is not there."""

    def is_empty(self) -> bool:
        """Whether there is nothing that could be lost."""

    def is_missing(self) -> bool:
        """Whether not even an empty folder is there. Storage has no folders: there nothing is missing."""

    def staged(self, scratch: Path) -> contextlib.AbstractContextManager[StagedFiles]:
        """New files on their way into it, where the app cannot reach them; gone after the block.

        Args:
            scratch: a folder for what is on its way into storage.
        """

    def exchange(self, new: StagedFiles) -> list[str]:
        """Puts the new files in the place of those that are there, which are gone then. Interrupted, there may be some
        of both; the same again finishes.

        Returns:
            What of the new ones it does not have, and what of the old ones is left.

        Raises:
            TargetError: there may be some of both; the same again finishes.
            ArchiveError: nothing was changed.
        """


def open_location(name: str, location: str, root: Path, progress_timeout: float) -> Location:
    """The location that the manifest has under a name. Touches nothing yet.

    Args:
        root: the manifest's folder.
        progress_timeout: seconds without an answer after which storage is given up.

    Raises:
        UsageError: storage of that kind is not to be had here.
    """
    if is_url(location):
        above, _, folder = location.rpartition("/")
        return _Storage(name, open_target(above, root, progress_timeout), folder)
    return _Local(name, location, root)


class StagedFiles:
    """New files in a folder of ours. They are under `kept`, which is one file, or a folder.

    Args:
        folder: the descriptor of the folder.
        place: its path.
        owner: whom they are to belong to; None: to us.
    """

    kept: Final = "files"

    def __init__(self, name: str, folder: int, place: Path, owner: tuple[int, int] | None) -> None:
        self.name = name
        self.folder = folder
        self.place = place
        self._owner = owner
        self._modes: list[tuple[str, int, float]] = []  # of folders, once all is in them

    def add(self, member: Member) -> None:
        """Makes what a set has."""
        entry = member.entry
        with self._above(entry.path) as (above, name):
            if entry.kind is FileKind.FOLDER:
                os.mkdir(name, _PRIVATE, dir_fd=above)
                self._modes.append((entry.path, entry.mode, entry.modified))
            elif entry.kind is FileKind.LINK:
                os.symlink(entry.target, name, dir_fd=above)
            else:
                descriptor = os.open(name, CREATE, 0o600, dir_fd=above)
                with os.fdopen(descriptor, "wb") as file:
                    member.copy_to(file.write)
                    file.flush()
                    self._finish(descriptor, entry.mode, entry.modified)

    def finish(self) -> None:
        """All of them are there: folders get what would have kept us from filling them."""
        for path, mode, modified in reversed(self._modes):
            with self._above(path) as (above, name):
                folder = open_folder(above, name)
                try:
                    self._finish(folder, mode, modified)
                finally:
                    os.close(folder)

    def entries(self) -> Iterator[FileEntry]:
        """What is there, byte by byte."""
        return read_tree(self.folder, self.kept, self.place / self.kept, Omissions(), live=False)

    def measure(self) -> Measures:
        """Of what is there."""
        tally = Tally(self.name)
        for entry in self.entries():
            tally.add(entry, _sha256(entry))
        return tally.measures()

    def _finish(self, descriptor: int, mode: int, modified: float) -> None:
        if self._owner is not None:
            os.fchown(descriptor, *self._owner)
        os.fchmod(descriptor, mode)
        os.utime(descriptor, (modified, modified))

    @contextmanager
    def _above(self, path: str) -> Iterator[tuple[int, str]]:
        """The folder that a path is in, and its name there."""
        *folders, name = f"{self.kept}/{path}".rstrip("/").split("/")
        with ExitStack() as stack:
            folder = self.folder
            for step in folders:
                folder = open_folder(folder, step)
                stack.callback(os.close, folder)
            yield folder, name


@contextmanager
def staged_in(name: str, scratch: Path) -> Iterator[StagedFiles]:
    """New files of a location in a folder of its own below `scratch`, which is there; gone after the block.

    Raises:
        TargetError: they cannot be written there.
    """
    with explaining(str(scratch)):
        above = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _beside(above, scratch, hashlib.sha256(name.encode()).hexdigest()[:16], name, None) as staged:
            yield staged
    finally:
        os.close(above)


@contextmanager
def _beside(above: int, place: Path, own: str, name: str, owner: tuple[int, int] | None) -> Iterator[StagedFiles]:
    folder_name = f"{_NEW}{own}"
    with explaining(str(place / folder_name)):
        remove_tree(above, folder_name)  # of a run that died
        os.mkdir(folder_name, _PRIVATE, dir_fd=above)
        folder = open_folder(above, folder_name)
    try:
        yield StagedFiles(name, folder, place / folder_name, owner)
    finally:
        os.close(folder)
        with contextlib.suppress(OSError):
            remove_tree(above, folder_name)


class _Local:
    """Files of this machine."""

    def __init__(self, name: str, location: str, root: Path) -> None:
        self.name = name
        self._absolute = location.startswith("/")
        self._steps = location.strip("/").split("/")
        self._root = Path("/") if self._absolute else root.absolute()
        self._place = self._root.joinpath(*self._steps)

    def entries(self, omissions: Omissions) -> Iterator[FileEntry]:
        with self._above_if_any() as there:
            if there is not None:
                self._refuse_link(*there)
                yield from read_tree(*there, self._place, omissions, live=True)

    def is_empty(self) -> bool:
        with self._above_if_any() as there:
            if there is None:
                return True
            status = self._refuse_link(*there)
            if status is None or not stat.S_ISDIR(status.st_mode):
                return status is None
            with opened(*there) as folder:
                return not names_of(folder)

    def is_missing(self) -> bool:
        with self._above_if_any() as there:
            return there is None or status_at(*there) is None

    @contextmanager
    def staged(self, scratch: Path) -> Iterator[StagedFiles]:
        with ExitStack() as stack:
            with self._explaining():
                above, own = stack.enter_context(self._above(make=True))
                parent, status = os.fstat(above), self._refuse_link(above, own)
                self._refuse_mounts(mounted=status is not None and status.st_dev != parent.st_dev)
            keeper = status or parent
            owner = (keeper.st_uid, keeper.st_gid) if os.geteuid() == 0 else None
            yield stack.enter_context(_beside(above, self._place.parent, own, self.name, owner))

    def exchange(self, new: StagedFiles) -> list[str]:
        with self._explaining(), self._above(make=True) as (above, own):
            live, coming = self._refuse_link(above, own), status_at(new.folder, new.kept)
            if coming is None:
                return []
            self._remove_old(above, own)  # of a run that died
            try:
                if live is not None and stat.S_ISDIR(live.st_mode) and stat.S_ISDIR(coming.st_mode):
                    self._fill(above, own, new, coming)
                else:
                    self._take_place(above, own, new, live, coming)
            except OSError:
                with contextlib.suppress(OSError):
                    os.rmdir(_OLD + own, dir_fd=above)  # what was in it is back
                raise
            try:
                self._remove_old(above, own)
            except ArchiveError as error:
                return [f"{printable(self.name)}: what it had before is left in {error.where}: {error.message}"]
        return []

    def _take_place(
        self, above: int, own: str, new: StagedFiles, live: os.stat_result | None, coming: os.stat_result
    ) -> None:
        """A file, or what was none or another kind of thing before."""
        for end in COMPANIONS if not stat.S_ISDIR(coming.st_mode) else ():
            beside = status_at(above, own + end)
            if beside is not None and not stat.S_ISDIR(beside.st_mode):
                os.unlink(own + end, dir_fd=above)  # else SQLite would take it for the new one's
        with self._putting_back() as moved:
            if live is not None and (stat.S_ISDIR(live.st_mode) or stat.S_ISDIR(coming.st_mode)):
                moved(above, above, own, _OLD + own)
            moved(new.folder, above, new.kept, own)
        try:
            os.fsync(above)
        except OSError as error:  # a file that was in the place of the new one is gone, and nothing can be put back
            raise TargetError(str(error.strerror), where=str(self._place), hint="correct that") from None

    def _fill(self, above: int, own: str, new: StagedFiles, coming: os.stat_result) -> None:
        """The folder stays, since a container may have it mounted; what is in it goes, and the new comes."""
        os.mkdir(_OLD + own, _PRIVATE, dir_fd=above)
        with ExitStack() as stack:
            old, live, filled = (
                stack.enter_context(opened(folder, name))
                for folder, name in ((above, _OLD + own), (above, own), (new.folder, new.kept))
            )
            mode = stat.S_IMODE(os.fstat(live).st_mode)
            for folder in (live, filled):
                status = os.fstat(folder)
                if not status.st_mode & stat.S_IWUSR and status.st_uid == os.geteuid():
                    os.fchmod(folder, _PRIVATE)
            try:
                with self._putting_back() as moved:
                    for source, target in ((live, old), (filled, live)):
                        for name in names_of(source):
                            moved(source, target, name, name)
                    os.fchmod(live, stat.S_IMODE(coming.st_mode))
                    os.utime(live, (coming.st_mtime, coming.st_mtime))
                    os.fsync(live)
            except OSError:
                with contextlib.suppress(OSError):
                    os.fchmod(live, mode)
                raise

    @contextmanager
    def _putting_back(self) -> Iterator[Callable[[int, int, str, str], None]]:
        """What moves for the block. Where the system refuses one of the moves, those before are undone: what the
        location has would otherwise lie half beside it, where nobody looks for it and the next restore removes it."""
        done: list[tuple[int, int, str, str]] = []

        def moved(source: int, target: int, name: str, new: str) -> None:
            move(source, target, name, new)
            done.append((source, target, name, new))

        try:
            yield moved
        except OSError as error:
            try:
                for source, target, name, new in reversed(done):
                    move(target, source, new, name)
            except OSError as other:
                raise TargetError(
                    f"some of it is in {_OLD}{self._place.name} beside it, and cannot be put back: {other.strerror}",
                    where=str(self._place),
                    hint="correct that",
                ) from error
            raise

    def _remove_old(self, above: int, own: str) -> None:
        with explaining(str(self._place.with_name(_OLD + own))):
            remove_tree(above, _OLD + own)

    def _refuse_mounts(self, *, mounted: bool) -> None:
        """Refuses a location that nothing can be put in the place of, or of something in it.

        Args:
            mounted: it is known to be a mount of its own.
        """
        mounts = mounted_in(self._place)
        if mounted or "." in mounts:
            raise Refused(
                "is mounted there, and nothing can be put in its place",
                where=str(self._place),
                hint="name a folder in it in the manifest, or leave files out: --store ...",
            )
        if mounts:
            raise Refused(
                f"{listed([printable(name) for name in mounts])} in it is mounted, and nothing can be put in its place",
                where=str(self._place),
                hint="unmount that as long as the restore lasts, or leave files out: --store ...",
            )

    @contextmanager
    def _above_if_any(self) -> Iterator[tuple[int, str] | None]:
        """As `_above`; None where there is no such folder."""
        with self._explaining(), ExitStack() as stack:
            try:
                there = stack.enter_context(self._above())
            except FileNotFoundError:
                there = None
            yield there

    @contextmanager
    def _above(self, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that the location is in, and its name there."""
        *folders, own = self._steps
        with ExitStack() as stack:
            folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, folder)
            for step in folders:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(step, 0o755, dir_fd=folder)
                        self._give_to_owner_of(folder, step)
                folder = open_folder(folder, step)
                stack.callback(os.close, folder)
            yield folder, own

    @staticmethod
    def _give_to_owner_of(folder: int, name: str) -> None:
        if os.geteuid() == 0:
            status = os.fstat(folder)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=folder, follow_symlinks=False)

    def _refuse_link(self, above: int, own: str) -> os.stat_result | None:
        status = status_at(above, own)
        if status is not None and stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return status

    def _explaining(self) -> contextlib.AbstractContextManager[None]:
        return explaining(str(self._place))


class _Storage:
    """Files in storage, which knows neither folders nor links, and nothing of several files in one step."""

    def __init__(self, name: str, target: Target, folder: str) -> None:
        self.name = name
        self._target = target
        self._folder = folder

    def entries(self, omissions: Omissions) -> Iterator[FileEntry]:
        folders: list[str] = []
        sizes = self._sizes()
        if sizes:
            yield FileEntry("", FileKind.FOLDER, mode=_STORAGE_FOLDER)
        for path in sorted(sizes, key=lambda path: [part.encode() for part in path.split("/")]):
            while folders and not path.startswith(f"{folders[-1]}/"):
                folders.pop()
            parts = path.split("/")[:-1]
            for depth in range(len(folders), len(parts)):
                folders.append("/".join(parts[: depth + 1]))
                yield FileEntry(folders[-1], FileKind.FOLDER, mode=_STORAGE_FOLDER)
            yield FileEntry(path, FileKind.FILE, sizes[path], open=partial(self._target.open, self._full(path)))

    def is_empty(self) -> bool:
        return next(iter(self._target.list(self._folder)), None) is None

    def is_missing(self) -> bool:
        return False

    @contextmanager
    def staged(self, scratch: Path) -> Iterator[StagedFiles]:
        with staged_in(self.name, scratch) as staged:
            yield staged

    def exchange(self, new: StagedFiles) -> list[str]:
        before, links = set(self._sizes()), 0
        for entry in new.entries():
            if entry.open is not None:
                with entry.open() as file:
                    self._write(entry.path, file)
                before.discard(entry.path)
            links += entry.kind is FileKind.LINK
        for path in before:
            self._target.delete(self._full(path))
        return [f"{printable(self.name)}: {counted(links, 'link')}, which its storage cannot have"] if links else []

    def _write(self, path: str, file: BinaryIO) -> None:
        upload = self._target.create(self._full(path))
        try:
            while block := file.read(_BLOCK):
                upload.write(block)
            upload.commit()
        except BaseException:
            upload.abort()
            raise

    def _sizes(self) -> dict[str, int]:
        """By path in the folder."""
        return {path.removeprefix(f"{self._folder}/"): size for path, size in self._target.list(self._folder)}

    def _full(self, path: str) -> str:
        return f"{self._folder}/{path}" if path else self._folder


@contextmanager
def opened(above: int, name: str) -> Iterator[int]:
    """The descriptor of a folder for the block."""
    folder = open_folder(above, name)
    try:
        yield folder
    finally:
        os.close(folder)


def _sha256(entry: FileEntry) -> str:
    """Of the bytes of a file; empty for what is none."""
    if entry.open is None:
        return ""
    digest = hashlib.sha256()
    with entry.open() as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def explaining(where: str) -> Iterator[None]:
    """Errors of the system as ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            message, hint = "is a link, or lies below one", "links are not followed; write its real path"
        else:
            message, hint = error.strerror or type(error).__name__, "correct that, then run it again"
        kind = TargetError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ArchiveError
        raise kind(message, where=where, hint=hint) from None
