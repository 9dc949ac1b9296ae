"""Uploads that attack: each is refused in one sentence with a remedy, and nothing of it is left behind."""

import io
import os
import pickle
import stat
import struct
import zipfile

import pytest
from PIL import Image

from negmerge_kit.app import uploads as limits
from negmerge_kit.app.uploads import Uploads
from negmerge_kit.data import checking
from negmerge_kit.data.folder import FolderSource
from negmerge_kit.errors import NegmergeError

from .drawings import CLASSES, drawing, drawings, zipped

ONE = CLASSES[0]
GOOD = drawings(8)


@pytest.fixture
def uploads(tmp_path):
    (tmp_path / "arrived").mkdir()
    return Uploads(tmp_path / "arrived", tmp_path / "private")


def sent(uploads, tmp_path, members, name="images.zip"):
    return str(zipped(tmp_path / "arrived" / name, members))


def left(tmp_path):
    return [path for folder in ("arrived", "private") for path in (tmp_path / folder).rglob("*") if path.is_file()]


def refused(uploads, tmp_path, files, names=None):
    """The sentence; nothing of the upload is left."""
    with pytest.raises(NegmergeError) as error, uploads.images(files, names):
        pass
    said = str(error.value)
    assert ": " in said and said.endswith(".") and "\n" not in said and str(tmp_path) not in said and len(said) < 400
    assert left(tmp_path) == [] and list((tmp_path / "private").glob("*")) == []
    return said


def test_a_zip_becomes_a_folder_of_classes_that_the_kit_reads(uploads, tmp_path):
    extra = {"outer/.DS_Store": b"x", "__MACOSX/outer/._a.png": b"x"}
    told = []
    file = sent(uploads, tmp_path, {f"outer/{name}": data for name, data in GOOD.items()} | extra)
    with uploads.images(file, report=lambda at: told.append(at.fraction)) as taken:
        assert taken.classes == tuple((name, 8) for name in CLASSES) and taken.left_out == 2 and taken.images == 24
        assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
        source = FolderSource(taken.folder)
        assert source.classes == tuple(name.replace("_", " ") for name in CLASSES)
        assert len(source.images("train", image_size=32)) == 20
    assert told == [0, 20 / 24] and left(tmp_path) == []


def test_a_folder_is_the_same_upload_as_its_zip_and_another_image_makes_another(uploads, tmp_path):
    def digest_of(members):
        paths = []
        for number, data in enumerate(members.values()):
            place = tmp_path / "arrived" / str(number)
            place.mkdir(exist_ok=True)
            paths.append(place / "same.png")
            paths[-1].write_bytes(data)
        with uploads.images([str(path) for path in paths], list(members)) as taken:
            return taken.digest

    with uploads.images(sent(uploads, tmp_path, GOOD)) as taken:
        assert taken.digest == digest_of(GOOD)
    assert digest_of(GOOD | {f"{ONE}/00.png": drawing(ONE, 99)}) != digest_of(GOOD)


def test_splits_of_ones_own_are_kept(uploads, tmp_path):
    members = {f"{split}/{name}": data for split in ("train", "test") for name, data in GOOD.items()}
    with uploads.images(sent(uploads, tmp_path, members)) as taken:
        assert sorted(path.name for path in taken.folder.iterdir()) == ["test", "train"]
    assert "all images in train" in refused(uploads, tmp_path, sent(uploads, tmp_path, {**GOOD, "train/x.png": b""}))


@pytest.mark.parametrize(
    "name",
    [
        "../up.png",
        "circle/../../up.png",
        "/etc/up.png",
        "C:\\up.png",
        "circle\\up.png",
        "c:up.png",
        "circle//up.png",
        "circle/./up.png",
        "circle/up\0.png",
        "circle/a\r\nSet-Cookie: b.png",
        "circle/con.png",
        "NUL/up.png",
        "circle/up.",
        " circle/up.png",
        "circle/\u202egnp.exe.png",
        "x" * 300 + "/up.png",
        "/".join("abcdefghijklmn") + "/up.png",
    ],
)
def test_names_that_lead_elsewhere(uploads, tmp_path, name):
    path = zipped(tmp_path / "arrived" / "images.zip", {**GOOD, name.replace("\0", "~"): drawing(ONE, 0)})
    if "\0" in name:  # zipfile itself writes no such name
        path.write_bytes(path.read_bytes().replace(name.replace("\0", "~").encode(), name.encode()))
    refused(uploads, tmp_path, str(path))
    file = tmp_path / "arrived" / "a.png"
    file.write_bytes(drawing(ONE, 0))
    refused(uploads, tmp_path, [str(file)], [name])
    assert not (tmp_path / "up.png").exists()


