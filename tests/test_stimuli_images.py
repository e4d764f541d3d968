import struct
import subprocess
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from paperlib.stimuli.images import list_pictures, open_image, read_images, to_rgb

GREEN, WHITE, BLACK = (0, 255, 0), (255, 255, 255), (0, 0, 0)
NAMES = {
    "training": [
        *("00001_aardvark/aardvark_00b", "00001_aardvark/aardvark_01b"),
        *("00002_t-shirt/t-shirt_00b", "00002_t-shirt/t-shirt_01b"),
    ],
    "test": ["00001_bat1/bat1_00b", "00001_bat1/bat1_01b"],
}


def write_image_set(folder, names):
    """Write images and their metadata as THINGS-EEG2 has them; return the metadata."""
    metadata = {}
    for partition, prefix in (("training", "train"), ("test", "test")):
        paths = [folder / f"{partition}_images/{n}.jpg" for n in names[partition]]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (1, 100, 200)).save(path)
        concepts = [path.parent.name for path in paths]
        metadata[f"{prefix}_img_concepts"] = concepts
        metadata[f"{prefix}_img_concepts_THINGS"] = concepts
        metadata[f"{prefix}_img_files"] = [path.name for path in paths]
    save_metadata(folder, metadata)
    return metadata


def noise(sizes):
    """Random pictures of some sizes, as (rows, columns)."""
    rng = np.random.default_rng(0)
    pixels = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)
    return list(map(Image.fromarray, pixels))


def save_metadata(folder, metadata):
    np.save(folder / "image_metadata.npy", np.array(metadata, dtype=object))


@pytest.fixture
def metadata(tmp_path):
    return write_image_set(tmp_path, NAMES)


def test_rows_follow_the_conditions(tmp_path, metadata):
    images = read_images(tmp_path)
    assert images.drop(columns="path").to_numpy().tolist() == [
        ["aardvark_00b", "training", 1, "aardvark"],
        ["aardvark_01b", "training", 2, "aardvark"],
        ["t-shirt_00b", "training", 3, "t-shirt"],
        ["t-shirt_01b", "training", 4, "t-shirt"],
        ["bat1_00b", "test", 1, "bat1"],
        ["bat1_01b", "test", 2, "bat1"],
    ]
    assert all(path.is_absolute() and path.is_file() for path in images["path"])


@pytest.mark.parametrize(
    ("folder", "concept"),
    [("00001_bat", "bat"), ("hot_tub", "hot_tub"), ("00012_hot_tub", "hot_tub")],
)
def test_concepts_are_folders_without_their_number(tmp_path, metadata, folder, concept):
    old, new = (tmp_path / "test_images" / name for name in ("00001_bat1", folder))
    old.rename(new)
    save_metadata(tmp_path, metadata | {"test_img_concepts": [folder] * 2})
    assert read_images(tmp_path)["concept"].iloc[-1] == concept
    for path in (tmp_path / "training_images").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"4 of 6 images .*aardvark_00b.jpg"):
        read_images(tmp_path)
    (tmp_path / "image_metadata.npy").unlink()
    message = "image_metadata.npy is missing.*sample_attr"
    with pytest.raises(FileNotFoundError, match=message):
        read_images(tmp_path)


@pytest.mark.parametrize(
    ("key", "names", "message"),
    [
        ("test_img_files", None, "must hold a list of names 'test_img_files'"),
        *(
            ("test_img_concepts", names, "a list of names 'test_img_concepts'")
            for names in ([], [None, None], [3, 4], 7, ["../a.jpg"] * 2)
        ),
        ("train_img_files", ["a.jpg"] * 3, "4 concepts and 3 files"),
        ("test_img_files", ["aardvark_01b.jpg", "b.jpg"], "1 stems .*aardvark_01b"),
    ],
)
def test_damaged_metadata(tmp_path, metadata, key, names, message):
    del metadata[key]
    save_metadata(tmp_path, metadata | ({} if names is None else {key: names}))
    with pytest.raises(ValueError, match=message):
        read_images(tmp_path)


