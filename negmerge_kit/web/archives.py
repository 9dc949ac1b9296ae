"""Names and zips that strangers sent: looked through before one byte of them is unpacked."""

from __future__ import annotations

import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from negmerge_kit.errors import ParameterError

MOST_FILES = 20_000
LARGEST_WHOLE = 2 << 30
"""Bytes of everything in one upload, unpacked."""
LARGEST_MEMBER = 64 << 20
MOST_TIMES = 200
"""How many times its packed size a file may have, once it has more than a megabyte."""
DEEPEST = 12
LONGEST_NAME = 200

SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
"""What file managers leave in folders; it is left out and counted."""
RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{k}" for port in ("com", "lpt") for k in range(1, 10))})
"""Names that are devices on Windows, whatever ending they have."""

_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff")
_LAST_RECORD = struct.Struct("<4s4H2LH")


def shown(name: object) -> str:
    """A stranger's name as a sentence may show it: printable and short.

    >>> shown("a\\r\\nb"), len(shown("x" * 500))
    ("'a\\\\r\\\\nb'", 60)
    """
    text = ascii(name)
    return text if len(text) <= 60 else f"{text[:57]}..."


def checked_parts(name: object) -> tuple[str, ...]:
    """The folders and the file of a relative path, if every system takes them for what they seem to be.

    Raises:
        ParameterError: for absolute paths, `..`, links' and devices' names, control characters, and names too long.

    >>> checked_parts("cats/1.png")
    ('cats', '1.png')
    """
    if not isinstance(name, str) or not name:
        raise ParameterError(f"{shown(name)} is no file name: rename it.")
    parts = tuple(name.split("/"))
    odd = next((char for char in name if unicodedata.category(char) in ("Cc", "Cs") or char in _TURNING), None)
    if name.startswith("/") or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        why = "leads out of its folder or is no plain path"
    elif odd is not None:
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


def check_distinct(names: Iterable[tuple[str, ...]]) -> None:
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


def is_system_file(parts: tuple[str, ...]) -> bool:
    """Whether a file manager left it there."""
    return parts[0] == "__MACOSX" or parts[-1].casefold() in SYSTEM_FILES or parts[-1].startswith("._")


class Archive:
    """A zip that has been looked through: plain files within the limits, under names that lead nowhere else.

    Raises:
        ParameterError: for a zip that is damaged, encrypted, also something else, a bomb, or holds links or odd names.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._check_ends()
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except _BROKEN as error:
            raise self._damaged(error) from None
        # What follows a NUL in a name is cut off by zipfile: the name as it was sent is checked.
        named = [(checked_parts(info.orig_filename.removesuffix("/")), info) for info in infos]
        self._members = [(parts, info) for parts, info in named if not info.is_dir()]
        if len(self._members) > MOST_FILES:
            raise ParameterError(
                f"{name} holds {len(self._members):,} files, and {MOST_FILES:,} are the most: send fewer."
            )
        for parts, info in self._members:
            self._check_member("/".join(parts), info)
        if sum(info.file_size for _, info in self._members) > LARGEST_WHOLE:
            raise ParameterError(f"{name} unpacks to more than {LARGEST_WHOLE >> 30} GB: send fewer or smaller images.")
        if sum(info.compress_size for _, info in self._members) > path.stat().st_size:
            raise self._damaged("its files lie over one another")

    @property
    def names(self) -> list[tuple[str, ...]]:
        """Every file's path in the zip."""
        return [parts for parts, _ in self._members]

    def read(self) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """Every file, one after another.

        Raises:
            ParameterError: for one that is damaged.
        """
        try:
            with zipfile.ZipFile(self._path) as archive:
                for parts, info in self._members:
                    with archive.open(info) as file:
                        data = file.read(LARGEST_MEMBER + 1)
                        if file.read(1) or len(data) != info.file_size:
                            raise self._damaged("a file in it is not as long as it says")
                    yield parts, data
        except ParameterError:
            raise
        except _BROKEN as error:
            raise self._damaged(error) from None

    def _check_ends(self) -> None:
        """Refuse bytes before the first or behind the last record: another kind of file may hide there."""
        size = self._path.stat().st_size
        if size > LARGEST_WHOLE:
            raise ParameterError(f"{self._name} has more than {LARGEST_WHOLE >> 30} GB: send fewer or smaller images.")
        with self._path.open("rb") as file:
            first = file.read(4)
            file.seek(max(0, size - _LAST_RECORD.size))
            last = file.read()
        if first != b"PK\3\4" or len(last) != _LAST_RECORD.size:
            raise ParameterError(f"{self._name} is no zip of images: zip a folder with a sub-folder for each class.")
        mark, disk, first_disk, here, entries, length, start, comment = _LAST_RECORD.unpack(last)
        plain = mark == b"PK\5\6" and not (disk or first_disk or comment) and here == entries
        if not plain or start + length != size - _LAST_RECORD.size:
            raise ParameterError(
                f"{self._name} holds something before or behind its files, or more than a plain zip "
                "can: zip the folder anew."
            )
        if length > MOST_FILES * 2 * LONGEST_NAME:
            raise ParameterError(f"{self._name} lists more than the {MOST_FILES:,} files that may be sent: send fewer.")

    def _check_member(self, name: str, info: zipfile.ZipInfo) -> None:
        kind = stat.S_IFMT(info.external_attr >> 16)
        packed = max(1, info.compress_size)
        if kind not in (0, stat.S_IFREG):
            why = "is a link or no plain file: put the file itself there"
        elif info.flag_bits & 1:
            why = "is encrypted: zip the folder without a password"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            why = "is packed in an unusual way: zip the folder with the system's own tool"
        elif info.file_size > LARGEST_MEMBER:
            why = f"unpacks to more than {LARGEST_MEMBER >> 20} MB: make the image smaller"
        elif info.file_size > 1 << 20 and info.file_size > MOST_TIMES * packed:
            why = f"unpacks to {info.file_size // packed} times its size, which no image does: leave it out"
        else:
            return
        raise ParameterError(f"{shown(name)} in {self._name} {why}.")

    def _damaged(self, why: object) -> ParameterError:
        told = str(why)[:120] or type(why).__name__
        return ParameterError(f"{self._name} cannot be unpacked ({told}): zip the folder anew.")


_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
"""What Python's zipfile raises for files that are none."""