@pytest.mark.parametrize("twin", [f"{ONE}/00.PNG", f"{ONE.title()}/x.png", f"{ONE}/00.png"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates_by_case(uploads, tmp_path, twin):
    path = zipped(tmp_path / "arrived" / "images.zip", GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(twin, drawing(ONE, 0))
    assert "case" in refused(uploads, tmp_path, str(path))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip(uploads, tmp_path, kind):
    path = zipped(tmp_path / "arrived" / "images.zip", GOOD)
    info = zipfile.ZipInfo("circle/link.png")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "link" in refused(uploads, tmp_path, str(path))


def test_bombs(uploads, tmp_path, monkeypatch):
    bomb = {"circle/bomb.png": bytes(30 << 20)}
    assert "times its size" in refused(uploads, tmp_path, sent(uploads, tmp_path, GOOD | bomb))
    monkeypatch.setattr(limits, "LARGEST_MEMBER", 1 << 10)
    assert "unpacks to more than" in refused(uploads, tmp_path, sent(uploads, tmp_path, {**GOOD, "a/b": bytes(2048)}))
    monkeypatch.undo()
    monkeypatch.setattr(limits, "LARGEST_WHOLE", 2000)
    assert "more than" in refused(uploads, tmp_path, sent(uploads, tmp_path, GOOD))
    monkeypatch.undo()
    monkeypatch.setattr(limits, "MOST_FILES", 23)
    assert "24 files" in refused(uploads, tmp_path, sent(uploads, tmp_path, GOOD))


def test_a_file_that_is_longer_than_its_entry_says(uploads, tmp_path):
    """The directory says 10 bytes where 100 KB come out."""
    path = zipped(tmp_path / "arrived" / "images.zip", GOOD | {"circle/z.png": bytes(100_000)})
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\1\2")
    assert struct.unpack_from("<L", data, place + 24) == (100_000,)
    struct.pack_into("<L", data, place + 24, 10)
    path.write_bytes(data)
    assert "cannot be unpacked" in refused(uploads, tmp_path, str(path))


def test_files_that_lie_over_one_another(uploads, tmp_path):
    """A bomb without recursion: many entries of one and the same bytes."""
    path = zipped(tmp_path / "arrived" / "images.zip", {**GOOD, "circle/zz.png": os.urandom(4000)})
    data = path.read_bytes()
    start = data.find(b"PK\1\2")
    first = data.rfind(b"PK\1\2")
    last = data.rfind(b"PK\5\6")
    entry, entries = data[first:last], b""
    for number in range(10, 60):
        entries += entry.replace(b"circle/zz.png", f"circle/{number}.png".encode()[:13].ljust(13, b"x"))
    count = len(GOOD) + 1 + 50
    directory = data[start:last] + entries
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)
    path.write_bytes(data[:start] + directory + end)
    assert zipfile.is_zipfile(path) and "over one another" in refused(uploads, tmp_path, str(path))


def test_an_encrypted_or_oddly_packed_zip(uploads, tmp_path):
    path = zipped(tmp_path / "arrived" / "images.zip", GOOD)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, data.rfind(b"PK\1\2") + 8, 1)
    path.write_bytes(data)
    assert "password" in refused(uploads, tmp_path, str(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("circle/a.png", drawing(ONE, 0))
    assert "unusual" in refused(uploads, tmp_path, str(path))


@pytest.mark.parametrize(
    ("before", "behind"), [(b"", b"<html><script>1</script>"), (b"#!/bin/sh\n", b""), (drawing(ONE, 0), b"")]
)
def test_a_zip_that_is_something_else_too(uploads, tmp_path, before, behind):
    path = zipped(tmp_path / "arrived" / "images.zip", GOOD)
    path.write_bytes(before + path.read_bytes() + behind)
    refused(uploads, tmp_path, str(path))


def test_a_commented_a_cut_and_an_empty_zip(uploads, tmp_path):
    path = zipped(tmp_path / "arrived" / "images.zip", GOOD)
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"<html>hello"
    refused(uploads, tmp_path, str(path))
    for data in (whole[: len(whole) // 2], b"", b"PK\3\4", whole[:100] + bytes(50) + whole[150:], os.urandom(3000)):
        path.write_bytes(data)
        refused(uploads, tmp_path, str(path))


def inner_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("circle/a.png", drawing(ONE, 0))
    return file.getvalue()


def large(kind, side):
    """A picture of many pixels in few bytes."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, kind, **({"compression": "group4"} if kind == "TIFF" else {}))
    return file.getvalue()


class Evil:
    def __reduce__(self):
        return os.system, ("touch was-here",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        inner_zip(),
        drawing(ONE, 0) + inner_zip(),
        drawing(ONE, 0) + b"<html>",
        drawing(ONE, 0)[:-40],
        drawing(ONE, 0)[:60] + bytes(40),
        b"GIF89a" + bytes(20),
        b"<svg onload=x>",
        pickle.dumps(Evil()),
        large("PNG", 8000),
        large("TIFF", 8000),
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\xff\xd8\xff<html>",
    ],
    ids=range(14),
)
def test_what_is_no_image_or_more_than_one(uploads, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    assert "circle/x.png" in refused(uploads, tmp_path, sent(uploads, tmp_path, {**GOOD, "circle/x.png": data}))
    assert not (tmp_path / "was-here").exists()


def test_every_accepted_format_passes_under_its_own_ending():
    picture = Image.open(io.BytesIO(drawing(ONE, 1)))
    for kind, ending in checking.FORMATS.items():
        file = io.BytesIO()
        picture.save(file, kind)
        assert checking.checked_image("anything", file.getvalue()) == (ending, (False, False))


def test_a_phone_s_photo_is_refused_with_what_to_do(uploads, tmp_path):
    photo = {"a/photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)}
    assert "HEIC as JPEG" in refused(uploads, tmp_path, sent(uploads, tmp_path, GOOD | photo))


def test_too_few_images_one_class_or_none(uploads, tmp_path):
    few = dict(list(GOOD.items())[:10])
    assert "too few" in refused(uploads, tmp_path, sent(uploads, tmp_path, few))
    one = {f"circle/{number}.png": drawing(ONE, number) for number in range(20)}
    assert "one class" in refused(uploads, tmp_path, sent(uploads, tmp_path, one))
    loose = GOOD | {"loose.png": drawing(ONE, 0)}
    assert "no class's folder" in refused(uploads, tmp_path, sent(uploads, tmp_path, loose))


def test_only_what_was_uploaded_is_read(uploads, tmp_path):
    elsewhere = zipped(tmp_path / "elsewhere.zip", GOOD)
    (tmp_path / "arrived" / "link.zip").symlink_to(elsewhere)
    for file in (
        str(elsewhere),
        "/etc/passwd",
        str(tmp_path / "arrived" / "link.zip"),
        "\0",
        "../elsewhere.zip",
        None,
        7,
        [],
        {},
        [None],
        {"path": str(elsewhere)},
        str(tmp_path / "arrived" / "gone.zip"),
        str(tmp_path / "arrived" / ".." / "elsewhere.zip"),
        ["x"] * 30_000,
    ):
        with pytest.raises(NegmergeError) as error, uploads.images(file):
            pass
        assert "root:" not in str(error.value) and len(str(error.value)) < 300
    assert elsewhere.exists()


def test_a_public_app_takes_nothing(tmp_path):
    (tmp_path / "arrived").mkdir()
    uploads = Uploads(tmp_path / "arrived", tmp_path / "private", allowed=False)
    file = sent(uploads, tmp_path, GOOD)
    with pytest.raises(NegmergeError, match="public"), uploads.images(file):
        pass
    assert not (tmp_path / "private").exists()


def test_a_cancelled_upload_leaves_nothing(uploads, tmp_path):
    class Stop(NegmergeError):
        pass

    def tell(at):
        raise Stop

    with pytest.raises(Stop), uploads.images(sent(uploads, tmp_path, GOOD), report=tell):
        pass
    assert left(tmp_path) == []
