"""Images that a visitor sends: names, sizes, zips and pictures are checked in the app's private folder first."""

from __future__ import annotations

import hashlib
import shutil
import stat
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from negmerge_kit.data.checking import checked_image
from negmerge_kit.data.source import SPLITS
from negmerge_kit.errors import ParameterError
from negmerge_kit.progress import Progress, ProgressFn, no_progress

FEWEST_IMAGES = 20
MOST_FILES = 20_000
LARGEST_FILE = "2gb"
"""What the app's upload route takes of one file, where uploads are allowed at all: a zip, or weights."""
LARGEST_WHOLE = 2 << 30
"""Bytes of everything in one upload, unpacked."""
LARGEST_MEMBER = 64 << 20
MOST_TIMES = 200
"""How many times its packed size a file may have, once it has more than a megabyte."""
DEEPEST = 12
LONGEST_NAME = 200

PUBLIC = "this app is public: it takes no uploads and fine-tunes nothing; run `negmerge demo` on a machine of your own."
SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
"""What file managers leave in folders; it is left out and counted."""
RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{k}" for port in ("com", "lpt") for k in range(1, 10))})
"""Names that are devices on Windows, whatever ending they have."""

Parts = tuple[str, ...]
"""The folders and the file of a path."""

_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff")
_LAST_RECORD = struct.Struct("<4s4H2LH")
_FORMAT_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError)
_BROKEN = (*_FORMAT_ERRORS, OSError, ValueError, RuntimeError, OverflowError, MemoryError)
"""What Python's zipfile raises for files that are none."""


@dataclass(frozen=True)
class Taken:
    """Images that passed every check, in a private folder that only lasts as long as they are being taken.

    `turned` counts those whose EXIF asks for a turn, `transparent` those that something shows through.
    """

    folder: Path
    digest: str
    classes: tuple[tuple[str, int], ...]
    left_out: int
    turned: int = 0
    transparent: int = 0

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(count for _, count in self.classes)


class Uploads:
    """Where uploads may come from, and the private folder in which they are checked.

    Args:
        arrived: the only folder that files are read from: gradio's own cache, where its upload route puts them.
        private: a folder of this user alone; it is empty again after every upload.
        allowed: False refuses every upload, from any caller: a public app.
    """

    def __init__(self, arrived: Path, private: Path, *, allowed: bool = True) -> None:
        self._arrived, self._private, self.allowed = arrived.resolve(), private, allowed

    def check_allowed(self) -> None:
        """Refuse where nothing may be sent.

        Raises:
            ParameterError: in a public app.
        """
        if not self.allowed:
            raise ParameterError(PUBLIC)

    @contextmanager
    def arrived(self, files: object) -> Iterator[list[Path]]:
        """The uploaded files behind what a handler was sent; they are gone after the block, whatever became of it.

        Raises:
            ParameterError: in a public app, and for anything but files that were uploaded.
        """
        self.check_allowed()
        sent = files if isinstance(files, list) else [files]
        if files is None or not sent or not all(isinstance(file, str) for file in sent):
            raise ParameterError("there is no upload yet: choose a zip or a folder of images first.")
        if len(sent) > MOST_FILES:
            raise ParameterError(f"{len(sent):,} files are too many: send at most {MOST_FILES:,}, or a zip.")
        paths = [self._own(str(file)) for file in sent]
        try:
            yield paths
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    @contextmanager
    def images(self, files: object, names: object = None, *, report: ProgressFn = no_progress) -> Iterator[Taken]:
        """Take in one zip or several images, as PRIVATE/[SPLIT/]CLASS/NUMBER, for the length of the block.

        Args:
            files: what the page's upload holds.
            names: each file's path in its folder, where a folder was chosen; gradio sends the last part only.
            report: called with the image that is checked and the share that is done. What it raises ends the upload.

        Raises:
            ParameterError, SceneError: a sentence for the first thing that is wrong; nothing is left behind.
        """
        with self.arrived(files) as paths:
            self._private.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="checking-", dir=self._private))
            try:
                if len(paths) == 1 and paths[0].suffix.lower() == ".zip":
                    with _opened(paths[0]) as (parts, contents):
                        yield _take(parts, contents, folder, report)
                else:
                    parts = _named(paths, names)
                    yield _take(parts, (path.read_bytes() for path in paths), folder, report)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _own(self, file: str) -> Path:
        path = Path(file)
        if "\0" in file or path.is_symlink() or not path.resolve().is_relative_to(self._arrived):
            raise ParameterError("that is no file that was uploaded here: choose a zip or a folder of images.")
        if not path.is_file():
            raise ParameterError("this upload is not there any more: choose the files again.")
        return path


# --- names ------------------------------------------------------------------------------------


