"""Stimuli of the embedded world, in the files and folders of THINGS-EEG2."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paperlib.atomic import atomic_path
from minithings.scenes import CONCEPTS, Scene, sample_scene, write_picture

_TEST_EXEMPLAR = 6


@dataclass(frozen=True)
class Stimulus:
    """An image and its place among the stimuli.

    Attributes
    ----------
    partition
        ``"training"`` or ``"test"``.
    folder
        Name of the concept's folder, such as ``00001_dotted_blue_cat``.
    file
        Such as ``dotted_blue_cat_01b.jpg``.
    scene
        What the image shows.
    """

    partition: str
    folder: str
    file: str
    scene: Scene


def draw_stimuli(
    *, seed: int, n_concepts: int, n_images: int, n_test_concepts: int
) -> dict[str, list[Stimulus]]:
    """Choose concepts and draw a scene for every image.

    Parameters
    ----------
    seed
        The same seed and numbers give the same stimuli.
    n_concepts, n_images
        Training concepts and images of each.
    n_test_concepts
        Test concepts, one image each; no training concept is among them.

    Returns
    -------
    dict
        Lists of stimuli under ``"training"`` and ``"test"``, in the order in which
        conditions are numbered.

    Raises
    ------
    ValueError
        If there are not as many concepts.
    """
    if n_concepts + n_test_concepts > len(CONCEPTS):
        raise ValueError(
            f"n_concepts + n_test_concepts may be at most {len(CONCEPTS)}; got "
            f"{n_concepts} + {n_test_concepts}."
        )
    rng = np.random.default_rng([seed, 0])
    shuffled = rng.permutation(CONCEPTS).tolist()
    training = sorted(shuffled[:n_concepts])
    test = sorted(shuffled[n_concepts : n_concepts + n_test_concepts])
    exemplars = range(1, n_images + 1)
    return {
        "training": _draw_partition(rng, "training", training, exemplars),
        "test": _draw_partition(rng, "test", test, [_TEST_EXEMPLAR]),
    }


def write_stimuli(
    folder: Path,
    *,
    seed: int,
    n_concepts: int,
    n_images: int,
    n_test_concepts: int,
    image_size: int,
) -> None:
    """Write images and ``image_metadata.npy`` as THINGS-EEG2 does.

    Parameters
    ----------
    folder
        Gets ``training_images``, ``test_images`` and ``image_metadata.npy``.
    seed, n_concepts, n_images, n_test_concepts
        As for `draw_stimuli`.
    image_size
        Side of the JPEG images in pixels.
    """
    stimuli = draw_stimuli(
        seed=seed,
        n_concepts=n_concepts,
        n_images=n_images,
        n_test_concepts=n_test_concepts,
    )
    for stimulus in stimuli["training"] + stimuli["test"]:
        place = folder / f"{stimulus.partition}_images" / stimulus.folder
        write_picture(place / stimulus.file, stimulus.scene, size=image_size)
    with atomic_path(folder / "image_metadata.npy") as partial:
        np.save(partial, _metadata(stimuli), allow_pickle=True)


def _draw_partition(
    rng: np.random.Generator, partition: str, concepts: list[str], exemplars
) -> list[Stimulus]:
    """List the images of a partition, concepts numbered from 1."""
    return [
        Stimulus(
            partition=partition,
            folder=f"{number:05d}_{concept}",
            file=f"{concept}_{exemplar:02d}{'b' if exemplar == 1 else 's'}.jpg",
            scene=sample_scene(rng, concept),
        )
        for number, concept in enumerate(concepts, start=1)
        for exemplar in exemplars
    ]


def _metadata(stimuli: dict[str, list[Stimulus]]) -> dict[str, list[str]]:
    """Fill the six lists of ``image_metadata.npy``."""
    lists = {}
    for short, partition in (("train", "training"), ("test", "test")):
        images = stimuli[partition]
        concepts = [image.scene.concept for image in images]
        lists[f"{short}_img_concepts"] = [image.folder for image in images]
        lists[f"{short}_img_concepts_THINGS"] = [
            f"{CONCEPTS.index(concept) + 1:05d}_{concept}" for concept in concepts
        ]
        lists[f"{short}_img_files"] = [image.file for image in images]
    return lists
