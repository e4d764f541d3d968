"""Responses to a user's own images: images and a checkpoint to ``mne.EpochsArray``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from PIL import Image

from paperlib.checkpoints import Checkpoint, Recipe, pick_device
from paperlib.config import Machine, Sampling
from paperlib.recordings.sensors import sensor_info
from paperlib.stimuli.captioners import load_captioner
from paperlib.stimuli.clip import image_tokens, load_clip, text_tokens
from paperlib.stimuli.cnn import layer_outputs, load_cnn
from paperlib.stimuli.images import list_pictures, open_image, to_rgb
from paperlib.validation import check_finite

Picture = Path | Image.Image


def generate(
    images: str | Picture | Sequence[str | Picture],
    checkpoint: Checkpoint | str | Path,
    *,
    captions: Sequence[str] | None = None,
    samples: int | None = None,
    average: bool = False,
    sampling: Sampling | None = None,
    seed: int = 0,
    machine: Machine | None = None,
) -> mne.EpochsArray:
    """Generate the responses of a participant to images.

    Captions and tokens are made as they were for training: the recipe of a checkpoint
    names the models and their settings.

    Parameters
    ----------
    images
        Picture files, folders of them, or opened pictures; or one of these.
    checkpoint
        A checkpoint, its folder, or its name on the Hugging Face hub.
    captions
        One for each image; None lets the captioner of the checkpoint describe them.
    samples
        Signals drawn for each image, noise included as in a recording. None gives the
        posterior mean, an estimate of the evoked response. Deterministic methods have
        one prediction in either case.
    average
        Average the samples of each image.
    sampling
        Steps, solver and precision of the samples; None for 50 steps of DDIM in
        float32.
    seed
        Of the noise, which also depends on the position of the image.
    machine
        Device and batch sizes; None takes a GPU if there is one.

    Returns
    -------
    EpochsArray
        One epoch for each image, or for each sample, with the positions of the sensors.
        Events are called ``image-001`` and so on; ``metadata`` has the columns image
        (path as given), caption (empty if the model reads none) and, for samples,
        sample (from 1). Values are those the model was trained on, normalized and
        neither V nor T: ``info["description"]`` names their unit. Plot them with
        ``scalings=1``.

    Raises
    ------
    FileNotFoundError
        If an image, the checkpoint or a pretrained model is missing.
    ValueError
        If a file cannot be read as an image, captions are missing or not wanted, or the
        checkpoint holds or generates NaN.
    """
    machine = machine or Machine()
    wanted = {} if samples is None else {"samples": samples}
    sampling = sampling or Sampling(precision="no")
    sampling = Sampling.model_validate(sampling.model_dump() | wanted)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.from_pretrained(checkpoint, device=machine.device)
    model, recipe = checkpoint.model, checkpoint.recipe
    for name, tensor in (model.tensors() | model.coordinates.tensors()).items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{name!r} of this checkpoint holds NaN or infinite values: its "
                "training diverged, or the file is damaged. Train it again (notebook "
                "04) or download it again."
            )
    pictures = find_pictures(images)
    for picture in pictures:  # all can be read, before anything takes time
        _open([picture])
    captions = _choose_captions(captions, pictures, recipe, machine)
    sources = _encode(pictures, captions, recipe, machine)
    condition = checkpoint.condition(sources, range(len(pictures)))
    options = {"sampling": sampling, "seed": seed, "machine": machine}
    if samples is None:
        responses = model.posterior_mean(condition, **options)[:, None]  # N 1 C T
    else:
        responses = model.sample(condition, **options)  # N K C T
    check_finite("The array of generated responses", responses)
    names = [p if isinstance(p, Path) else getattr(p, "filename", "") for p in pictures]
    # bytes that are not UTF-8 become \xe9 and the like
    names = [os.fsencode(n).decode("utf-8", "backslashreplace") for n in names]
    metadata = pd.DataFrame({"image": names, "caption": captions})
    if average:
        responses = responses.mean(axis=1, keepdims=True)
    elif samples is not None:
        metadata = metadata.loc[metadata.index.repeat(responses.shape[1])]
        metadata["sample"] = metadata.groupby(level=0).cumcount() + 1
    return _as_epochs(responses, metadata.reset_index(drop=True), recipe)


def find_pictures(images: str | Picture | Sequence[str | Picture]) -> list[Picture]:
    """List pictures: those of a folder by name, files and opened pictures as given.

    Raises
    ------
    FileNotFoundError
        If a folder holds no picture.
    ValueError
        If there is no image, or pictures in a folder have a format that cannot be read.
    """
    if isinstance(images, str | Picture):
        images = [images]
    pictures: list[Picture] = []
    for image in images:
        path = image if isinstance(image, Image.Image) else Path(image).expanduser()
        is_folder = isinstance(path, Path) and path.is_dir()
        pictures += list_pictures(path) if is_folder else [path]
    if not pictures:
        raise ValueError("There is no image to generate for; give at least one.")
    return pictures


@dataclass(frozen=True)
class _Tokens:
    """Tokens in memory, read by row as :class:`paperlib.stimuli.tokens.Tokens` are."""

    array: np.ndarray  # N L D
    settings: dict = field(default_factory=dict)
    path: Path = Path("own images")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def image_ids(self) -> Sequence[int]:
        return range(len(self.array))

    def __getitem__(self, rows: Sequence[int]) -> np.ndarray:
        return self.read(rows, columns=slice(None))

    def read(self, rows: Sequence[int], *, columns: slice) -> np.ndarray:
        half = self.array[rows, :, columns].astype(np.float16)  # as they are on disk
        return half.astype(np.float32)


def _choose_captions(
    captions: Sequence[str] | None,
    pictures: Sequence[Picture],
    recipe: Recipe,
    machine: Machine,
) -> list[str]:
    """Check given captions, or describe the pictures as for training."""
    captioning, n_images = recipe.tokens["captioning"], len(pictures)
    if captioning is None:
        if any(captions or ()):
            raise ValueError(
                "This checkpoint was trained without captions; leave out captions."
            )
        return [""] * n_images
    if captions is not None:
        captions = [captions] if isinstance(captions, str) else list(captions)
        if len(captions) != n_images or not all(isinstance(c, str) for c in captions):
            raise ValueError(
                f"captions must hold one text for each of {n_images} images; got "
                f"{captions}."
            )
        return captions
    if captioning["captioner"]["kind"] == "file":
        raise ValueError(
            "The captions of the training images were made by another program. Give "
            "those of the new images: captions=[...], one for each."
        )
    device = pick_device(machine.device)
    captioner = load_captioner(**captioning["captioner"], device=device)
    options = {key: captioning[key] for key in ("prompt", "max_new_tokens")}
    parts = _split(pictures, machine.captioning_batch)
    return [text for part in parts for text in captioner(_open(part), **options)]


def _encode(
    pictures: Sequence[Picture],
    captions: Sequence[str],
    recipe: Recipe,
    machine: Machine,
) -> list[_Tokens]:
    """Make the tokens of images, captions and CNN layers as for training."""
    conditioning, made = recipe.conditioning, recipe.tokens["embedding"]
    device, size = pick_device(machine.device), machine.embedding_batch
    sources = []
    if conditioning.image or conditioning.captioner:
        name = (made["model"], made["pretrained"], made["revision"])
        clip = load_clip(*name, device=device)
    if conditioning.image:
        option = {"normalize_by_cls": made["normalize_by_cls"]}
        parts = _split(pictures, size)
        parts = [image_tokens(clip, _open(part), **option) for part in parts]
        sources.append(_Tokens(np.concatenate(parts)))
    if conditioning.captioner:
        option = {"project": made["project_text"]}
        parts = [text_tokens(clip, part, **option) for part in _split(captions, size)]
        sources.append(_Tokens(np.concatenate(parts)))
    if conditioning.network:
        cnn = load_cnn(conditioning.network, device=device)
        option = {"grid": made["network"]["grid"]}
        parts = _split(pictures, machine.network_batch)
        parts = [layer_outputs(cnn, _open(part), **option) for part in parts]
        maps = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
        flat = [m.swapaxes(1, 2).reshape(len(m), -1) for m in maps.values()]
        settings = option | {
            "layers": {layer: m[0].size for layer, m in maps.items()},
            "channels": {layer: m.shape[-1] for layer, m in maps.items()},
        }
        sources.append(_Tokens(np.concatenate(flat, axis=1)[:, None], settings))
    return sources


def _open(pictures: Sequence[Picture]) -> list[Image.Image]:
    return [open_image(p) if isinstance(p, Path) else to_rgb(p) for p in pictures]


def _split(items: Sequence, size: int) -> list[Sequence]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _as_epochs(
    responses: np.ndarray, metadata: pd.DataFrame, recipe: Recipe
) -> mne.EpochsArray:
    """Turn signals (N, K, C, T) into N * K epochs, with a row of metadata for each."""
    n_images, n_samples, _, n_times = responses.shape
    info = sensor_info(recipe.ch_names, recipe.sfreq)
    who = "simulated participant" if recipe.simulated else "participant"
    info["description"] = (
        f"Generated for images by {recipe.method}, {who} {recipe.subject} of "
        f"{recipe.dataset}; values in {recipe.unit}, neither V nor T"
    )
    codes = np.arange(1, n_images + 1)
    starts = np.arange(n_images * n_samples) * n_times
    return mne.EpochsArray(
        np.concatenate(responses).astype(float),
        info,
        events=np.c_[starts, np.zeros_like(starts), codes.repeat(n_samples)],
        tmin=recipe.times[0],
        # FIF separates names by : and ;, and holds no Unicode: images are in metadata
        event_id={f"image-{code:03d}": code for code in codes.tolist()},
        metadata=metadata,
        verbose="warning",
    )
