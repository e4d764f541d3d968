"""A small CLIP model, trained on rendered scenes and saved as an open_clip folder."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from minithings.examples import (
    AttributeLoss,
    draw_batches,
    draw_scenes,
    held_out_pictures,
    optimize,
    render_examples,
    seeded,
)
from minithings.scenes import Scene, describe
from minithings.world import World
from paperlib.atomic import atomic_path, write_text
from paperlib.stimuli.clip import load_clip

CONFIG = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 96,
        "layers": 3,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": 32,  # tokens; captions have at most 23
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
}
_PREPROCESSING = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def train_clip(folder: Path, world: World) -> dict[str, float]:
    """Train a small CLIP model and save it as an open_clip folder.

    The loss is CLIP's contrastive one plus the cross-entropy of the attributes, which
    one linear layer predicts from the embeddings of both, image and caption. Returns
    the share of held-out scenes whose own caption is the most similar of all
    (``image_to_text``), and the reverse (``text_to_image``).
    """
    seed, training = world.seed, world.clip
    scenes, held_out = draw_scenes(seed, training.n_scenes)
    examples = render_examples(scenes, CONFIG["vision_cfg"]["image_size"])
    tokens = open_clip.SimpleTokenizer()(examples.captions)
    used, texts = torch.unique(tokens, return_inverse=True)
    texts = texts[:, : (tokens != 0).sum(dim=1).max()]
    with seeded(seed):
        model = _small_vocabulary_clip(len(used), texts.shape[1])
        head = AttributeLoss(CONFIG["embed_dim"])
    pixels = _normalize(examples.images)
    contrast = open_clip.ClipLoss()

    def loss(batch: Tensor) -> Tensor:
        image = model.encode_image(pixels[batch], normalize=True)
        text = model.encode_text(texts[batch], normalize=True)
        # unit vectors times 8, so that the logits can become large
        guide = sum(head(8 * x, examples.labels[batch]) for x in (image, text))
        return contrast(image, text, model.logit_scale.exp()) + guide

    optimize(
        [*model.parameters(), *head.parameters()],
        loss,
        batches=draw_batches(len(scenes), training.batch_size, training.steps, seed),
        learning_rate=training.learning_rate,
        label="CLIP",
    )
    with seeded(seed):
        _save(folder, _full_vocabulary_clip(model, used))
    return _score(folder, held_out)


def _small_vocabulary_clip(n_words: int, n_tokens: int) -> open_clip.CLIP:
    """Build the CLIP model for the tokens that occur; others would learn nothing."""
    text = {"vocab_size": n_words, "context_length": n_tokens}
    model = open_clip.CLIP(**{**CONFIG, "text_cfg": {**CONFIG["text_cfg"], **text}})
    vision = CONFIG["vision_cfg"]
    with torch.no_grad():
        model.visual.positional_embedding[1:] = _waves(
            vision["image_size"] // vision["patch_size"], vision["width"]
        )
    return model


def _waves(grid: int, width: int) -> Tensor:
    """Return sines and cosines of row and column, (grid * grid, width)."""
    frequencies = torch.logspace(0, -1.7, width // 4) * torch.pi
    angles = torch.arange(grid)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # grid, width / 2
    rows = waves[:, None].expand(grid, grid, -1)
    columns = waves[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def _full_vocabulary_clip(small: open_clip.CLIP, used: Tensor) -> open_clip.CLIP:
    """Put the trained rows into a model with CLIP's whole vocabulary and context.

    A causal text transformer does not see what comes after the end token, so the
    embeddings of captions stay the same.
    """
    full = open_clip.CLIP(**CONFIG)
    trained, state = small.state_dict(), full.state_dict()
    words = trained.pop("token_embedding.weight")
    positions = trained.pop("positional_embedding")
    state.update(trained)
    state["token_embedding.weight"][used] = words
    state["positional_embedding"][: len(positions)] = positions
    full.load_state_dict(state)
    return full


def _save(folder: Path, model: open_clip.CLIP) -> None:
    config = {"model_cfg": CONFIG, "preprocess_cfg": _PREPROCESSING}
    with atomic_path(folder / "open_clip_model.safetensors") as partial:
        save_file(model.state_dict(), partial)
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")


def _normalize(images: Tensor) -> Tensor:
    """Scale uint8 images as CLIP does."""
    mean = torch.tensor(_PREPROCESSING["mean"])[:, None, None]
    std = torch.tensor(_PREPROCESSING["std"])[:, None, None]
    return (images / 255 - mean) / std


@torch.inference_mode()
def _score(folder: Path, scenes: list[Scene]) -> dict[str, float]:
    """Return the share of scenes that are matched with their own caption."""
    clip = load_clip(f"local-dir:{folder}", None, device="cpu")
    pixels = clip.pixels(held_out_pictures(scenes))
    texts = clip.ids([describe(scene) for scene in scenes])
    image = clip.model.encode_image(pixels, normalize=True)
    text = clip.model.encode_text(texts, normalize=True)
    similarity, own = image @ text.T, torch.arange(len(scenes))
    return {
        "image_to_text": (similarity.argmax(dim=1) == own).float().mean().item(),
        "text_to_image": (similarity.argmax(dim=0) == own).float().mean().item(),
    }
