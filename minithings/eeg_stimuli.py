"""Stimuli of the embedded world, in the files and folders of THINGS-EEG2."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minithings.scenes import CONCEPTS, Scene, file_name, sample_scene, write_picture
from minithings.world import World
from paperlib.atomic import atomic_path

_TEST_EXEMPLAR = 6


@dataclass(frozen=True)
class Stimulus:
    """An image and its place among the stimuli."""

    folder: str  # of the concept, such as 00001_dotted_blue_cat
    file: str  # such as dotted_blue_cat_01b.jpg
    scene: Scene  # what it shows


def draw_eeg_stimuli(world: World) -> dict[str, list[Stimulus]]:
    """Choose concepts and draw a scene for every image, in the order of conditions.

    No test concept is a training concept.
    """
    sizes = world.eeg
    rng = np.random.default_rng([world.seed, 0])
    shuffled = rng.permutation(CONCEPTS).tolist()
    training = sorted(shuffled[: sizes.n_concepts])
    test = sorted(shuffled[sizes.n_concepts :][: sizes.n_test_concepts])
    return {
        "training": _draw_partition(rng, training, range(1, sizes.n_images + 1)),
        "test": _draw_partition(rng, test, [_TEST_EXEMPLAR]),
    }


def write_eeg_stimuli(folder: Path, world: World) -> None:
    """Write ``training_images``, ``test_images`` and ``image_metadata.npy``."""
    stimuli = draw_eeg_stimuli(world)
    for partition, images in stimuli.items():
        for image in images:
            path = folder / f"{partition}_images" / image.folder / image.file
            write_picture(path, image.scene, size=world.image_size)
    with atomic_path(folder / "image_metadata.npy") as partial:
        np.save(partial, _metadata(stimuli), allow_pickle=True)


def _draw_partition(
    rng: np.random.Generator, concepts: list[str], exemplars: Iterable[int]
) -> list[Stimulus]:
    """List the images of a partition, concepts numbered from 1."""
    return [
        Stimulus(
            folder=f"{number:05d}_{concept}",
            file=file_name(concept, exemplar),
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
