"""One mask in every usual way of storing it: read alike, or refused with its values."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluate import folders

from attnchain.errors import DataSetError
from attnchain.evaluate import open_data_set
from attnchain.plot import save_labels

BLOCK = folders.block(1, 0)


def palette_of(index_colours, count=256):
    palette = np.zeros((count, 3), int)
    for index, colour in index_colours.items():
        palette[index] = colour
    return palette.ravel().tolist()


def indexed(values, palette):
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(palette)
    assert image.mode == "P"
    return image


DAVIS = palette_of({1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0)})
WEB = palette_of({225: (255, 255, 255), 9: (51, 0, 0)})
STORED = {
    "grey 0/255": BLOCK * 255,
    "1 bit": Image.fromarray(BLOCK * 255).convert("1"),
    "grey 0/1": BLOCK,
    "grey 0/100": BLOCK * 100,
    "16 bit 0/1": Image.fromarray(BLOCK.astype(np.uint16)),
    "16 bit 0/65535": Image.fromarray(BLOCK.astype(np.uint16) * 65535),
    "palette 0/1": indexed(BLOCK, DAVIS),
    "palette 0/255 of greys": indexed(BLOCK * 255, np.repeat(range(256), 3).tolist()),
    "palette, white first": Image.fromarray(BLOCK * 255).quantize(2),
    "palette of a web browser": indexed(BLOCK * 225, WEB),
    "two objects of DAVIS 2017": indexed(BLOCK + (BLOCK & (np.arange(48) > 30)), DAVIS),
    "RGB grey": np.stack([BLOCK * 255] * 3, -1),
    "RGBA, opaque": np.stack([*[BLOCK * 255] * 3, np.full_like(BLOCK, 255)], -1),
    "LA, opaque": Image.fromarray(BLOCK * 255).convert("LA"),
    "RGB red": np.stack([BLOCK * 255, BLOCK * 0, BLOCK * 0], -1),
}
LAYOUTS = ("grabcut", "berkeley", "davis345")


def opened(root, image, layout="berkeley"):
    places = ("img", "gt") if layout == "davis345" else ("images", "masks")
    folders.pairs(root, *places, values=image, count=1)
    return open_data_set(layout, root)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", STORED)
def test_one_mask_is_read_alike_however_it_is_stored(tmp_path, how, layout):
    truth = opened(tmp_path, STORED[how], layout).truth("a")
    assert torch.equal(truth[0], torch.from_numpy(BLOCK).long())


def test_our_own_segments_are_read_as_masks(tmp_path):
    folders.pairs(tmp_path, "images", "masks", count=1)
    save_labels(torch.from_numpy(BLOCK), tmp_path / "masks/a.png")
    truth = open_data_set("berkeley", tmp_path).truth("a")
    assert torch.equal(truth[0], torch.from_numpy(BLOCK).long())


def bits(path, depth):
    """A grey PNG of less than 8 bits, which Pillow does not write."""
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    per = 8 // depth
    rows = BLOCK.reshape(32, 48 // per, per).astype(np.uint8)
    shifts = np.arange(per - 1, -1, -1) * depth
    packed = (rows << shifts).sum(-1).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    head = struct.pack(">IIBBBBB", 48, 32, depth, 0, 0, 0, 0)
    parts = (
        chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("layout", ["grabcut", "voc99"])
def test_greys_of_few_bits_are_the_numbers_stored(tmp_path, depth, layout):
    folders.pairs(tmp_path, "images", "masks", count=1)
    bits(tmp_path / "masks/a.png", depth)
    truth = open_data_set(layout, tmp_path).truth("a")
    assert torch.equal(truth[0], torch.from_numpy(BLOCK).long())


def three(values):
    mask = np.zeros(BLOCK.shape, np.uint8)
    for number, value in enumerate(values):
        mask[:, 16 * number : 16 * (number + 1)] = value
    return mask


REFUSED = {
    "numbers of objects in grey": (three([0, 1, 2]), "values are 0, 1, 2"),
    "an object and void in grey": (three([0, 1, 255]), "values are 0, 1, 255"),
    "nothing is the rest": (three([1, 2, 2]), "values are 1, 2"),
    "palette without 0": (indexed(three([9, 225, 9]), WEB), "indices are 9, 225"),
    "16 bits, soft": (three([0, 1, 2]).astype(np.uint16) * 900, "0, 900, 1800"),
}


@pytest.mark.parametrize("layout", ["grabcut", "berkeley"])
@pytest.mark.parametrize("how", REFUSED)
def test_values_that_do_not_say_what_is_the_object_are_shown(tmp_path, how, layout):
    image, seen = REFUSED[how]
    with pytest.raises(DataSetError, match=rf"a\.png: expected 0 for the rest.*{seen}"):
        opened(tmp_path, image, layout).truth("a")


def test_more_values_than_fit_a_line_are_counted(tmp_path):
    values = np.arange(48 * 32).reshape(32, 48).astype(np.uint16)
    with pytest.raises(DataSetError, match="0, 1, 2, 3, 4, 5, 6, 7 and 1528 more"):
        opened(tmp_path, values).truth("a")


def test_unknown_alone_makes_no_trimap(tmp_path):
    with pytest.raises(DataSetError, match="values are 0, 128"):
        opened(tmp_path, three([0, 128, 0]), "grabcut").truth("a")


def test_soft_edges_are_cut_in_the_middle(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 48).round().astype(np.uint8), (32, 1))
    truth = opened(tmp_path, ramp).truth("a")
    assert torch.equal(truth[0], torch.from_numpy(ramp > 127).long())


def test_void_of_a_palette_is_left_out(tmp_path):
    image = indexed(three([0, 1, 255]), DAVIS)
    for layout in ("grabcut", "berkeley"):
        truth = opened(tmp_path / layout, image, layout).truth("a")
        assert truth[0, 0, ::16].tolist() == [0, 1, -1]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_labels_are_refused(tmp_path, mode):
    image = Image.fromarray(BLOCK * 255).convert(mode)
    image.putalpha(Image.fromarray(BLOCK * 200 + 55))
    with pytest.raises(DataSetError, match="alpha channel goes down to 55"):
        opened(tmp_path, image).truth("a")


def test_other_colour_spaces_are_refused(tmp_path):
    folders.pairs(tmp_path, "data_GT", "boundary_GT", endings=(".png", ".bmp"), count=1)
    picture = folders.picture().convert("CMYK")
    picture.save(tmp_path / "boundary_GT/a.bmp", format="TIFF")
    with pytest.raises(DataSetError, match="it is CMYK; save it as grey"):
        open_data_set("grabcut-public", tmp_path).truth("a")


@pytest.mark.parametrize("turn", range(1, 9))
def test_an_exif_turn_is_followed_in_picture_and_labels(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    folders.pairs(tmp_path, "images", "masks", count=1)
    corner = folders.block()
    corner[:8] = 0
    corner[:4, :4] = 255
    pixels = np.stack([corner] * 3, -1)
    Image.fromarray(pixels).save(tmp_path / "images/a.png", exif=exif)
    Image.fromarray(corner).save(tmp_path / "masks/a.png", exif=exif)
    data_set = open_data_set("berkeley", tmp_path)
    shown = np.asarray(data_set.picture("a"))[..., 0] > 127
    assert shown.shape == ((32, 48) if turn < 5 else (48, 32))
    assert torch.equal(data_set.truth("a")[0], torch.from_numpy(shown).long())


def test_classes_are_indices_whatever_the_palette(tmp_path):
    palette = [v for i in range(256) for v in (255 - i, 7, 7)]
    truth = opened(tmp_path, indexed(folders.class_labels(), palette), "voc99")
    assert truth.truth("a").unique().tolist() == [-1, 0, 3, 7]


def test_classes_in_a_palette_of_greys_are_the_greys(tmp_path):
    levels = [0, 3, 7, 255]
    labels = folders.class_labels()
    indices = np.searchsorted(levels, labels)
    image = indexed(indices, np.repeat(levels, 3).tolist())
    truth = opened(tmp_path, image, "voc99").truth("a")
    expected = np.where(labels == 255, -1, labels.astype(int))
    assert torch.equal(truth[0], torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("layout", "value"), [("voc99", 21), ("coco128", 81), ("voc99", 128)]
)
def test_a_number_of_no_class_is_shown(tmp_path, layout, value):
    with pytest.raises(DataSetError, match=rf"class numbers in 0\.\..*0, {value}"):
        opened(tmp_path, folders.block(value, 0), layout).truth("a")


def test_colours_are_not_taken_for_classes(tmp_path):
    colours = BLOCK[..., None] * np.array([192, 128, 0], np.uint8)
    with pytest.raises(DataSetError, match=r"colours are \(0, 0, 0\), \(192, 128, 0\)"):
        opened(tmp_path, colours, "voc99").truth("a")
