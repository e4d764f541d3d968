"""Stimuli of the embedded world, in the files and numbers of THINGS-MEG.

THINGS has more images of a concept than are shown. The first ones are shown once each
(``exp``); of some concepts a later one is shown in every session (``test``). An image's
number is its row in the list of all images, sorted by concept and file.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from minithings.scenes import CONCEPTS, Scene, file_name, sample_scene, write_picture
from minithings.world import World
from paperlib.atomic import write_text

N_SESSIONS = 12
SOA = 1.5  # s
_N_RUNS = 10  # a session
_DURATION = 0.5  # s that an image is shown
_CATCH = 200 / 2054  # catch trials for each other trial of a session
_MOST_UNSHOWN = 4  # images of a concept that are not among its first ones
_KEY = 1  # that the participants press


@dataclass(frozen=True)
class Stimuli:
    """All images of THINGS and those that are shown."""

    things: pd.DataFrame  # concept, file, and numbers of concept, image and exemplar
    scenes: list[Scene]  # what its images show
    shown: pd.DataFrame  # nine columns of the trial table; exp, catch, test images


def draw_meg_stimuli(world: World) -> Stimuli:
    """Choose concepts, draw a scene for every image and choose what is shown."""
    sizes = world.meg
    rng = np.random.default_rng([world.seed, 2])
    concepts = sorted(rng.permutation(CONCEPTS)[: sizes.n_concepts].tolist())
    unshown = rng.integers(1, _MOST_UNSHOWN + 1, sizes.n_concepts)
    things = _list_things(concepts, sizes.n_images + unshown)
    scenes = [sample_scene(rng, concept) for concept in things["concept"]]
    first = things["things_exemplar_nr"] <= sizes.n_images
    later = things[~first].sample(frac=1, random_state=rng)
    tests = later.drop_duplicates("concept").iloc[: sizes.n_test_images]
    return Stimuli(things, scenes, _list_shown(things[first], tests))


def write_meg_stimuli(folder: Path, world: World) -> None:
    """Write all images as THINGS does, ``object_images/<concept>/<file>``."""
    stimuli = draw_meg_stimuli(world)
    for image, scene in zip(stimuli.things.itertuples(), stimuli.scenes, strict=True):
        path = folder / "object_images" / image.concept / image.file
        write_picture(path, scene, size=world.image_size)


def draw_trials(stimuli: Stimuli, *, seed: int, subject: int) -> pd.DataFrame:
    """Draw the order in which a participant sees the images, and the answers.

    A session shows every test and every catch image once and at most one of a
    concept's other images (as long as there are no more than sessions). Every catch
    image is noticed, nothing else is. Returns trials in order, with the 18 columns of
    the published trial tables; times are in seconds from the start of the run.
    """
    rng = np.random.default_rng([seed, subject, 200])
    sessions = [
        _shuffled_session(stimuli.shown.loc[rows], number, rng)
        for number, rows in enumerate(_session_images(stimuli.shown, rng), start=1)
    ]
    return pd.concat(sessions, ignore_index=True)


def write_trials(folder: Path, world: World, *, subject: int) -> None:
    """Write a participant's trial table, ``sample_attributes_P<subject>.csv``."""
    trials = draw_trials(draw_meg_stimuli(world), seed=world.seed, subject=subject)
    path = folder / f"sample_attributes_P{subject}.csv"
    write_text(path, trials.to_csv(index=False))


def _list_things(concepts: list[str], sizes: np.ndarray) -> pd.DataFrame:
    """Give every image of every concept its numbers."""
    things = pd.DataFrame({"concept": np.repeat(concepts, sizes)})
    exemplar = things.groupby("concept").cumcount() + 1
    return things.assign(
        file=list(map(file_name, things["concept"], exemplar)),
        things_category_nr=np.repeat(np.arange(len(concepts)) + 1, sizes),
        things_image_nr=np.arange(len(things)) + 1,
        things_exemplar_nr=exemplar,
    )


def _list_shown(firsts: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """Give the images that are shown their numbers: exp, catch, test."""
    n_images = firsts["things_exemplar_nr"].max()
    n_concepts = firsts["things_category_nr"].max()
    n_catch = max(1, round(_CATCH * (len(firsts) / N_SESSIONS + len(tests))))
    catches = pd.DataFrame({"exemplar_nr": np.arange(n_catch) + 1})
    numbered = catches["exemplar_nr"].map("{:03d}".format)
    kinds = {
        "exp": firsts.assign(
            category_nr=firsts["things_category_nr"],
            exemplar_nr=firsts["things_exemplar_nr"],
            image_path="images_meg/" + firsts["concept"] + "/" + firsts["file"],
        ),
        "catch": catches.assign(
            category_nr=n_concepts + 1,
            image_path="images_catch_meg/catch" + numbered + ".jpg",
        ),
        "test": tests.assign(
            category_nr=tests["things_category_nr"],
            exemplar_nr=n_images + 1,
            test_image_nr=np.arange(len(tests)) + 1,
            image_path="images_test_meg/" + tests["file"],
        ),
    }
    shown = pd.concat(kinds, names=["trial_type"]).reset_index("trial_type")
    shown["image_nr"] = np.arange(len(shown)) + 1
    things = ["things_category_nr", "things_image_nr", "things_exemplar_nr"]
    numbers = ["image_nr", "category_nr", "exemplar_nr", "test_image_nr", *things]
    return shown.reset_index(drop=True)[["trial_type", *numbers, "image_path"]]


def _session_images(shown: pd.DataFrame, rng: np.random.Generator) -> list[np.ndarray]:
    """Choose the rows of ``shown`` that each session presents."""
    single = (shown["trial_type"] == "exp").to_numpy()
    always = np.flatnonzero(~single)
    concepts = pd.Series(np.flatnonzero(single)).groupby(
        shown.loc[single, "category_nr"].to_numpy()
    )
    shuffled = [rng.permutation(rows) for _, rows in concepts]
    order = np.concatenate([shuffled[i] for i in rng.permutation(len(shuffled))])
    return [
        np.concatenate([order[session::N_SESSIONS], always])
        for session in range(N_SESSIONS)
    ]


def _shuffled_session(
    images: pd.DataFrame, number: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Shuffle a session, divide it into runs and add times and answers."""
    trials = images.sample(frac=1, random_state=rng)
    run = 1 + _N_RUNS * np.arange(len(trials)) // len(trials)
    onset = SOA * trials.groupby(run).cumcount().to_numpy()
    is_catch = (trials["trial_type"] == "catch").to_numpy()
    delay = 0.6 * np.exp(rng.normal(0, 0.2, len(trials)))
    answers = {"key_id": _KEY, "key_time": onset + delay, "RT": delay}
    return trials.assign(
        onset=onset,
        image_on=onset,
        image_off=onset + _DURATION,
        responded=is_catch.astype(int),
        **{name: np.where(is_catch, value, np.nan) for name, value in answers.items()},
        session_nr=number,
        run_nr=run,
    )
