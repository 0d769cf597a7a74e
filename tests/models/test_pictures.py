"""Pictures come out upright and in RGB whatever their mode, or as one line of error."""

import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from attnchain.errors import ImageError, PictureWarning
from attnchain.models import pictures, read_picture

CHELSEA = Path(__file__).parents[2] / "examples" / "chelsea.png"
ORIENTATION = 0x0112


def rgb(picture):
    return np.array(picture)


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


@pytest.fixture
def scene(tmp_path):
    """A small picture without any symmetry."""
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(values)


def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width, height, rows, *, depth=8, colour=0, extra=b""):
    """A PNG file written by hand, so that its header may promise anything."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


# Right results


def test_an_rgb_picture_is_read_as_it_is(scene, tmp_path):
    picture = read_picture(saved(scene, tmp_path / "a.png"))
    assert picture.mode == "RGB"
    assert np.array_equal(rgb(picture), rgb(scene))


@pytest.mark.parametrize("kind", ["str", "path"])
def test_a_path_may_be_a_string(scene, tmp_path, kind):
    path = saved(scene, tmp_path / "a.png")
    assert read_picture(str(path) if kind == "str" else path).size == (7, 5)


# How a viewer turns the stored rows for each EXIF value, from the EXIF standard.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("value", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_exif_orientation_is_applied(scene, tmp_path, value, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(scene, tmp_path / f"a.{suffix}", exif=exif, **options)
    assert np.array_equal(rgb(read_picture(path)), UPRIGHT[value](rgb(scene)))


def test_exif_orientation_of_a_photograph(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = saved(Image.open(CHELSEA), tmp_path / "a.jpg", exif=exif, quality=95)
    found, upright = rgb(read_picture(path)), np.rot90(rgb(Image.open(CHELSEA)), -1)
    assert found.shape == (451, 300, 3)
    assert np.abs(found.astype(int) - upright).mean() < 3


def test_transparency_is_laid_on_white(tmp_path):
    values = np.array(
        [[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], dtype=np.uint8
    )
    path = saved(Image.fromarray(values), tmp_path / "a.png")
    found = rgb(read_picture(path))[0]
    assert found[0].tolist() == [10, 20, 30]
    assert found[1].tolist() == [255, 255, 255]
    assert found[2].tolist() == [127, 127, 127]


def test_grey_with_transparency(tmp_path):
    values = np.array([[[40, 255], [40, 0]]], dtype=np.uint8)
    path = saved(Image.fromarray(values), tmp_path / "a.png")
    with Image.open(path) as stored:
        assert stored.mode == "LA"
    assert rgb(read_picture(path))[0, :, 0].tolist() == [40, 255]


@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_becomes_its_colours(tmp_path, transparent):
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 10, 20, 30, 40, 250])
    picture.putpixel((1, 0), 1)
    options = {"transparency": 1} if transparent else {}
    found = rgb(read_picture(saved(picture, tmp_path / "a.png", **options)))[0]
    assert found[0].tolist() == [200, 10, 20]
    assert found[1].tolist() == ([255] * 3 if transparent else [30, 40, 250])


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 12850, 32768, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(values), tmp_path / f"a.{suffix}")
    found = rgb(read_picture(path))
    assert found[0, :, 0].tolist() == [0, 1, 50, 128, 255]
    assert (found == found[..., :1]).all()


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    rows = b"\0" + struct.pack(">HH", 1000, 25700)
    extra = chunk(b"tRNS", struct.pack(">H", 1000))
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, rows, depth=16, extra=extra))
    assert rgb(read_picture(path))[0, :, 0].tolist() == [255, 100]


def test_16_bit_colour_keeps_its_high_bytes(tmp_path):
    path = tmp_path / "a.png"
    row = b"\0" + struct.pack(">HHH", 0x1000, 0x8000, 0xFF00)
    path.write_bytes(png(1, 1, row, depth=16, colour=2))
    assert rgb(read_picture(path))[0, 0].tolist() == [0x10, 0x80, 0xFF]


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_is_converted(tmp_path, suffix):
    colours = {(0, 0, 0, 0): 255, (0, 0, 0, 255): 0, (0, 0, 0, 128): 127}
    for ink, grey in colours.items():
        picture = Image.new("CMYK", (16, 16), ink)
        found = rgb(read_picture(saved(picture, tmp_path / f"a.{suffix}")))
        assert np.abs(found.astype(int) - grey).max() <= 2, ink
    path = saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), tmp_path / f"b.{suffix}")
    assert np.abs(rgb(read_picture(path))[0, 0].astype(int) - [0, 255, 255]).max() <= 3


def test_black_and_white(tmp_path):
    picture = Image.new("1", (2, 1))
    picture.putpixel((1, 0), 1)
    path = saved(picture, tmp_path / "a.png")
    assert rgb(read_picture(path))[0].tolist() == [[0] * 3, [255] * 3]


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(PictureWarning, match=r"a\.gif is an animation; its first"):
        assert rgb(read_picture(path))[0, 0].tolist() == [255, 0, 0]


def test_one_pixel_is_a_picture(tmp_path):
    path = saved(Image.new("L", (1, 1), 77), tmp_path / "a.png")
    assert rgb(read_picture(path)).tolist() == [[[77, 77, 77]]]


@pytest.mark.parametrize("mode", ["RGBa", "La", "HSV", "YCbCr", "RGBX", "PA", "I;16B"])
def test_other_modes_in_memory(mode):
    assert pictures.to_rgb(Image.new(mode, (2, 2))).mode == "RGB"


# One line of error


def assert_refused(path, match):
    with pytest.raises(ImageError, match=match) as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path):
    assert_refused(tmp_path / "none.png", "no such file")


def test_a_path_through_a_file(scene, tmp_path):
    assert_refused(saved(scene, tmp_path / "a.png") / "b.png", "no such file")


def test_a_folder(tmp_path):
    assert_refused(tmp_path, "this is a folder")


def test_a_device_is_not_opened():
    assert_refused(Path("/dev/zero"), "no plain file")


def test_an_unreadable_file(scene, tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = saved(scene, tmp_path / "a.png")
    monkeypatch.setattr(Path, "open", denied)
    assert_refused(path, "cannot be read.*Permission denied")


def test_an_empty_file(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    assert_refused(path, "is empty")


def test_text_renamed(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("this is no picture\n" * 10)
    assert_refused(path, "not a picture")


def test_formats_that_run_programs_are_not_tried(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    assert_refused(path, "not a picture")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp", "avif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_cut_short(tmp_path, suffix, share):
    path = saved(Image.open(CHELSEA).convert("RGB"), tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ImageError, match=r"damaged|not a picture") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(20_000, 20_000), (13_400, 13_400)])
def test_a_bomb_is_refused_by_its_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size, zlib.compress(bytes(1000))))
    tracemalloc.start()
    assert_refused(path, "too large")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_bomb_is_refused_without_pillows_own_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(20_000, 20_000, b""))
    assert_refused(path, "20000 x 20000")


def test_a_large_picture_below_the_limit_gives_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    path = saved(Image.new("L", (30, 30)), tmp_path / "a.png")
    assert read_picture(path).size == (30, 30)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_without_a_range_are_refused(tmp_path, kind):
    values = np.full((2, 2), 1e6, dtype=kind)
    path = saved(Image.fromarray(values), tmp_path / "a.tiff")
    with pytest.raises(ImageError, match="8 or 16 bits"):
        read_picture(path)


def mode_or_error(path):
    try:
        return read_picture(path).mode
    except ImageError as error:
        return str(error)


def test_damaged_files_never_raise_anything_else(scene, tmp_path):
    """Random bytes in the head of good files; a fixed seed, so the test repeats."""
    generator = np.random.default_rng(0)
    path = tmp_path / "a"
    for format_name in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"):
        buffer = io.BytesIO()
        scene.save(buffer, format_name)
        for _ in range(60):
            content = bytearray(buffer.getvalue())
            for place in generator.integers(0, min(len(content), 80), 3):
                content[place] = generator.integers(0, 256)
            path.write_bytes(content)
            assert "\n" not in mode_or_error(path)


@pytest.mark.parametrize("path", [3, None, ["a.png"]], ids=str)
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ImageError, match="expected the path"):
        read_picture(path)


# Scientific pictures


def ramp(top, dtype=np.uint16):
    return np.linspace(0, top, 60).astype(dtype).reshape(6, 10)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("png", np.uint16), ("tiff", np.uint16), ("tiff", np.int32), ("pgm", np.uint16)],
)
def test_few_bits_in_a_larger_file_are_not_black(tmp_path, bits, suffix, dtype):
    white = 2**bits - 1
    path = saved(Image.fromarray(ramp(white, dtype)), tmp_path / f"a.{suffix}")
    with pytest.warns(PictureWarning, match=f"{bits} bits: .* {white} white"):
        found = rgb(read_picture(path))[..., 0]
    expected = ramp(white).astype(float) / white * 255
    assert np.abs(found - expected).max() <= 0.5


def test_what_is_not_full_scale_is_still_read_by_its_bits(tmp_path):
    path = saved(Image.fromarray(ramp(3000)), tmp_path / "a.png")
    with pytest.warns(PictureWarning, match="up to 3000, read as 12 bits"):
        assert rgb(read_picture(path)).max() == round(3000 / 4095 * 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_a_range_says_what_is_black_and_white(tmp_path, dtype):
    values = np.array([[40, 50, 100, 150, 200]], dtype)
    path = saved(Image.fromarray(values), tmp_path / "a.tiff")
    found = rgb(read_picture(path, value_range=(50, 150)))[0, :, 0]
    assert found.tolist() == [0, 0, 128, 255, 255]


def test_numbers_that_are_none_are_black(tmp_path):
    values = np.array([[np.nan, np.inf, -np.inf, 0.5]], np.float32)
    path = saved(Image.fromarray(values), tmp_path / "a.tiff")
    found = rgb(read_picture(path, value_range=(0, 1)))[0, :, 0]
    assert found.tolist() == [0, 255, 0, 128]


@pytest.mark.parametrize("bad", [(1, 1), (2, 1), (0, float("nan"))])
def test_a_range_that_is_none_is_refused(tmp_path, bad):
    path = saved(Image.fromarray(ramp(255)), tmp_path / "a.png")
    with pytest.raises(ImageError, match="LOW < HIGH"):
        read_picture(path, value_range=bad)


def test_a_range_of_a_colour_picture_is_refused(scene, tmp_path):
    with pytest.raises(ImageError, match="for grey pictures"):
        read_picture(saved(scene, tmp_path / "a.png"), value_range=(0, 1))


@pytest.mark.parametrize("top", [255, 4095, 65535])
def test_white_is_zero_in_16_bits(tmp_path, top):
    plain = saved(Image.fromarray(ramp(top)), tmp_path / "a.tiff")
    turned = saved(
        Image.fromarray(top - ramp(top)), tmp_path / "b.tiff", tiffinfo={262: 0}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PictureWarning)
        expected, found = (
            rgb(read_picture(path)).astype(int) for path in (plain, turned)
        )
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("alpha", ["empty", "used"])
def test_an_alpha_of_a_bmp_that_is_all_zero_is_none(tmp_path, alpha):
    pixels = np.full((2, 2, 4), (10, 20, 30, 0), np.uint8)
    if alpha == "used":
        pixels[0, 0, 3] = 255
    height, width = pixels.shape[:2]
    body = pixels[::-1][..., [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, 16, 0, 0, 0, 0)
    info += masks + bytes(124 - len(info) - len(masks))
    start = 14 + len(info)
    head = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start)
    (tmp_path / "a.bmp").write_bytes(head + info + body)
    found = rgb(read_picture(tmp_path / "a.bmp"))
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[1, 1].tolist() == ([10, 20, 30] if alpha == "empty" else [255] * 3)


def spoiled(kind):
    whole = bytearray(chunk(kind, b"spoiled\0\0"))
    whole[-1] ^= 1
    return bytes(whole)


NEEDLESS = {
    "profile": spoiled(b"iCCP"),
    "time": spoiled(b"tIME"),
    "text": spoiled(b"tEXt"),
    "clear": spoiled(b"tRNS"),
    "large_profile": chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(70_000_000))),
    "large_text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(70_000_000))),
}


@pytest.mark.parametrize("extra", NEEDLESS.values(), ids=NEEDLESS.keys())
def test_what_viewers_may_ignore_is_ignored(tmp_path, extra):
    rows = b"\0\x10\x80" * 2
    (tmp_path / "a.png").write_bytes(png(2, 2, rows, extra=extra))
    assert rgb(read_picture(tmp_path / "a.png"))[..., 0].tolist() == [[16, 128]] * 2


def test_orientation_and_transparency_survive_a_damaged_profile(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")
    extra = spoiled(b"iCCP") + chunk(b"tRNS", b"\0\x80") + chunk(*stored)
    (tmp_path / "a.png").write_bytes(png(2, 1, b"\0\x10\x80", extra=extra))
    assert rgb(read_picture(tmp_path / "a.png"))[..., 0].tolist() == [[16], [255]]


def test_pixels_that_are_damaged_are_refused_all_the_same(tmp_path):
    content = png(2, 2, b"\0\x10\x80" * 2, extra=spoiled(b"tIME"))
    (tmp_path / "a.png").write_bytes(content[:-26])
    assert_refused(tmp_path / "a.png", "damaged or cut short")


@pytest.mark.parametrize("thumbnail", [0, 1])
def test_the_thumbnail_of_a_tiff_is_passed_over(scene, tmp_path, thumbnail):
    path = tmp_path / "a.tiff"
    with TiffImagePlugin.AppendingTiffWriter(path, new=True) as pages:
        scene.resize((3, 2)).save(pages, "TIFF", tiffinfo={254: thumbnail})
        pages.newFrame()
        scene.save(pages, "TIFF")
    with pytest.warns(PictureWarning, match=f"2 pages; page {1 + thumbnail}"):
        assert read_picture(path).size == ((7, 5) if thumbnail else (3, 2))


def test_the_number_of_pixels_can_be_limited(scene, tmp_path):
    path = saved(scene, tmp_path / "a.png")
    assert read_picture(path, max_pixels=35).size == (7, 5)
    with pytest.raises(ImageError, match="at most 34 are read"):
        read_picture(path, max_pixels=34)
