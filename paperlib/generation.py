"""Responses to a user's own images: images and a checkpoint to ``mne.EpochsArray``."""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import mne
import numpy as np
import pandas as pd
from PIL import Image

from paperlib.checkpoints import Checkpoint, Recipe, pick_device
from paperlib.config import Machine, Sampling
from paperlib.recordings.sensors import sensor_info
from paperlib.stimuli.captioners import load_captioner
from paperlib.stimuli.clip import image_tokens, load_clip, text_tokens
from paperlib.stimuli.cnn import load_cnn, write_layer_outputs
from paperlib.stimuli.conditions import Condition
from paperlib.stimuli.images import list_pictures, open_image
from paperlib.stimuli.tokens import Tokens, write_tokens
from paperlib.validation import check_finite

Picture = Path | Image.Image


def generate(
    images: str | Picture | Sequence[str | Picture],
    checkpoint: Checkpoint | str | Path,
    *,
    captions: Sequence[str] | None = None,
    samples: int | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    machine: Machine | None = None,
) -> mne.EpochsArray:
    """Generate the responses of a participant to images.

    Captions and tokens are made as they were for training, by the models that the
    checkpoint's recipe names. The result has an epoch for each image or sample, called
    ``image-001`` and so on; its ``metadata`` has the columns image, caption and, for
    samples, sample. Values are normalized, in the unit that ``info["description"]``
    names: plot them with ``scalings=1``.

    Parameters
    ----------
    images
        Picture files, folders of them, or opened pictures; or one of these.
    checkpoint
        A checkpoint, its folder, or its name on the Hugging Face hub.
    captions
        One for each image; None lets the captioner of the checkpoint describe them.
    samples
        Signals drawn for each image, noise included as in a recording; MNE averages
        them with ``epochs.average(by_event_type=True)``. None gives the posterior mean,
        an estimate of the evoked response.
    sampling, seed, machine
        None for 50 steps of DDIM in float32, and for a GPU if there is one. The noise
        depends on the seed and on the position of the image.
    """
    machine = machine or Machine()
    chosen = (sampling or Sampling(precision="no")).model_dump()
    chosen |= {} if samples is None else {"samples": samples}
    sampling = Sampling.model_validate(chosen)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.from_pretrained(checkpoint, device=machine.device)
    pictures = find_pictures(images)
    for picture in pictures:  # all can be read, before anything takes time
        open_image(picture)
    captions = _choose_captions(captions, pictures, checkpoint.recipe, machine)
    options = {"sampling": sampling, "seed": seed, "machine": machine}
    with TemporaryDirectory() as folder:
        condition = _encode(pictures, captions, checkpoint, machine, Path(folder))
        if samples is None:
            responses = checkpoint.model.posterior_mean(condition, **options)
            responses = responses[:, None]  # N 1 C T
        else:
            responses = checkpoint.model.sample(condition, **options)  # N K C T
    check_finite("What this checkpoint generates", responses)
    metadata = _describe(pictures, captions, len(responses[0]))
    if samples is None:
        del metadata["sample"]
    return _as_epochs(responses, metadata, checkpoint.recipe)


def find_pictures(images: str | Picture | Sequence[str | Picture]) -> list[Picture]:
    """List pictures: those of a folder by name, files and opened pictures as given."""
    if isinstance(images, str | Picture):
        images = [images]
    pictures: list[Picture] = []
    for image in images:
        if not isinstance(image, str | Picture):
            raise TypeError(
                f"An image must be a path or a PIL image; got {type(image).__name__}. "
                "PIL.Image.fromarray turns an array into one."
            )
        path = image if isinstance(image, Image.Image) else Path(image).expanduser()
        is_folder = isinstance(path, Path) and path.is_dir()
        pictures += list_pictures(path) if is_folder else [path]
    if not pictures:
        raise ValueError("There is no image to generate for; give at least one.")
    return pictures


def _choose_captions(
    captions: Sequence[str] | None,
    pictures: Sequence[Picture],
    recipe: Recipe,
    machine: Machine,
) -> list[str]:
    """Check given captions, or describe the pictures as for training."""
    name, n_images = recipe.conditioning.captioner, len(pictures)
    if name is None:
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
    entry = recipe.captioning.captioners[name]
    if entry.kind == "file":
        raise ValueError(
            "The captions of the training images were made by another program. Give "
            "those of the new images: captions=[...], one for each."
        )
    device = pick_device(machine.device)
    captioner = load_captioner(**entry.model_dump(), device=device)
    options = recipe.captioning.model_dump(exclude={"captioners"})
    texts = []
    for start in range(0, n_images, machine.captioning_batch):
        batch = pictures[start : start + machine.captioning_batch]
        texts += captioner(list(map(open_image, batch)), **options)
    return texts


def _encode(
    pictures: Sequence[Picture],
    captions: Sequence[str],
    checkpoint: Checkpoint,
    machine: Machine,
    folder: Path,
) -> Condition:
    """Make the tokens of images, captions and CNN layers as for training."""
    chosen, made = checkpoint.recipe.conditioning, checkpoint.recipe.embedding
    device, paths = pick_device(machine.device), []
    ids = [str(i) for i in range(len(pictures))]
    options = {"batch_size": machine.embedding_batch, "made_with": {}}
    if chosen.image or chosen.captioner:
        clip = load_clip(made.model, made.pretrained, made.revision, device=device)
    if chosen.image:
        paths.append(folder / "image.npy")
        write_tokens(
            paths[-1],
            dict(zip(ids, pictures, strict=True)),
            encode=lambda batch: image_tokens(
                clip,
                [open_image(picture) for picture in batch],
                normalize_by_cls=made.normalize_by_cls,
            ),
            **options,
        )
    if chosen.captioner:
        paths.append(folder / "captions.npy")
        write_tokens(
            paths[-1],
            dict(zip(ids, captions, strict=True)),
            encode=lambda batch: text_tokens(clip, batch, project=made.project_text),
            **options,
        )
    if chosen.network:
        paths.append(folder / "network.npy")
        write_layer_outputs(
            paths[-1],
            pd.DataFrame({"image_id": ids, "path": pictures}),
            cnn=load_cnn(chosen.network, device=device),
            grid=made.networks[chosen.network].grid,
            batch_size=machine.network_batch,
        )
    return checkpoint.condition([Tokens(path) for path in paths], ids)


def _describe(
    pictures: Sequence[Picture], captions: Sequence[str], n_samples: int
) -> pd.DataFrame:
    """Return image, caption and number (from 1) of each sample."""
    names = [p if isinstance(p, Path) else getattr(p, "filename", "") for p in pictures]
    # bytes that are not UTF-8 become \xe9 and the like
    names = [os.fsencode(n).decode("utf-8", "backslashreplace") for n in names]
    images = pd.DataFrame({"image": names, "caption": captions})
    samples = pd.DataFrame({"sample": range(1, n_samples + 1)})
    return images.merge(samples, how="cross")


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
