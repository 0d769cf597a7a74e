import numpy as np
import pytest
import torch
from tests.evaluate import folders

from attnchain.errors import DataSetError, ImageError
from attnchain.evaluate import LAYOUTS, open_data_set
from attnchain.evaluate.catalogue import COARSE

OBJECT = torch.from_numpy(folders.block() > 0).long()[None]

# layout: picture folder, label folder, endings
OBJECTS = {
    "berkeley": ("images", "masks", (".jpg", ".png")),
    "davis16val": ("images", "masks", (".jpg", ".png")),
    "davis345": ("img", "gt", (".jpg", ".png")),
    "davis2016": ("JPEGImages/480p/bear", "Annotations/480p/bear", (".jpg", ".png")),
    "ecssd": ("images", "ground_truth_mask", (".jpg", ".png")),
    "duts": ("DUTS-TE-Image", "DUTS-TE-Mask", (".jpg", ".png")),
    "dut-omron": ("DUT-OMRON-image", "pixelwiseGT-new-PNG", (".jpg", ".png")),
}
TRIMAPS = {
    "grabcut": ("images", "masks", (".png", ".png")),
    "grabcut-public": ("data_GT", "boundary_GT", (".jpg", ".bmp")),
    "voc99-objects": ("images", "objects", (".png", ".png")),
}


@pytest.mark.parametrize("layout", OBJECTS)
def test_an_object_is_one_and_the_rest_zero(tmp_path, layout):
    pictures, labels, endings = OBJECTS[layout]
    folders.pairs(tmp_path, pictures, labels, endings=endings)
    data_set = open_data_set(layout, tmp_path)
    assert len(data_set.names) == 4
    assert data_set.picture(data_set.names[0]).size == folders.SIZE
    assert data_set.kind == "object"
    torch.testing.assert_close(data_set.truth(data_set.names[0]), OBJECT)


@pytest.mark.parametrize("layout", TRIMAPS)
def test_unknown_pixels_of_a_trimap_are_not_scored(tmp_path, layout):
    pictures, labels, endings = TRIMAPS[layout]
    folders.pairs(tmp_path, pictures, labels, endings=endings, values=folders.trimap())
    truth = open_data_set(layout, tmp_path).truth("a")
    expected = OBJECT.clone()
    expected[..., 40] = -1
    torch.testing.assert_close(truth, expected)


def test_names_of_frames_keep_their_sequence(tmp_path):
    pictures, labels, endings = OBJECTS["davis2016"]
    folders.pairs(tmp_path, pictures, labels, endings=endings)
    assert open_data_set("davis2016", tmp_path).names[0] == "bear/a"


def test_classes_keep_their_numbers_and_void_is_left_out(tmp_path):
    truth = open_data_set("voc99", folders.classes(tmp_path)).truth("a")
    assert truth.unique().tolist() == [-1, 0, 3, 7]
    assert int((truth == -1).sum()) == 4 * 32


def test_unlabelled_pixels_of_coco128_are_left_out(tmp_path):
    folders.pairs(tmp_path, "images", "masks", values=folders.block(5, 0))
    assert open_data_set("coco128", tmp_path).truth("b").unique().tolist() == [-1, 5]


def test_voc2012_takes_the_pictures_of_its_list(tmp_path):
    folders.pairs(tmp_path, "JPEGImages", "SegmentationClass", endings=(".jpg", ".png"))
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("b\nd\n")
    (tmp_path / "SegmentationClass/a.png").unlink()
    assert open_data_set("voc2012", tmp_path).names == ("b", "d")
    (lists / "val.txt").write_text("zebra\n")
    with pytest.raises(DataSetError, match="zebra"):
        open_data_set("voc2012", tmp_path)
    (lists / "val.txt").unlink()
    with pytest.raises(DataSetError, match="list of pictures"):
        open_data_set("voc2012", tmp_path)


def test_coco_stuff_is_read_in_27_groups(tmp_path):
    values = folders.block(0, 181)
    values[0] = 255
    where = ("images/val2017", "annotations/val2017")
    folders.pairs(tmp_path, *where, values=values, endings=(".jpg", ".png"))
    truth = open_data_set("coco-stuff-27", tmp_path).truth("a")
    assert truth.unique().tolist() == [-1, 9, 24]
    chosen = tmp_path / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"
    chosen.parent.mkdir(parents=True)
    chosen.write_text("c\n")
    assert open_data_set("coco-stuff-27", tmp_path).names == ("c",)


def test_the_groups_of_coco_stuff_are_12_of_things_and_15_of_stuff():
    assert len(COARSE) == 182
    assert sorted(set(COARSE[:91].tolist())) == list(range(12))
    assert sorted(set(COARSE[91:].tolist())) == list(range(12, 27))
    # person, bicycle, cat, banana, grass, sea, sky-other, wood, all from the data's own
    # hierarchy file
    numbers = [0, 1, 16, 51, 123, 154, 156, 181]
    assert COARSE[numbers].tolist() == [9, 11, 7, 2, 22, 26, 23, 24]