def shown(name: object) -> str:
    """A stranger's name as a sentence may show it: printable and short.

    >>> shown("a\\r\\nb"), len(shown("x" * 500))
    ("'a\\\\r\\\\nb'", 60)
    """
    text = ascii(name)
    return text if len(text) <= 60 else f"{text[:57]}..."


def checked_parts(name: object) -> Parts:
    """The folders and the file of a relative path, if every system takes them for what they seem to be.

    Raises:
        ParameterError: for absolute paths, `..`, links' and devices' names, control characters, and names too long.

    >>> checked_parts("cats/1.png")
    ('cats', '1.png')
    """
    if not isinstance(name, str) or not name:
        raise ParameterError(f"{shown(name)} is no file name: rename it.")
    parts = tuple(name.split("/"))
    if name.startswith("/") or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        why = "leads out of its folder or is no plain path"
    elif any(unicodedata.category(char) in ("Cc", "Cs") or char in _TURNING for char in name):
        why = "holds a character that cannot be seen"
    elif any(part.partition(".")[0].strip().casefold() in RESERVED for part in parts):
        why = "is a device's name on Windows"
    elif any(part.endswith((".", " ")) or part.startswith(" ") for part in parts):
        why = "begins or ends with a space or a dot"
    elif len(parts) > DEEPEST or any(len(part.encode()) > LONGEST_NAME for part in parts):
        why = "is too long or too deep"
    else:
        return parts
    raise ParameterError(f"the name {shown(name)} {why}: rename it and try again.")


def check_distinct(names: Iterable[Parts]) -> None:
    """Refuse paths that are one and the same where case and the spelling of accents do not count.

    Raises:
        ParameterError: naming the second of them.
    """
    seen: dict[str, str] = {}
    whole = set()
    for parts in names:
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            key = unicodedata.normalize("NFC", path).casefold()
            if seen.setdefault(key, path) != path or (depth == len(parts) and key in whole):
                raise ParameterError(
                    f"{shown(path)} is there twice, or differs from another name by case only: rename one of them."
                )
        whole.add(key)


def _named(paths: Sequence[Path], names: object) -> list[Parts]:
    """Each file's path within the chosen folder."""
    if not isinstance(names, list) or len(names) != len(paths):
        raise ParameterError("the upload does not say which folders its images lie in: send a zip, or choose a folder.")
    if sum(path.stat().st_size for path in paths) > LARGEST_WHOLE:
        raise ParameterError(f"this folder has more than {LARGEST_WHOLE >> 30} GB: send fewer or smaller images.")
    return [checked_parts(name) for name in names]


def _places(images: Sequence[Parts]) -> dict[Parts, Parts]:
    """Each image's class folder, below its split where the upload has train, val and test.

    Raises:
        ParameterError: unless there are enough images, at least two classes, and every image lies in one of them.
    """
    if len(images) < FEWEST_IMAGES:
        raise ParameterError(
            f"{len(images)} images are too few to learn from and to measure with: send at least "
            f"{FEWEST_IMAGES}, better hundreds."
        )
    within = 0  # how many outer folders all images lie in
    while len({parts[: within + 1] for parts in images}) == 1 and all(len(parts) > within + 2 for parts in images):
        within += 1
    inner = {parts: parts[within:] for parts in images}
    top = {parts[0] for parts in inner.values()}
    split = "train" in top and top <= set(SPLITS)
    if not split and top & set(SPLITS):
        raise ParameterError(
            "a folder is called train, val or test, but not all of them are: give all images in "
            "train, val and test, or rename that class."
        )
    loose = next((parts for parts, own in inner.items() if len(own) < 2 + split), None)
    if loose is not None:
        raise ParameterError(
            f"{shown('/'.join(loose))} lies in no class's folder: put the images of each class into a "
            "folder of its name."
        )
    places = {parts: own[: 1 + split] for parts, own in inner.items()}
    names = {place[-1] for place in places.values()}
    if hidden := next((name for name in names if name.startswith(".")), None):
        raise ParameterError(f"the class {shown(hidden)} begins with a dot: rename its folder.")
    if len(names) < 2:
        raise ParameterError(
            f"there is one class only, {shown(*names)}, which nothing can be mistaken for: send at "
            "least two classes, each in its folder."
        )
    return places


# --- contents ---------------------------------------------------------------------------------