def test_meg_images_follow_their_numbers(tmp_path):
    """Two training images, a test image shown twice, a catch trial."""
    (tmp_path / "sourcedata").mkdir()
    (tmp_path / "sourcedata/sample_attributes_P1.csv").write_text(
        "trial_type,things_image_nr,image_path\n"
        "exp,12,images_meg/t-shirt/t-shirt_01b.jpg\n"
        "test,3,images_test_meg/bat1_13s.jpg\n"
        "catch,,images_catch_meg/catch001.jpg\n"
        "exp,7,images_meg/hot_tub/hot_tub_02s.jpg\n"
        "test,3,images_test_meg/bat1_13s.jpg\n"
    )
    for name in ("t-shirt/t-shirt_01b", "bat1/bat1_13s", "hot_tub/hot_tub_02s"):
        path = tmp_path / f"object_images/{name}.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path)
    images = read_images(tmp_path)
    assert images.drop(columns="path").to_numpy().tolist() == [
        ["hot_tub_02s", "training", 1, "hot_tub"],
        ["t-shirt_01b", "training", 2, "t-shirt"],
        ["bat1_13s", "test", 1, "bat1"],
    ]
    assert all(path.is_absolute() and path.is_file() for path in images["path"])
    images["path"].iloc[-1].unlink()
    message = r"1 of 3 .*bat1_13s.jpg.*images_THINGS"
    with pytest.raises(FileNotFoundError, match=message):
        read_images(tmp_path)


def opened(tmp_path, picture, name="a.png", **options):
    picture.save(tmp_path / name, **options)
    return open_image(tmp_path / name)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.png"), ("P", "a.png"), ("1", "a.png"), ("RGBA", "a.png"), ("LA", "a.png")]
    + [("CMYK", "a.jpg"), ("CMYK", "a.tiff"), ("P", "a.gif"), ("RGB", "a.webp")]
    + [("RGB", "a.bmp"), ("YCbCr", "a.jpg"), ("RGB", "a.avif")],
)
def test_pictures_of_every_mode_and_format_become_rgb(tmp_path, mode, name):
    picture = Image.new("RGB", (6, 4), WHITE).convert(mode)
    image = opened(tmp_path, picture, name)
    assert (image.mode, image.size) == ("RGB", (6, 4))
    np.testing.assert_allclose(np.asarray(image), 255, atol=1)


def test_values_are_kept_and_of_an_animation_the_first_frame_is_read(tmp_path):
    (picture,) = noise([(5, 7)])
    assert opened(tmp_path, picture) == picture
    first, second = (Image.new("RGB", (4, 4), color) for color in (GREEN, BLACK))
    image = opened(tmp_path, first, "a.gif", save_all=True, append_images=[second])
    assert image.getpixel((0, 0)) == GREEN


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_photographs_are_turned_upright(tmp_path, orientation, name):
    """As the camera recorded them, by the definition of the EXIF tag."""
    upright = np.full((16, 32, 3), 255, dtype=np.uint8)
    upright[:8, :16] = 0  # the upper left is dark
    recorded = {  # what turns back into `upright`
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: np.rot90(upright.swapaxes(0, 1), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(recorded))
    image = opened(tmp_path, picture, name, exif=exif)
    np.testing.assert_allclose(np.asarray(image), upright, atol=8)


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_16_bit_gray_spans_its_range(tmp_path, name):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    gray = np.asarray(opened(tmp_path, Image.fromarray(ramp), name))
    np.testing.assert_array_equal(gray, np.rint(ramp / 257)[..., None].repeat(3, 2))
    dark = opened(tmp_path, Image.fromarray(ramp // 4), name)
    assert np.asarray(dark).max() == 64  # not stretched
    # TIFF's tag PhotometricInterpretation: zero is white; Pillow heeds it up to 8 bits
    picture = Image.fromarray(np.array([[0, 65535]], np.uint16))
    image = opened(tmp_path, picture, "a.tiff", tiffinfo={262: 0})
    assert [image.getpixel((column, 0)) for column in (0, 1)] == [WHITE, BLACK]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0.25, 0.25, 0.5]], np.float32), [64, 64, 128]),
        (np.array([[-3, 0, 3]], np.float32), [0, 128, 255]),
        (np.array([[0, 1_000_000, 2_000_000]], np.int32), [0, 128, 255]),
        (np.array([[7, 7, 7]], np.int32), [0, 0, 0]),
    ],
)
def test_32_bit_gray_spans_its_range(tmp_path, values, expected):
    gray = opened(tmp_path, Image.fromarray(values), "a.tiff")
    assert np.asarray(gray)[0, :, 0].tolist() == expected
    not_finite = np.where(values == values.max(), np.nan, values).astype(np.float32)
    with pytest.raises(ValueError, match="a.tiff is damaged.*NaN or infinite"):
        opened(tmp_path, Image.fromarray(not_finite), "a.tiff")