@pytest.mark.parametrize("layout", ["bsds500", "bsds500-public"])
def test_every_person_of_bsds_has_a_layer(tmp_path, layout):
    if layout == "bsds500-public":
        folders.regions(tmp_path)
        for old, new in (("images", "data/images"), ("masks", "data/groundTruth")):
            (tmp_path / new).mkdir(parents=True)
            (tmp_path / old).rename(tmp_path / new / "test")
    else:
        folders.regions(tmp_path)
    truth = open_data_set(layout, tmp_path).truth("0")
    assert truth.shape == (2, 32, 48)
    assert [person.unique().tolist() for person in truth] == [[1, 2], [1, 2, 3]]


def test_imagenet_segmentation_is_read_from_its_file_or_folder(tmp_path):
    pytest.importorskip("h5py")
    folders.imagenet(tmp_path / "gtsegs_ijcv.mat")
    for place in (tmp_path, tmp_path / "gtsegs_ijcv.mat"):
        data_set = open_data_set("imagenet-segmentation", place)
        assert data_set.names == ("0000", "0001")
        found = np.asarray(data_set.picture("0001"))
        np.testing.assert_array_equal(found, np.asarray(folders.picture(1)))
        torch.testing.assert_close(data_set.truth("0001"), OBJECT)


def test_another_file_is_not_taken_for_imagenet_segmentation(tmp_path):
    pytest.importorskip("h5py")
    file = tmp_path / "gtsegs_ijcv.mat"
    file.write_bytes(b"MATLAB 5.0 and no HDF5")
    with pytest.raises(DataSetError, match="is not the file"):
        open_data_set("imagenet-segmentation", file)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_folder_is_named(tmp_path, layout):
    with pytest.raises(DataSetError, match="does not exist"):
        open_data_set(layout, tmp_path / "nowhere")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataSetError, match="holds no picture"):
        open_data_set("grabcut", tmp_path)


def test_a_folder_without_labels_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataSetError, match="expected a folder"):
        open_data_set("grabcut", tmp_path)


def test_a_picture_without_labels_is_named(tmp_path):
    folders.objects(tmp_path)
    (tmp_path / "masks/c.png").unlink()
    with pytest.raises(DataSetError, match=r"1 pictures without labels.*'c'.*c\.png"):
        open_data_set("grabcut", tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path):
    folders.objects(tmp_path)
    folders.save(tmp_path / "images/b.jpg", folders.picture(9))
    with pytest.raises(DataSetError, match=r"b\.jpg and .*b\.png are two files"):
        open_data_set("grabcut", tmp_path)


@pytest.mark.parametrize("ending", [".webp", ".tif", ".bmp", ".JPG"])
def test_pictures_of_every_format_are_taken(tmp_path, ending):
    folders.pairs(tmp_path, "images", "masks", endings=(ending, ".png"))
    data_set = open_data_set("grabcut", tmp_path)
    assert data_set.names == ("a", "b", "c", "d")
    assert data_set.picture("a").size == folders.SIZE
    assert not data_set.notes


def test_what_is_left_out_is_counted(tmp_path):
    folders.objects(tmp_path)
    (tmp_path / "images/e.heic").write_bytes(b"")
    folders.save(tmp_path / "masks/f.png", folders.trimap())
    folders.save(tmp_path / "masks/g.png", folders.trimap())
    notes = open_data_set("grabcut", tmp_path).notes
    assert len(notes) == 2
    assert notes[0].startswith("1 files in ")
    assert notes[0].endswith("the first one 'e.heic'")
    assert notes[1].startswith("2 files in ")
    assert notes[1].endswith("without a picture are left out, the first one 'f'")


def test_hidden_files_and_folders_are_left_alone(tmp_path):
    folders.objects(tmp_path)
    for place in (".thumbs/a.png", "__MACOSX/a.png", "._a.png"):
        folders.save(tmp_path / "images" / place, folders.picture())
        folders.save(tmp_path / "masks" / place, folders.trimap())
    data_set = open_data_set("grabcut", tmp_path)
    assert data_set.names == ("a", "b", "c", "d")
    assert not data_set.notes


def test_labels_void_in_every_pixel_are_refused(tmp_path):
    folders.pairs(tmp_path, "images", "masks", values=folders.block(255, 255))
    with pytest.raises(DataSetError, match="'a' are void in every pixel"):
        open_data_set("voc99", tmp_path).truth("a")


def test_a_digest_depends_on_picture_and_labels(tmp_path):
    folders.objects(tmp_path)
    data_set = open_data_set("grabcut", tmp_path)
    first = data_set.digest("a")
    assert first == data_set.digest("a") != data_set.digest("b")
    (tmp_path / "images/a.png").unlink()
    assert data_set.digest("a") is None


def test_an_unknown_layout_lists_the_known_ones():
    with pytest.raises(DataSetError, match="grabcut, davis16val"):
        open_data_set("pascal", ".")


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_damaged_labels_are_named(tmp_path, content):
    folders.objects(tmp_path)
    (tmp_path / "masks/b.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"labels cannot be read.*b\.png"):
        open_data_set("grabcut", tmp_path).truth("b")


def test_a_matlab_file_of_something_else_is_damaged(tmp_path):
    from scipy.io import savemat

    folders.regions(tmp_path)
    savemat(tmp_path / "masks/1.mat", {"other": 1})
    with pytest.raises(ImageError, match=r"1\.mat"):
        open_data_set("bsds500", tmp_path).truth("1")
