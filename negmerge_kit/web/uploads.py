"""Images that a visitor sends: checked in the app's private folder, and only then anywhere else."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from negmerge_kit.errors import ParameterError
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.vision.data.checking import checked_image
from negmerge_kit.vision.data.source import SPLITS
from negmerge_kit.web.archives import (
    LARGEST_WHOLE,
    MOST_FILES,
    Archive,
    check_distinct,
    checked_parts,
    is_system_file,
    shown,
)

FEWEST_IMAGES = 20
LARGEST_FILE = "2gb"
"""What the app's upload route takes of one file, where uploads are allowed at all: a zip, or weights."""

PUBLIC = "this app is public: it takes no uploads and fine-tunes nothing; run `negmerge demo` on a machine of your own."


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


class RefuseUploads:
    """Answers gradio's own upload route with a refusal, before a byte of the body is read: for a public app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/upload"):
            await PlainTextResponse(PUBLIC, status_code=403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def is_upload(scope: Scope) -> bool:
    """Whether a request is gradio's upload: the one route that takes more than a small body."""
    return bool(scope["method"] == "POST" and scope["path"] == "/gradio_api/upload")


class Uploads:
    """Where uploads may come from, and the private folder in which they are checked.

    Args:
        arrived: the only folder that files are read from: gradio's own cache, where its upload route puts them.
        private: a folder of this user alone; it is empty again after every upload.
        allowed: False refuses every upload, whoever calls: a public app.
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
            report: told which image is being checked, and the share that is done. What it raises ends the upload.

        Raises:
            ParameterError, SceneError: a sentence for the first thing that is wrong; nothing is left behind.
        """
        with self.arrived(files) as paths:
            self._private.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="checking-", dir=self._private))
            try:
                if len(paths) == 1 and paths[0].suffix.lower() == ".zip":
                    archive = Archive(paths[0], shown(paths[0].name))
                    yield _take(archive.names, archive.read(), folder, report)
                else:
                    parts = _named(paths, names)
                    contents = ((part, path.read_bytes()) for part, path in zip(parts, paths, strict=True))
                    yield _take(parts, contents, folder, report)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _own(self, file: str) -> Path:
        path = Path(file)
        if "\0" in file or path.is_symlink() or not path.resolve().is_relative_to(self._arrived):
            raise ParameterError("that is no file that was uploaded here: choose a zip or a folder of images.")
        if not path.is_file():
            raise ParameterError("this upload is not there any more: choose the files again.")
        return path


def _named(paths: Sequence[Path], names: object) -> list[tuple[str, ...]]:
    """Each file's path within the chosen folder."""
    if not isinstance(names, list) or len(names) != len(paths):
        raise ParameterError("the upload does not say which folders its images lie in: send a zip, or choose a folder.")
    if sum(path.stat().st_size for path in paths) > LARGEST_WHOLE:
        raise ParameterError(f"this folder has more than {LARGEST_WHOLE >> 30} GB: send fewer or smaller images.")
    return [checked_parts(name) for name in names]


def _take(
    names: Sequence[tuple[str, ...]],
    contents: Iterator[tuple[tuple[str, ...], bytes]],
    folder: Path,
    report: ProgressFn,
) -> Taken:
    """Check every image and write it under its class; its own name is not kept."""
    check_distinct(names)
    images = [parts for parts in names if not is_system_file(parts)]
    places = _places(images)
    numbers: Counter[tuple[str, ...]] = Counter()
    digests: list[str] = []
    seen: Counter[str] = Counter()
    for parts, data in contents:
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


def _places(images: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
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
