"""Train a network on pairs of signals and tokens; ``python -m paperlib.training``."""

from paperlib.training.loop import TrainingSettings, train
from paperlib.training.objective import Loss, Objective
from paperlib.training.pairs import Batches, Pairs

__all__ = ["Batches", "Loss", "Objective", "Pairs", "TrainingSettings", "train"]
