"""Checkpoints of models that are as small as they can be."""

import torch

from paperlib.checkpoints import Checkpoint, Recipe
from paperlib.config import load_config
from paperlib.coordinates import Coordinates

DIT = {"width": 8, "depth": 1, "heads": 2, "mlp_ratio": 1.0, "patch": [1, 4]}
SECTIONS = ("simulated", "conditioning", "embedding", "captioning", "diffusion")


def make_recipe(config="mini", **changes):
    """Return what notebook 04 writes, of a network for 2 channels and 8 samples."""
    cfg = load_config(config).of(dataset="things-eeg2", run="ours_v")
    recipe = {
        **{name: getattr(cfg, name) for name in (*SECTIONS, "training")},
        **{"dataset": "things-eeg2", "subject": 1, "run": "ours_v", "seed": 0},
        **{"method": "dit", "options": DIT, "n_tokens": 4, "context_width": 5},
        **{"ch_names": ["Fz", "Cz"], "sfreq": 250.0, "unit": "noise SD"},
        "times": [0.1 + 0.004 * i for i in range(8)],
    }
    return Recipe(**recipe | changes)


def make_checkpoint(recipe, coordinates=None):
    """Return a model whose weights, where it has any, are random."""
    n_channels, n_times = len(recipe.ch_names), len(recipe.times)
    halved = Coordinates(  # responses are twice what the model says, plus 1
        mean=torch.ones(n_channels, n_times),
        space=torch.eye(n_channels),
        axes=torch.eye(n_times),
        gains=torch.full((n_times,), 0.5),
        deviations=torch.ones(n_times),
        factors=torch.empty(0, n_channels, n_channels),
    )
    model = recipe.build(coordinates or halved)
    if recipe.method == "dit":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for parameter in model.network.eval().parameters():  # a new one says zero
                parameter.data += 0.3 * torch.randn_like(parameter)
    return Checkpoint(model, recipe)
