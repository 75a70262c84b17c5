"""Folders of images: the classes, the crop, and the images that cannot be read."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_meanflow.data import ImageFolder, open_source
from keras_meanflow.data.folder import centre_crop, read_image

GOLDEN = Path(__file__).parents[1] / "golden"


def save(path, value=128, size=(20, 14), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    color = value if mode in ("L", "I;16") else (value, value, value, 255)[: len(mode)]
    Image.new(mode, size, color).save(path)
    return path


@pytest.fixture
def classes(tmp_path):
    """Two classes, three images: zebra/a.png, and ant/b.png and ant/deep/c.jpeg."""
    save(tmp_path / "zebra" / "a.png", 255)
    save(tmp_path / "ant" / "b.png", 0)
    save(tmp_path / "ant" / "deep" / "c.jpeg", 51)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / ".thumbnails").mkdir()
    return tmp_path


def cut_off(path):
    """A JPEG that opens, but whose pixels cannot be read."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    return path


def test_classes_are_the_sub_folders_in_order(classes):
    source = ImageFolder(classes, 8)
    x, y = source.take([2, 0, 1])
    assert source.class_names == ("ant", "zebra") and source.num_classes == 2
    assert y.tolist() == [1, 0, 0] and y.dtype == np.int32
    assert x.shape == (3, 8, 8, 3) and x.dtype == np.float32 and source.shape == (8, 8, 3)
    np.testing.assert_allclose(x.mean((1, 2, 3)), [1, -1, -0.6], atol=1e-6)


def test_a_flat_folder_has_no_labels(tmp_path):
    save(tmp_path / "a.png")
    source = open_source(tmp_path, 8, 1)
    x, y = source.take([0, 0])
    assert x.shape == (2, 8, 8, 1) and y is None
    assert source.class_names == () and source.num_classes is None


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path):
    names = [str(i) for i in range(11)]
    for name in names:
        save(tmp_path / name / "a.png", 20 * int(name))
    source = ImageFolder(tmp_path, 8)
    assert list(source.class_names) == names
    x, y = source.take(range(11))
    np.testing.assert_allclose((x[:, 0, 0, 0] + 1) * 127.5, 20 * y, atol=1e-4)


def test_what_is_left_out_is_counted_and_named_and_hidden_folders_are(classes, tmp_path_factory):
    save(classes / "ant" / ".ipynb_checkpoints" / "b-checkpoint.png")
    save(classes / "ant" / "deep" / ".cache" / "c.png")
    elsewhere = save(tmp_path_factory.mktemp("elsewhere") / "d.png").parent
    (classes / "zebra" / "linked").symlink_to(elsewhere)
    with pytest.warns(UserWarning, match="4 entries .* are left out") as caught:
        source = ImageFolder(classes, 8)
    assert len(source) == 3
    for name in ("notes.txt", ".ipynb_checkpoints", "deep/.cache", "zebra/linked"):
        assert name in str(caught[0].message)


def test_splits_are_no_classes(tmp_path):
    save(tmp_path / "train" / "ant" / "a.png")
    save(tmp_path / "val" / "ant" / "a.png")
    with pytest.raises(ValueError, match=r"the splits train, val: name one of them, as in .*train"):
        ImageFolder(tmp_path, 8)
    assert ImageFolder(tmp_path / "train", 8).class_names == ("ant",)


def test_a_photograph_is_turned_as_its_exif_data_says(tmp_path):
    image = Image.fromarray(np.repeat([[0, 255]], 2, axis=0).astype("uint8"))
    exif = image.getexif()
    exif[0x0112] = 6  # the first row is the right side
    image.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", 2, 1)[..., 0].tolist() == [[0, 0], [255, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_whatever_colour_they_hide(tmp_path, mode):
    for value in (0, 255):
        image = Image.new("RGBA", (4, 4), (value, value, value, 0))
        name, settings = tmp_path / f"{mode}-{value}.png", {}
        if mode == "P":
            image, settings = Image.new("P", (4, 4), 0), {"transparency": 0}
        (image if mode == "P" else image.convert(mode)).save(name, **settings)
        assert (read_image(name, 4, 3) == 255).all() and (read_image(name, 4, 1) == 255).all()
    assert read_image(name, 4, 4)[0, 0, 3] == 0