@pytest.mark.parametrize("tag", [339, 65000])  # of TIFF; without it, unsigned as well
def test_32_bit_gray_may_be_unsigned(tmp_path, tag):
    values = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    Image.fromarray(values.view(np.int32)).save(tmp_path / "a.tiff")
    signed = struct.pack("<HHIH", 339, 3, 1, 2)
    unsigned = struct.pack("<HHIH", tag, 3, 1, 1)
    content = (tmp_path / "a.tiff").read_bytes()
    (tmp_path / "b.tiff").write_bytes(content.replace(signed, unsigned))
    assert signed in content
    gray = np.asarray(open_image(tmp_path / "b.tiff"))
    assert gray[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("mode", "color", "options", "expected"),
    [
        ("RGBA", (*GREEN, 0), {}, WHITE),
        ("RGBA", (*BLACK, 51), {}, (204, 204, 204)),
        ("LA", (0, 0), {}, WHITE),
        ("RGB", GREEN, {"transparency": GREEN}, WHITE),
        ("L", 7, {"transparency": 7}, WHITE),
        ("P", 3, {"transparency": 3}, WHITE),
        ("I;16", 7, {"transparency": 7}, WHITE),
    ],
)
def test_transparency_is_laid_on_white(tmp_path, mode, color, options, expected):
    picture = Image.new(mode, (4, 4), color)
    if mode == "P":
        picture.putpalette([*GREEN] * 256)
    image = opened(tmp_path, picture, **options)
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", expected)
    if not options:  # a picture that was never in a file
        assert to_rgb(picture).getpixel((0, 0)) == expected


def with_swapped_primaries():
    """Return sRGB's profile with red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"tmpX").replace(b"gXYZ", b"rXYZ")
    return profile.replace(b"tmpX", b"gXYZ")


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [("RGB", (255, 0, 0), GREEN), ("RGBA", (255, 0, 0, 0), WHITE)],
)
def test_colors_are_converted_from_their_profile(tmp_path, mode, color, expected):
    picture = Image.new(mode, (4, 4), color)
    image = opened(tmp_path, picture, icc_profile=with_swapped_primaries())
    np.testing.assert_allclose(image.getpixel((0, 0)), expected, atol=2)


@pytest.mark.parametrize(
    ("mode", "profile"), [("RGB", b"damaged"), ("L", None), ("CMYK", None)]
)
def test_profiles_that_do_not_fit_are_ignored(tmp_path, mode, profile):
    profile = profile or with_swapped_primaries()
    picture = Image.new("RGB", (4, 4), WHITE).convert(mode)
    image = opened(tmp_path, picture, "a.tiff", icc_profile=profile)
    np.testing.assert_allclose(np.asarray(image), 255, atol=1)


def bomb():
    """Return a small file that claims 2.5 gigapixels."""
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, "BMP")
    content = bytearray(file.getvalue())
    content[18:26] = struct.pack("<ii", 50_000, 50_000)  # width and height
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Download it again"),
        (b"404 not found", "Download it again"),
        (bytes(5000), "Download it again"),
        (bomb(), "bomb"),
        # Pillow would give EPS to Ghostscript, whatever the name of the file
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "again"),
    ],
)
def test_hostile_files(tmp_path, monkeypatch, content, message):
    started = []
    for name in ("check_call", "run", "Popen"):
        monkeypatch.setattr(subprocess, name, lambda *a, **k: started.append(a))
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.jpg is damaged.*{message}"):
        open_image(path)
    assert not started


KINDS = ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_pictures(tmp_path, kind):
    path = tmp_path / "a"
    noise([(64, 64)])[0].save(path, kind)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="a is damaged.* Download it again"):
        open_image(path)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=9
    ),
)
def test_damaged_pictures_are_read_or_refused(tmp_path_factory, kind, changes):
    file = BytesIO()
    Image.new("RGB", (9, 9), GREEN).save(file, kind)
    content = bytearray(file.getvalue())
    for place, value in changes:
        content[int(place * len(content))] = value
    path = tmp_path_factory.mktemp("damaged") / "a"
    path.write_bytes(content)
    try:
        assert open_image(path).mode == "RGB"
    except ValueError as error:
        assert str(path) in str(error)


def test_pictures_of_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.jpg is missing. Expected a picture"):
        open_image(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="There is no picture in"):
        list_pictures(tmp_path)
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_pictures(tmp_path)] == ["a.png", "b.JPG"]
    (tmp_path / "IMG_1.HEIC").touch()
    with pytest.raises(ValueError, match="cannot be read: IMG_1.HEIC. Convert"):
        list_pictures(tmp_path)
