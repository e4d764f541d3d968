"""Responses to a user's own images: images and a checkpoint to ``mne.EpochsArray``.

Captions and tokens are made as they were for training: the recipe of a checkpoint names
the models and their settings.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import mne
import numpy as np
import pandas as pd
import torch
from PIL import Image

from paperlib.checkpoints import Checkpoint, pick_device
from paperlib.methods import respond
from paperlib.recordings.sensors import sensor_info
from paperlib.stimuli.captioners import load_captioner, pick_dtype
from paperlib.stimuli.captions import read_captions, write_captions
from paperlib.stimuli.cnn import load_cnn, write_layer_outputs
from paperlib.stimuli.conditions import Condition
from paperlib.stimuli.embeddings import (
    load_clip,
    write_image_tokens,
    write_text_tokens,
)
from paperlib.stimuli.images import open_image
from paperlib.stimuli.pretrained import clip_source
from paperlib.stimuli.tokens import Tokens
from paperlib.validation import check_distinct

_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")


def generate(
    images: str | Path | Sequence[str | Path | Image.Image],
    checkpoint: Checkpoint | str | Path,
    *,
    captions: Sequence[str] | None = None,
    samples: int = 16,
    average: bool = True,
    steps: int = 50,
    eta: float = 0.0,
    bound: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    precision: str = "no",
    device: str = "auto",
) -> mne.EpochsArray:
    """Generate the responses of a participant to images.

    Parameters
    ----------
    images
        Picture files, or pictures; or a text for :func:`find_images`.
    checkpoint
        A checkpoint, its folder, or its name on the Hugging Face hub.
    captions
        Of the images; None lets the captioner of the checkpoint describe them.
    samples
        K, signals per image; methods that do not sample give one.
    average
        Return the mean over the samples of an image, which estimates the evoked
        response, instead of each of them, which carries noise as a recording does.
    steps, eta, bound
        Of the sampler, see :func:`paperlib.diffusion.ddim`.
    seed
        Of the noise. The noise of a sample depends on it, on the place of the image in
        ``images`` and on the number of the sample only.
    batch_size
        Signals denoised at a time.
    precision
        See :func:`paperlib.sampling.sample_signals`.
    device
        ``"auto"`` takes a GPU if there is one.

    Returns
    -------
    EpochsArray
        One epoch an image, or one a sample, with the positions of the sensors.
        ``event_id`` holds the images by name; ``metadata`` has the columns image,
        caption (empty without captioner) and, without averaging, sample (from 1). The
        values are those the model was trained on, normalized and neither V nor T:
        ``info["description"]`` names their unit. Plot them with ``scalings=1``.

    Raises
    ------
    FileNotFoundError
        If an image, the checkpoint or a pretrained model is missing.
    ValueError
        If a file is not an image, two images have one name, there is not one caption
        for each image, or the checkpoint does not say how its tokens are made.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.from_pretrained(checkpoint, device=device)
    recipe = checkpoint.recipe
    _check_recipe(recipe)
    if isinstance(images, str | Path):
        images = find_images(images)
    with TemporaryDirectory() as name:
        folder = Path(name)
        table = _list_pictures(images, folder)
        if captions is None:
            captions = _describe(table, recipe, folder, device=pick_device(device))
        table["caption"] = _check_captions(captions, table, recipe)
        condition = _embed(table, recipe, folder, device=pick_device(device))
        sampling = {"steps": steps, "eta": eta, "bound": bound, "samples": samples}
        sampling |= {"batch_size": batch_size, "precision": precision}
        responses = respond(
            checkpoint.model, recipe, condition, sampling=sampling, seed=seed
        )  # N K C T
    return _as_epochs(responses, table, recipe, average=average)


def find_images(places: str | Path) -> list[Path]:
    """List picture files.

    Parameters
    ----------
    places
        A file, or a folder, whose pictures are taken in the order of their names; or
        several of them, with commas in between.

    Returns
    -------
    list of Path
        Absolute; files that are named need not exist.

    Raises
    ------
    FileNotFoundError
        If a folder holds no picture.
    """
    found = []
    for part in filter(None, map(str.strip, str(places).split(","))):
        place = Path(part).expanduser().absolute()
        found += _pictures_in(place) if place.is_dir() else [place]
    return found


def _pictures_in(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICTURES)
    if not found:
        raise FileNotFoundError(
            f"The folder {folder} holds no picture; expected files that end with "
            f"{', '.join(_PICTURES)}."
        )
    return found


def _check_recipe(recipe: dict) -> None:
    """Stop at checkpoints that cannot take new images."""
    needed = ("conditioning", "tokens", "simulated", "unit", "sfreq")
    if missing := [key for key in needed if key not in recipe]:
        raise ValueError(
            f"The recipe of this checkpoint does not say {', '.join(missing)}, which "
            "images of one's own need. Train it again with notebook 04."
        )


