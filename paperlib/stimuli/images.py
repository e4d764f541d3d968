"""Images: which one each condition shows, and picture files as a person sees them."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageCms, ImageOps

from paperlib.recordings.things_meg import TRIAL_TABLE, list_images
from paperlib.recordings.unpickling import load_dict
from paperlib.validation import check_file, reading

# Decoders that run inside Pillow; its EPS reader would start another program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF")
ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif")
UNREADABLE = (".heic", ".heif", ".eps", ".svg", ".pdf", ".psd", ".jxl")
METADATA = "image_metadata.npy"
_PHOTOMETRIC = 262  # tag of TIFF; 0: zero is white
_SAMPLE_FORMAT = 339  # 1: unsigned, which Pillow heeds up to 16 bits


def read_images(folder: Path) -> pd.DataFrame:
    """List the images of THINGS-EEG2 or THINGS-MEG in the order of the conditions.

    THINGS-EEG2 (Gifford et al. 2022, osf.io/y63gw): condition i of a partition is
    entry i of its lists in ``image_metadata.npy``, the file
    ``<partition>_images/<concept>/<file>``. THINGS-MEG (Hebart et al. 2023,
    osf.io/jum2f): it is image number i of ``sourcedata/sample_attributes_P1.csv``, the
    file ``object_images/<concept>/<file>``.

    Returns
    -------
    DataFrame
        Columns image_id (stem of the file's name), partition (``"training"`` or
        ``"test"``), condition (from 1 within the partition), concept and path
        (absolute); training images first.
    """
    folder = Path(folder).absolute()
    if (folder / TRIAL_TABLE).is_file():
        images = list_images(folder)
        images["folder"] = "object_images/" + images["concept"]
    elif (folder / METADATA).is_file():
        images = _list_eeg(folder)
    else:
        raise FileNotFoundError(
            f"{folder / METADATA} is missing (THINGS-EEG2), and so is {TRIAL_TABLE} "
            f"(THINGS-MEG); expected one of them."
        )
    images["path"] = [
        folder / place for place in images["folder"] + "/" + images["file"]
    ]
    images["image_id"] = [path.stem for path in images["path"]]
    images["condition"] = images.groupby("partition").cumcount() + 1
    repeated = images.loc[images["image_id"].duplicated(), "image_id"].unique()
    if len(repeated):
        raise ValueError(
            f"Images are identified by the stem of their file's name, but "
            f"{len(repeated)} stems occur more than once in {folder}: "
            f"{', '.join(repeated[:5])}. Correct the list of images."
        )
    if missing := [path for path in images["path"] if not path.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(images)} images are missing below {folder}: "
            f"{', '.join(str(path.relative_to(folder)) for path in missing[:5])}. "
            "Extract training_images.zip and test_images.zip (THINGS-EEG2) or "
            "images_THINGS.zip (THINGS-MEG) there."
        )
    return images[["image_id", "partition", "condition", "concept", "path"]]


def _list_eeg(folder: Path) -> pd.DataFrame:
    """List partition, folder, file and concept of the images of THINGS-EEG2."""
    path, parts = folder / METADATA, []
    metadata = load_dict(path, "the image metadata of THINGS-EEG2")
    for partition, prefix in (("training", "train"), ("test", "test")):
        lists = {"folder": f"{prefix}_img_concepts", "file": f"{prefix}_img_files"}
        for column, key in lists.items():
            names = lists[column] = metadata.get(key)
            is_list = isinstance(names, list | tuple | np.ndarray) and len(names)
            if not is_list or not all(
                isinstance(name, str) and name == Path(name).name for name in names
            ):
                raise ValueError(
                    f"{path} must hold a list of names {key!r}; it holds "
                    f"{sorted(map(str, metadata))}. Use the file that comes with the "
                    "image set of THINGS-EEG2."
                )
        if len(lists["folder"]) != len(lists["file"]):
            raise ValueError(
                f"{path} must name one concept for each image; its {partition} lists "
                f"hold {len(lists['folder'])} concepts and {len(lists['file'])} files. "
                "Download it again."
            )
        part = pd.DataFrame(lists).assign(partition=partition)
        part["concept"] = part["folder"].str.replace(r"^\d+_", "", regex=True)
        part["folder"] = f"{partition}_images/" + part["folder"]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def list_pictures(folder: Path) -> list[Path]:
    """List the picture files of a folder by name; refuse formats such as HEIC.

    Hidden files are left out: macOS writes a ``._cat.jpg`` beside each ``cat.jpg``.
    """
    files = sorted(p for p in Path(folder).iterdir() if not p.name.startswith("."))
    unreadable = [path.name for path in files if path.suffix.lower() in UNREADABLE]
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} pictures in {folder} are of a format that cannot be "
            f"read: {', '.join(unreadable[:5])}. Convert them to JPEG or PNG, or move "
            "them elsewhere."
        )
    pictures = [path for path in files if path.suffix.lower() in ENDINGS]
    if not pictures:
        raise FileNotFoundError(
            f"There is no picture in {folder}; expected files that end with "
            f"{', '.join(sorted(ENDINGS))}."
        )
    return pictures


def open_image(picture: Path | Image.Image) -> Image.Image:
    """Read a picture as RGB, as an image viewer shows it (see :func:`to_rgb`)."""
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    check_file(Path(picture), "Expected a picture file.")
    cure = f"Download it again, or convert it to one of {', '.join(FORMATS)}."
    with reading(picture, cure), Image.open(picture, formats=FORMATS) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB as an image viewer shows it.

    It is turned upright (EXIF), laid on white where it is transparent, and converted
    from its embedded color profile to sRGB. 16-bit gray spans its whole range; 32-bit
    gray spans 0 to 1 if it is floating-point and lies there, else its own range.
    """
    profile = image.info.get("icc_profile")
    tags = getattr(image, "tag_v2", {})
    zero_is_white = tags.get(_PHOTOMETRIC) == 0
    is_unsigned = bool(tags) and tags.get(_SAMPLE_FORMAT, (1,)) == (1,)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image, is_unsigned)  # Pillow inverts only up to 8 bits
        image = ImageOps.invert(image) if zero_is_white else image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    if image.mode in ("1", "P"):
        image = image.convert("RGB")
    if profile:
        # one that is damaged, or of another mode than the picture, viewers ignore
        with suppress(ImageCms.PyCMSError, OSError):
            own = ImageCms.ImageCmsProfile(BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image, is_unsigned: bool) -> Image.Image:
    """Scale 16- and 32-bit gray to 0...255; a value that is transparent is white."""
    values = np.asarray(image, dtype=float)  # H W
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are NaN or infinite")
    values = values % 2**32 if is_unsigned else values
    low, high = values.min(), values.max()
    if image.mode.startswith("I;16"):
        low, high = 0, 65535
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0, 1
    scaled = (values - low) / max(high - low, np.finfo(float).tiny)
    scaled[values == image.info.get("transparency", np.nan)] = 1
    return Image.fromarray(np.rint(255 * scaled).astype(np.uint8))