def test_the_crop_equals_guided_diffusions():
    sys.path.insert(0, str(GOLDEN))
    try:
        from data_centre_crop import SIDE, images
    finally:
        sys.path.remove(str(GOLDEN))
    theirs = np.load(GOLDEN / "data_centre_crop.npz")["crops"].astype(int)
    ours = np.stack([np.asarray(centre_crop(image, SIDE)) for image in images()]).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_a_real_photograph_keeps_its_mean_colour_up_to_rounding(shared_data):
    file = sorted((shared_data / "imagenet_sample_256").glob("*.jpg"))[0]
    with Image.open(file) as image:
        mean = np.asarray(image.convert("RGB"), "float64").mean((0, 1))
    # Pillow rounds half up, on average 1/2 of 255 in each of the three halvings.
    np.testing.assert_allclose(read_image(file, 32).mean((0, 1)) - mean, 1.5, atol=0.5)


@pytest.mark.parametrize("mode, channels", [("L", 3), ("RGBA", 3), ("RGB", 1), ("RGB", 4)])
def test_images_are_converted_to_the_channels_asked_for(tmp_path, mode, channels):
    save(tmp_path / "a.png", 200, mode=mode)
    assert (read_image(tmp_path / "a.png", 8, channels)[..., 0] == 200).all()


def test_an_image_that_does_not_open_is_refused_by_name(classes):
    (classes / "ant" / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"Received 1 that cannot be read.*bad\.png.*'skip'"):
        ImageFolder(classes, 8)


def test_an_image_that_does_not_open_is_skipped_with_a_count(classes):
    (classes / "ant" / "bad.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"bad\.png"):
        source = ImageFolder(classes, 8, on_error="skip")
    assert (len(source), source.skipped) == (3, 1)


def test_an_image_with_broken_pixels_is_refused_by_name(classes):
    cut_off(classes / "ant" / "cut.jpg")
    source = ImageFolder(classes, 8)
    with pytest.raises(ValueError, match=r"cut\.jpg"):
        source.take(range(4))


def test_an_image_with_broken_pixels_is_replaced_by_the_next(classes):
    cut_off(classes / "ant" / "cut.jpg")
    source = ImageFolder(classes, 8, on_error="skip")
    with pytest.warns(UserWarning, match=r"cut\.jpg"):
        x, y = source.take([0, 1, 1])
    assert source.skipped == 1 and y.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(x[1], source.take([2])[0][0])


def test_16_bit_images_are_refused_rather_than_clipped(tmp_path):
    save(tmp_path / "deep.png", 3000, mode="I;16")
    with pytest.raises(ValueError, match="more than 8 bits a channel"):
        ImageFolder(tmp_path, 8)


def test_folders_without_clear_content_are_refused(tmp_path):
    with pytest.raises(ValueError, match="It holds neither"):
        ImageFolder(tmp_path, 8)
    with pytest.raises(ValueError, match="There is none at .*nowhere"):
        ImageFolder(tmp_path / "nowhere", 8)
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="Received .*dog without any"):
        ImageFolder(tmp_path, 8)
    save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match="Received both: loose.png beside dog/"):
        ImageFolder(tmp_path, 8)


def test_a_folder_of_nothing_but_broken_images_is_refused_even_when_skipping(tmp_path):
    cut_off(tmp_path / "cut.jpg")
    source = ImageFolder(tmp_path, 8, on_error="skip")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none whose pixels"):
        source.take([0])


@pytest.mark.parametrize(
    "settings", [dict(image_size=0), dict(channels=2), dict(on_error="ignore")], ids=str
)
def test_settings_out_of_range_are_refused(classes, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ImageFolder(classes, **{"image_size": 8, **settings})


def test_a_folder_needs_a_size(classes):
    with pytest.raises(ValueError, match="image_size must be given"):
        open_source(classes)
