"""How a picture of any mode becomes 8-bit RGB: the rows of docs/images.md one by one, through the files themselves."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from negmerge_kit.data import find_data
from negmerge_kit.data.checking import checked_image
from negmerge_kit.data.transform import Transform, UnclearRangeError, as_rgb, notice
from negmerge_kit.errors import SceneError
from negmerge_kit.scenes.find import open_scene, scene_from_json
from negmerge_kit.scenes.zero_shot import ZeroShotScene
from tests.data.pictures import encoded

DOCS = Path(__file__).parents[2] / "docs" / "images.md"
RAMP = np.array([[0, 0x0100, 0x7FFF], [0x8000, 0xABCD, 0xFFFF]], dtype=np.uint16)
HIGH_BYTES = [[0, 1, 127], [128, 0xAB, 255]]


def saved(image, kind, **settings):
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def read(data, **reading):
    with Image.open(io.BytesIO(data)) as image:
        picture = as_rgb(image, **reading)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def grey(data, **reading):
    """One channel of a picture whose three are alike."""
    pixels = read(data, **reading)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].tolist()


def big_endian_tiff(values, **tags):
    """A grey TIFF of 16 bits in Motorola's order, as microscopes write it."""
    import struct

    high, wide = values.shape
    entries = {256: wide, 257: high, 258: 16, 259: 1, 262: 1, 273: 0, 277: 1, 278: high, 279: values.size * 2, **tags}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(entries.items()))
    return b"MM\0*" + struct.pack(">IH", 8, len(entries)) + directory + bytes(4) + values.astype(">u2").tobytes()


# --- ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(RAMP), "PNG"),
        saved(Image.fromarray(RAMP), "TIFF"),
        big_endian_tiff(RAMP),
        saved(Image.fromarray(RAMP), "PPM"),
    ],
    ids=["PNG", "TIFF", "TIFF big-endian", "PGM"],
)
def test_16_bit_grey_is_read_by_its_high_byte(data):
    assert grey(data) == HIGH_BYTES


def test_16_bit_grey_is_what_16_bit_colour_is():
    """Pillow itself reduces 16-bit RGB: the two agree to the last bit."""
    import struct
    import zlib

    rows = b"".join(b"\0" + np.repeat(row[:, None], 3, 1).astype(">u2").tobytes() for row in RAMP)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    assert grey(data) == HIGH_BYTES


def test_a_tiff_in_which_zero_is_white_is_turned_round():
    assert grey(big_endian_tiff(RAMP)) == HIGH_BYTES
    import struct

    data = bytearray(saved(Image.fromarray(RAMP), "TIFF"))
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", 0)
    assert grey(bytes(data)) == [[255 - value for value in row] for row in HIGH_BYTES]


def test_12_bits_are_read_by_their_own_range():
    image = Image.fromarray(np.array([[0, 16, 2048, 4095]], dtype=np.uint16))
    image.tag_v2 = {258: (12,)}
    assert np.asarray(as_rgb(image))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (np.float32, [0.0, 0.5, 1.0], [0, 128, 255]),
        (np.float32, [0.0, 100.4, 255.0], [0, 100, 255]),
        (np.int32, [0, 7, 255], [0, 7, 255]),
    ],
)
def test_32_bits_are_read_where_their_range_is_clear(kind, values, expected):
    assert grey(saved(Image.fromarray(np.array([values], dtype=kind)), "TIFF")) == [expected]


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        (np.float32, [0.0, 812.0], "float samples run from 0 to 812"),
        (np.float32, [-1.0, 1.0], "float samples run from -1 to 1"),
        (np.float32, [0.0, np.nan], "float samples run from nan to nan"),
        (np.int32, [0, 4095], "32-bit samples run from 0 to 4095"),
        (np.int32, [-5, 200], "32-bit samples run from -5 to 200"),
    ],
)
def test_32_bits_of_an_unclear_range_are_refused_with_the_range(kind, values, told):
    data = saved(Image.fromarray(np.array([values], dtype=kind)), "TIFF")
    with pytest.raises(UnclearRangeError, match=told):
        read(data)
    with pytest.raises(SceneError, match=rf"cell\.tif cannot be used: its .*{told}, and nothing says what is white"):
        checked_image("cell.tif", data)


# --- colours --------------------------------------------------------------------------------------

