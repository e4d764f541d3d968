"""What a world consists of, and the folder that it takes."""

import shutil
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from minithings.scenes import CONCEPTS
from paperlib.atomic import write_text
from paperlib.config import Config, Section, Seed

_FOLDERS = ("things-eeg2", "things-meg", "weights")
_MARK = "SIMULATED.txt"


class EEG(Section):
    """Stimuli and trials in the manner of THINGS-EEG2 (there 1654, 10, 200 and 20)."""

    n_concepts: PositiveInt = 120  # of training
    n_images: PositiveInt = 10  # of each, two presentations in two of four sessions
    n_test_concepts: PositiveInt = 60  # others than those of training, an image each
    n_test_repetitions: PositiveInt = 20  # in each of the four sessions

    @model_validator(mode="after")
    def _check_concepts(self) -> Self:
        if self.n_concepts + self.n_test_concepts > len(CONCEPTS):
            raise ValueError(
                f"n_concepts + n_test_concepts must be at most {len(CONCEPTS)}; got "
                f"{self.n_concepts} + {self.n_test_concepts}."
            )
        return self


class MEG(Section):
    """Stimuli in the manner of THINGS-MEG (there 1854, 12 and 200)."""

    n_concepts: PositiveInt = 120
    n_images: PositiveInt = 10  # of each, presented once
    n_test_images: PositiveInt = 60  # further images, in each of the twelve sessions

    @model_validator(mode="after")
    def _check_concepts(self) -> Self:
        if not self.n_test_images <= self.n_concepts <= len(CONCEPTS):
            raise ValueError(
                f"n_concepts must be at most {len(CONCEPTS)} and n_test_images at most "
                f"n_concepts; got {self.n_concepts} and {self.n_test_images}."
            )
        return self


class ClipTraining(Section):
    """Training of the small CLIP model."""

    n_scenes: PositiveInt = 12000  # rendered, with a caption each
    steps: PositiveInt = 500
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-3  # highest of a one-cycle schedule


class CaptionerTraining(Section):
    """Training of the small Qwen2-VL model."""

    n_scenes: PositiveInt = 8192
    vision_steps: PositiveInt = 1000  # in which the vision tower learns the attributes
    vision_learning_rate: PositiveFloat = 2e-3  # highest of a one-cycle schedule
    snapshots: Annotated[dict[str, PositiveInt], Field(min_length=1)] = {
        "qwen2-vl": 600,  # steps in which the language model learns to answer
        "qwen2-vl-quarter": 150,
        "qwen2-vl-eighth": 75,
    }
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 5e-3  # of the language model, as above


class World(Section):
    """A world of rendered stimuli, simulated participants and small encoders.

    The defaults are those of ``config/mini.yaml``, whose section ``minithings``
    replaces single values: ``World(eeg={"n_concepts": 12})``.
    """

    seed: Seed = 20260217  # another seed: other stimuli, participants, noise
    image_size: PositiveInt = 128  # pixels, side of the JPEG files
    eeg: EEG = EEG()
    meg: MEG = MEG()
    clip: ClipTraining = ClipTraining()
    captioner: CaptionerTraining = CaptionerTraining()

    @classmethod
    def of(cls, cfg: Config) -> Self:
        """Return the world that a configuration describes."""
        return cls.validated(cfg.minithings, f"{cfg.name}, minithings")


def clear_world(folder: Path) -> None:
    """Remove the world that an earlier run has made in a folder, or a part of one.

    Raises
    ------
    FileExistsError
        If the folder holds files and no mark that they are simulated.
    """
    has_files = any(path.is_file() for path in folder.rglob("*"))
    if has_files and not (folder / _MARK).is_file():
        raise FileExistsError(
            f"{folder} holds files that may not be simulated: expected an empty folder "
            f"or one with {_MARK}. Move them away, or choose another data_root."
        )
    write_text(folder / _MARK, "Notebook 00 makes these folders and replaces them.\n")
    for name in _FOLDERS:
        if (folder / name).exists():
            shutil.rmtree(folder / name)
