"""Which image each condition shows, and where its file lies."""

from collections import Counter
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

from paperlib.recordings.things_meg import TRIAL_TABLE, list_images
from paperlib.recordings.unpickling import load_dict

_METADATA = "image_metadata.npy"
_KEYS = {"training": "train", "test": "test"}  # partition -> prefix in the metadata


def read_images(folder: Path) -> pd.DataFrame:
    """List the images of THINGS-EEG2 or THINGS-MEG in the order of the conditions.

    Condition i of a partition is the i-th entry of its lists in
    ``image_metadata.npy``; its file is ``<partition>_images/<concept>/<file>``
    (Gifford et al. 2022, osf.io/y63gw). In THINGS-MEG (Hebart et al. 2023) it is the
    i-th of the image numbers in the trial table; its file is
    ``object_images/<concept>/<file>`` (osf.io/jum2f).

    Parameters
    ----------
    folder
        Holds ``image_metadata.npy``, ``training_images`` and ``test_images``, or
        ``sourcedata/sample_attributes_P1.csv`` and ``object_images``.

    Returns
    -------
    DataFrame
        Columns image_id (the file's stem), partition (``"training"`` or ``"test"``),
        condition (from 1 within the partition), concept and path (absolute). All
        training images come first.

    Raises
    ------
    FileNotFoundError
        If the metadata or any image is missing; says how many and which.
    ValueError
        If the metadata lack a list, lists differ in length, the trial table is not
        valid, or two images share a stem.
    """
    folder = Path(folder).absolute()
    is_meg = (folder / TRIAL_TABLE).is_file()
    images = _list_meg(folder) if is_meg else _list_eeg(folder)
    _check_unique(images["image_id"])
    _check_present(images["path"], folder)
    return images


def open_image(path: Path) -> Image.Image:
    """Read a whole image as RGB.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated or is not an image.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no image {path}; expected a picture file.")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); expected a complete picture "
            "file. Extract or download it again."
        ) from error


def _list_eeg(folder: Path) -> pd.DataFrame:
    """List the images of THINGS-EEG2."""
    if not (folder / _METADATA).is_file():
        raise FileNotFoundError(
            f"{folder / _METADATA} is missing (THINGS-EEG2), and so is {TRIAL_TABLE} "
            f"(THINGS-MEG); expected one of them."
        )
    metadata = load_dict(folder / _METADATA, "the image metadata of THINGS-EEG2")
    parts = [_list_partition(folder, metadata, partition) for partition in _KEYS]
    return pd.concat(parts, ignore_index=True)


def _list_meg(folder: Path) -> pd.DataFrame:
    """List the images of THINGS-MEG."""
    images = list_images(folder)
    root = folder / "object_images"
    pairs = zip(images["concept"], images["file"], strict=True)
    return pd.DataFrame(
        {
            "image_id": [Path(file).stem for file in images["file"]],
            "partition": images["partition"],
            "condition": images.groupby("partition").cumcount() + 1,
            "concept": images["concept"],
            "path": [root / concept / file for concept, file in pairs],
        }
    )


def _list_partition(folder: Path, metadata: dict, partition: str) -> pd.DataFrame:
    """List the images of one partition in the order of their conditions."""
    prefix = _KEYS[partition]
    folders = _entry(metadata, f"{prefix}_img_concepts")
    files = _entry(metadata, f"{prefix}_img_files")
    if len(folders) != len(files):
        raise ValueError(
            f"{_METADATA} must name one concept for each image; its {partition} lists "
            f"hold {len(folders)} concepts and {len(files)} files. Download it again."
        )
    root = folder / f"{partition}_images"
    pairs = zip(folders, files, strict=True)
    return pd.DataFrame(
        {
            "image_id": [Path(file).stem for file in files],
            "partition": partition,
            "condition": range(1, len(files) + 1),
            "concept": [name.split("_", maxsplit=1)[-1] for name in folders],
            "path": [root / name / file for name, file in pairs],
        }
    )


def _entry(metadata: dict, key: str) -> list[str]:
    if key not in metadata:
        raise ValueError(
            f"{_METADATA} must hold the list {key!r}; it holds {sorted(metadata)}. "
            "Use the file that comes with the image set of THINGS-EEG2."
        )
    return list(metadata[key])


def _check_unique(image_ids: pd.Series) -> None:
    repeated = [name for name, count in Counter(image_ids).items() if count > 1]
    if repeated:
        raise ValueError(
            f"Images are told apart by the stem of their file's name, but "
            f"{len(repeated)} stems occur more than once in the list of images: "
            f"{', '.join(repeated[:5])}."
        )


def _check_present(paths: pd.Series, folder: Path) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        named = ", ".join(str(path.relative_to(folder)) for path in missing[:5])
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} images are missing below {folder}: {named}"
            f"{' ...' if len(missing) > 5 else ''}. Extract training_images.zip and "
            "test_images.zip (THINGS-EEG2) or images_THINGS.zip (THINGS-MEG) there."
        )