RED = (255, 0, 0)


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("1", 1, "PNG", (255, 255, 255)),
        ("1", 0, "TIFF", (0, 0, 0)),
        ("L", 77, "PNG", (77, 77, 77)),
        ("RGB", (1, 2, 3), "BMP", (1, 2, 3)),
        ("CMYK", (0, 255, 255, 0), "TIFF", RED),
        ("CMYK", (0, 0, 0, 255), "TIFF", (0, 0, 0)),
        ("YCbCr", (76, 85, 255), "JPEG", (254, 0, 0)),
        ("LAB", (255, 128, 128), "TIFF", (255, 255, 255)),
        ("LAB", (0, 128, 128), "TIFF", (0, 0, 0)),
        ("LAB", (138, 209, 198), "TIFF", RED),
    ],
)
def test_colours_of_every_mode(mode, colour, kind, expected):
    data = saved(Image.new(mode, (2, 2), colour), kind)
    assert Image.open(io.BytesIO(data)).mode in (mode, "RGB")  # Pillow itself makes RGB of a YCbCr file
    for picture in (read(data), np.asarray(as_rgb(Image.new(mode, (2, 2), colour)))):
        assert np.abs(picture[0, 0].astype(int) - expected).max() <= 5, picture[0, 0]


def test_a_photograph_in_cmyk_is_what_it_was_in_rgb():
    """JPEG stores CMYK inverted, after Adobe."""
    pixels = np.asarray(Image.new("RGB", (16, 16), (200, 40, 90)))
    data = saved(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=100)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(read(data).astype(int) - pixels).max() <= 3


def test_of_an_animation_the_first_picture_is_read():
    first, second = (Image.new("P", (2, 2), 0) for _ in range(2))
    first.putpalette([10, 20, 30] * 256)
    second.putpalette([90, 90, 90] * 256)
    assert read(saved(first, "GIF", save_all=True, append_images=[second]))[0, 0].tolist() == [10, 20, 30]


# --- transparency ---------------------------------------------------------------------------------


def palette(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 0] + [0] * 762)
    image.putpixel((1, 0), 1)
    return saved(image, "PNG", transparency=transparency)


def pixels_of(mode, *colours):
    image = Image.new(mode, (len(colours), 1))
    for x, colour in enumerate(colours):
        image.putpixel((x, 0), colour)
    return image


BLACK_THEN = [[0, 0, 0], [200, 100, 0]]
WHITE_THEN = [[255, 255, 255], [200, 100, 0]]


@pytest.mark.parametrize(
    "data",
    [
        palette(0),
        palette(bytes([0, 255])),
        saved(pixels_of("RGBA", (0, 0, 0, 0), (200, 100, 0, 255)), "PNG"),
        saved(pixels_of("RGBA", (0, 0, 0, 0), (200, 100, 0, 255)), "TIFF"),
        saved(pixels_of("RGB", (0, 0, 0), (200, 100, 0)), "PNG", transparency=(0, 0, 0)),
    ],
    ids=["P, one colour", "P, alphas", "RGBA PNG", "RGBA TIFF", "RGB, a key colour"],
)
def test_transparent_pixels_are_as_stored_or_laid_onto_a_colour(data):
    """As torchvision, a black drawing on black nothing is black; laid onto white it is seen."""
    assert read(data)[0].tolist() == BLACK_THEN
    assert read(data, transparency="white")[0].tolist() == WHITE_THEN
    assert read(data, transparency="black")[0].tolist() == BLACK_THEN
    assert notice(Image.open(io.BytesIO(data))) == (False, True)


def test_transparency_of_greys():
    half = saved(pixels_of("LA", (100, 255), (100, 0), (0, 128)), "PNG")
    assert grey(half) == [[100, 100, 0]]
    assert grey(half, transparency="white") == [[100, 255, 127]]
    deep = saved(Image.fromarray(RAMP), "PNG", transparency=0x8000)
    assert grey(deep) == HIGH_BYTES
    assert grey(deep, transparency="white") == [HIGH_BYTES[0], [255, 0xAB, 255]]
    assert notice(Image.open(io.BytesIO(deep))).transparent


def test_an_alpha_channel_that_hides_nothing_is_no_transparency():
    data = saved(Image.new("RGBA", (3, 3), (9, 8, 7, 255)), "PNG")
    assert notice(Image.open(io.BytesIO(data))) == (False, False)
    assert read(data, transparency="white")[0, 0].tolist() == [9, 8, 7]


# --- orientation ----------------------------------------------------------------------------------

UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),
    7: np.rot90(UPRIGHT, 2).T,
    8: np.rot90(UPRIGHT, -1),
}
"""How a camera stores one picture under each orientation of EXIF (figure 5 of its specification)."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_orientation_is_as_stored_or_as_exif_says(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(np.ascontiguousarray(STORED[orientation])).convert("RGB"), kind, exif=exif, **settings)
    assert grey(data, orientation="exif") == UPRIGHT.tolist()
    turned_by_pillow = kind == "TIFF"
    assert grey(data) == (UPRIGHT if turned_by_pillow else STORED[orientation]).tolist()
    assert notice(Image.open(io.BytesIO(data))).turned == (orientation != 1 and not turned_by_pillow)


def test_the_two_readings_are_those_of_torchvision_and_of_datasets(tmp_path):
    import datasets
    from torchvision.datasets.folder import default_loader

    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 16, 3)).astype(np.uint8)).save(path, exif=exif)
    theirs = datasets.Image().decode_example({"path": str(path), "bytes": None})
    np.testing.assert_array_equal(read(path.read_bytes()), np.asarray(default_loader(str(path))))
    np.testing.assert_array_equal(read(path.read_bytes(), orientation="exif"), np.asarray(theirs.convert("RGB")))


def test_a_damaged_exif_block_turns_nothing_and_stops_nothing():
    data = saved(Image.new("RGB", (4, 2), RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert read(data, orientation="exif").shape == (2, 4, 3)


# --- the option, from the scene to the cache ------------------------------------------------------


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        home = tmp_path / "pets" / name
        home.mkdir(parents=True)
        for number in range(20):
            picture = Image.open(io.BytesIO(encoded(number, (20, 20))))
            picture.save(home / f"{number}.png", **({"exif": exif} if number == 3 else {}))
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "pets" / "dog" / "19.png")
    return f"folder:{tmp_path / 'pets'}"


def test_another_reading_is_another_place_in_the_cache_and_another_fingerprint(photographs):
    source, plain = find_data(photographs), Transform(16, 16)
    prints = {}
    for reading in ({}, {"orientation": "exif"}, {"transparency": "white"}):
        transform = Transform(16, 16, **reading)
        sets = [source.images(split, image_size=transform) for split in ("train", "val", "test")]
        prints[json.dumps(reading)] = [images.fingerprint() for images in sets]
        assert set(transform.json()) - set(plain.json()) == set(reading)
        counts = [source.noticed(split, image_size=transform) for split in ("train", "val", "test")]
        assert sum(count.get("turned", 0) for count in counts) == 2
        assert sum(count.get("transparent", 0) for count in counts) == 1
    assert len({tuple(found) for found in prints.values()}) == 3


def test_a_scene_names_its_reading_only_where_it_differs_and_a_pool_opens_with_it(photographs):
    plain = ZeroShotScene("pets", "tiny", photographs, ("shapes",))
    asked = ZeroShotScene("pets", "tiny", photographs, ("shapes",), orientation="exif", transparency="white")
    assert not set(plain.describe()) & {"corrupt", "orientation", "transparency"}, "as 0.1 described it"
    told = asked.describe()
    assert (told["orientation"], told["transparency"]) == ("exif", "white")
    assert scene_from_json(told) == asked
    with pytest.raises(SceneError, match="differs"):
        plain.require(told)


def test_a_scene_s_file_takes_both_words_and_refuses_others(tmp_path):
    path = tmp_path / "s.toml"
    plain = 'model = "tiny"\nforget = "digits"\nretain = "shapes"\n'
    path.write_text(plain + 'orientation = "exif"\ntransparency = "black"')
    assert open_scene(path).reading == {"orientation": "exif", "transparency": "black"}
    path.write_text(plain + 'orientation = "upright"')
    with pytest.raises(SceneError, match="orientation is 'upright': choose stored or exif"):
        open_scene(path)
    path.write_text('model = "classifier:tiny"\ndata = "scans"\nforget = {share = 0.1}\norientation = "exif"')
    assert open_scene(path).orientation == "exif"


def test_what_an_earlier_version_decoded_is_decoded_again(photographs, tmp_path):
    """Its 16-bit greys were white."""
    source = find_data(photographs)
    source.images("val", image_size=16)
    (record,) = tmp_path.rglob("val.json")
    pixels = record.with_suffix(".u8")
    told = json.loads(record.read_text())
    record.write_text(json.dumps({**told, "schema": 1}))
    right = pixels.read_bytes()
    pixels.write_bytes(b"\xff" * len(right))
    find_data(photographs).images("val", image_size=16)
    assert pixels.read_bytes() == right


def test_an_unclear_range_is_named_where_images_are_decoded(photographs, tmp_path):
    Image.fromarray(np.full((9, 9), 4000, dtype=np.int32)).save(tmp_path / "pets" / "cat" / "deep.tif")
    with pytest.raises(SceneError, match=r"deep\.tif \(its signed or 32-bit samples run from 4000 to 4000, and"):
        for split in ("train", "val", "test"):
            find_data(photographs).images(split, image_size=16)


def test_the_page_of_the_docs_names_every_mode_once():
    rows = re.findall(r"^\| `([^|]+?)` *\|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    named = [mode for row in rows for mode in re.split(r"`, `", row)]
    assert len(named) == len(set(named))
    assert set(named) >= {"1", "L", "P", "RGB", "LA", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"}
