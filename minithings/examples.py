"""Rendered scenes with captions, and the optimizer that both encoders learn with.

Attribute labels of the scenes (shape, color, ...) speed up the training of both
encoders: a linear layer predicts them from the embeddings and is discarded afterwards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from minithings.scenes import (
    BACKGROUNDS,
    COLORS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    describe,
    render,
    sample_scene,
)

ATTRIBUTES = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "texture": TEXTURES,
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "background": tuple(BACKGROUNDS),
}
HELD_OUT = 256  # scenes for the scores
_HELD_OUT_SIZE = 128  # pixels, so that the scores include the resizing


@dataclass(frozen=True)
class Examples:
    """Rendered scenes to learn from."""

    images: Tensor  # N 3 H W, uint8
    captions: list[str]
    labels: Tensor  # N 6, index of each attribute's value, in the order of ATTRIBUTES


def draw_scenes(seed: int, n_scenes: int) -> tuple[list[Scene], list[Scene]]:
    """Draw ``n_scenes`` scenes to learn from and ``HELD_OUT`` others for the scores."""
    rng = np.random.default_rng([seed, 1])
    scenes = [sample_scene(rng) for _ in range(n_scenes + HELD_OUT)]
    return scenes[:n_scenes], scenes[n_scenes:]


def render_examples(scenes: list[Scene], size: int) -> Examples:
    """Render scenes at the size in pixels that an encoder sees."""
    images = np.stack([render(scene, size) for scene in scenes])  # N H W 3
    labels = [
        [values.index(getattr(scene, name)) for name, values in ATTRIBUTES.items()]
        for scene in scenes
    ]
    return Examples(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        [describe(scene) for scene in scenes],
        torch.tensor(labels),
    )


def held_out_pictures(scenes: list[Scene]) -> list[Image.Image]:
    """Render scenes at a size that encoders have to resize."""
    return [Image.fromarray(render(scene, _HELD_OUT_SIZE)) for scene in scenes]


class AttributeLoss(nn.Module):
    """Cross-entropy of the attributes, which a linear layer predicts from features."""

    def __init__(self, width: int):
        super().__init__()
        self.sizes = [len(values) for values in ATTRIBUTES.values()]
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the sum over attributes; features (B, D), labels (B, 6)."""
        logits = self.linear(features).split(self.sizes, dim=1)
        return sum(F.cross_entropy(x, labels[:, i]) for i, x in enumerate(logits))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def draw_batches(n: int, batch_size: int, steps: int, seed: int) -> list[Tensor]:
    """Return the rows of each step's batch, epoch by epoch in a new order."""
    generator = torch.Generator().manual_seed(seed)
    n_epochs = -(-steps * batch_size // n)
    rows = torch.cat([torch.randperm(n, generator=generator) for _ in range(n_epochs)])
    return list(rows[: steps * batch_size].split(batch_size))


def optimize(
    parameters: list[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    *,
    batches: list[Tensor],
    learning_rate: float,
    label: str,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Minimize ``loss(batch)`` by AdamW with a one-cycle schedule."""
    optimizer = torch.optim.AdamW(
        parameters, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=len(batches), pct_start=0.1
    )
    progress = tqdm(batches, desc=label, unit="step", mininterval=10)
    for step, batch in enumerate(progress, start=1):
        optimizer.zero_grad()
        loss(batch).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        after_step(step)