def _take(names: Sequence[Parts], contents: Iterable[bytes], folder: Path, report: ProgressFn) -> Taken:
    """Check every image and write it under its class; its own name is not kept."""
    check_distinct(names)
    images = [parts for parts in names if not _is_system_file(parts)]
    places = _places(images)
    numbers: Counter[Parts] = Counter()
    digests: list[str] = []
    seen: Counter[str] = Counter()
    for parts, data in zip(names, contents, strict=True):
        if parts not in places:
            continue
        if len(digests) % 20 == 0:
            report(Progress(f"Checking image {len(digests) + 1} of {len(images)}", len(digests) / len(images)))
        (ending, noticed), place = checked_image(shown("/".join(parts)), data), places[parts]
        seen += Counter(word for word, there in noticed._asdict().items() if there)
        numbers[place] += 1
        target = folder.joinpath(*place, f"{numbers[place]:05d}{ending}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        digests.append(f"{'/'.join(place)} {hashlib.sha256(data).hexdigest()}")
    classes: Counter[str] = Counter()
    for place, count in sorted(numbers.items()):
        classes[place[-1]] += count
    sha = hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
    return Taken(folder, sha, tuple(classes.items()), len(names) - len(images), seen["turned"], seen["transparent"])


def _is_system_file(parts: Parts) -> bool:
    return parts[0] == "__MACOSX" or parts[-1].casefold() in SYSTEM_FILES or parts[-1].startswith("._")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[Parts], Iterator[bytes]]]:
    """(names, contents) of a zip of plain files within the limits; it is looked through before a byte is unpacked.

    Raises:
        ParameterError: for a zip that is damaged, encrypted, also something else, a bomb, or holds links or odd names.
    """
    name = shown(path.name)
    _check_ends(path, name)
    with ExitStack() as held:
        with _unpacking(name):
            archive = held.enter_context(zipfile.ZipFile(path))
            infos = archive.infolist()
        # What follows a NUL in a name is cut off by zipfile: the name as it was sent is checked.
        named = [(checked_parts(info.orig_filename.removesuffix("/")), info) for info in infos]
        members = [(parts, info) for parts, info in named if not info.is_dir()]
        if len(members) > MOST_FILES:
            raise ParameterError(f"{name} holds {len(members):,} files, and {MOST_FILES:,} are the most: send fewer.")
        for parts, info in members:
            if why := _wrong(info):
                raise ParameterError(f"{shown('/'.join(parts))} in {name} {why}.")
        if sum(info.file_size for _, info in members) > LARGEST_WHOLE:
            raise ParameterError(f"{name} unpacks to more than {LARGEST_WHOLE >> 30} GB: send fewer or smaller images.")
        with _unpacking(name):
            if sum(info.compress_size for _, info in members) > path.stat().st_size:
                raise ValueError("its files lie over one another")
        yield [parts for parts, _ in members], (_read(archive, info, name) for _, info in members)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    with _unpacking(name), archive.open(info) as file:
        data = file.read(LARGEST_MEMBER + 1)
        if file.read(1) or len(data) != info.file_size:
            raise ValueError("a file in it is not as long as it says")
        return data


@contextmanager
def _unpacking(name: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        why = str(error)[:120] or type(error).__name__
        raise ParameterError(f"{name} cannot be unpacked ({why}): zip the folder again.") from None


def _check_ends(path: Path, name: str) -> None:
    """Refuse bytes before the first or behind the last record: another kind of file may hide there."""
    size = path.stat().st_size
    if size > LARGEST_WHOLE:
        raise ParameterError(f"{name} has more than {LARGEST_WHOLE >> 30} GB: send fewer or smaller images.")
    with path.open("rb") as file:
        first = file.read(4)
        file.seek(max(0, size - _LAST_RECORD.size))
        last = file.read()
    if first != b"PK\3\4" or len(last) != _LAST_RECORD.size:
        raise ParameterError(f"{name} is no zip of images: zip a folder with a sub-folder for each class.")
    mark, disk, first_disk, here, entries, length, start, comment = _LAST_RECORD.unpack(last)
    plain = mark == b"PK\5\6" and not (disk or first_disk or comment) and here == entries
    if not plain or start + length != size - _LAST_RECORD.size:
        raise ParameterError(
            f"{name} holds something before or behind its files, or more than a plain zip can: zip the folder again."
        )
    if length > MOST_FILES * 2 * LONGEST_NAME:
        raise ParameterError(f"{name} lists more than the {MOST_FILES:,} files that may be sent: send fewer.")


def _wrong(info: zipfile.ZipInfo) -> str:
    """What is wrong with an entry of a zip, with the remedy; empty for a plain file within the limits."""
    times = info.file_size // max(1, info.compress_size)
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or no plain file: put the file itself there"
    if info.flag_bits & 1:
        return "is encrypted: zip the folder without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in an unusual way: zip the folder with the system's own tool"
    if info.file_size > LARGEST_MEMBER:
        return f"unpacks to more than {LARGEST_MEMBER >> 20} MB: make the image smaller"
    if info.file_size > max(1 << 20, MOST_TIMES * max(1, info.compress_size)):
        return f"unpacks to {times} times its size, which no image does: leave it out"
    return ""