def _list_pictures(
    images: Sequence[str | Path | Image.Image], folder: Path
) -> pd.DataFrame:
    """Name the images and check that they can be read; pictures become files."""
    rows = []
    for number, image in enumerate(images, 1):
        if isinstance(image, Image.Image):
            name = getattr(image, "filename", "") or f"image-{number}"
            path = folder / f"{number}.png"
            image.convert("RGB").save(path)
        else:
            name = path = Path(image)
            open_image(path)
        rows.append({"image_id": Path(name).stem, "path": path})
    if not rows:
        raise ValueError("There is no image to generate for; give at least one.")
    check_distinct("Images", "names", [row["image_id"] for row in rows])
    return pd.DataFrame(rows)


def _describe(
    images: pd.DataFrame, recipe: dict, folder: Path, *, device: torch.device
) -> list[str]:
    """Caption images as for training; nothing where the model reads no captions."""
    captioning = recipe["tokens"]["captioning"]
    if captioning is None:
        return [""] * len(images)
    entry = captioning["captioner"]
    if entry["kind"] == "file":
        raise ValueError(
            f"The captions of {recipe['conditioning']['captioner']!r} were made by "
            "another program, so those of new images must be given: captions=[...], "
            "one for each image."
        )
    write_captions(
        folder / "captions.jsonl",
        images,
        captioner=load_captioner(entry, device=device, dtype=pick_dtype(device)),
        prompt=captioning["prompt"],
        max_new_tokens=captioning["max_new_tokens"],
        batch_size=captioning["batch_size"],
    )
    written = read_captions(folder / "captions.jsonl", images["image_id"])
    return written["caption"].tolist()


def _check_captions(
    captions: Sequence[str], images: pd.DataFrame, recipe: dict
) -> list[str]:
    """Return captions if there is one for each image, and if they are read at all."""
    if len(captions) != len(images):
        raise ValueError(
            f"Expected one caption for each of {len(images)} images; got "
            f"{len(captions)}."
        )
    if any(captions) and not recipe["conditioning"]["captioner"]:
        raise ValueError(
            "This checkpoint was trained without captions; leave out captions."
        )
    return list(captions)


def _embed(
    images: pd.DataFrame, recipe: dict, folder: Path, *, device: torch.device
) -> Condition:
    """Write the tokens of images and captions as for training, and open them."""
    conditioning = recipe["conditioning"]
    embedding = recipe["tokens"]["embedding"]
    paths = []
    if conditioning["image"] or conditioning["captioner"]:
        clip = load_clip(*clip_source(embedding), device=device)
        options = {"clip": clip, "batch_size": embedding["batch_size"]}
    if conditioning["image"]:
        paths.append(folder / "images.npy")
        normalize = embedding["normalize_by_cls"]
        write_image_tokens(paths[-1], images, normalize_by_cls=normalize, **options)
    if conditioning["captioner"]:
        paths.append(folder / "captions.npy")
        project = embedding["project_text"]
        write_text_tokens(paths[-1], images, project=project, **options)
    if conditioning["network"]:
        paths.append(folder / "layers.npy")
        cnn = load_cnn(conditioning["network"], device=device)
        write_layer_outputs(paths[-1], images, cnn=cnn, **embedding["network"])
    return Condition([Tokens(path) for path in paths], images["image_id"])


def _as_epochs(
    responses: np.ndarray, images: pd.DataFrame, recipe: dict, *, average: bool
) -> mne.EpochsArray:
    """Turn signals (N, K, C, T) into epochs, the samples of an image in a row."""
    if average:
        responses = responses.mean(axis=1, keepdims=True)
    n_images, n_samples, _, n_times = responses.shape
    info = sensor_info(recipe["ch_names"], recipe["sfreq"])
    who = "simulated participant" if recipe["simulated"] else "participant"
    info["description"] = (
        f"Generated for images by {recipe['method']}, {who} {recipe['subject']} of "
        f"{recipe['dataset']}; values in {recipe['unit']}, neither V nor T"
    )
    metadata = images[["image_id", "caption"]].rename(columns={"image_id": "image"})
    metadata = metadata.loc[metadata.index.repeat(n_samples)].reset_index(drop=True)
    if not average:
        metadata["sample"] = np.tile(np.arange(1, n_samples + 1), n_images)
    codes = {name: code for code, name in enumerate(images["image_id"], 1)}
    starts = np.arange(len(metadata)) * n_times
    return mne.EpochsArray(
        np.concatenate(responses).astype(float),
        info,
        events=np.c_[starts, np.zeros_like(starts), metadata["image"].map(codes)],
        tmin=recipe["times"][0],
        event_id=codes,
        metadata=metadata,
        verbose="warning",
    )
