"""Small stand-ins for CLIP and Qwen2-VL, trained on rendered scenes and their captions.

Both are saved in the formats of the models they stand for, an open_clip folder and a
Hugging Face folder, and are loaded by the same calls. Attribute labels of the scenes
(shape, color, ...) speed up the training of both: a linear layer predicts them from the
embeddings and is thrown away in the end.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from paperlib.atomic import atomic_path, write_text
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
from paperlib.progress import progress_bar
from paperlib.stimuli.captioners import load_captioner
from paperlib.stimuli.embeddings import load_clip

ATTRIBUTES = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "texture": TEXTURES,
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "background": tuple(BACKGROUNDS),
}
IMAGE_SIZE = 32  # pixels that both encoders see; every image is resized to it
PATCH_SIZE = 8
N_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
HELD_OUT = 256  # scenes for the scores
HELD_OUT_SIZE = 128  # pixels, so that the scores include the resizing
CLIP_CONFIG = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "width": 96,
        "layers": 3,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
}
PREPROCESSING = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
SYSTEM_PROMPT = "You are a helpful assistant."
CHAT_TEMPLATE = (
    "{% for turn in messages %}"
    "{% if loop.first and turn['role'] != 'system' %}"
    f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ turn['role'] }}\n"
    "{% if turn['content'] is string %}{{ turn['content'] }}{% else %}"
    "{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Examples:
    """Rendered scenes to learn from.

    Attributes
    ----------
    images : Tensor of shape (N, 3, IMAGE_SIZE, IMAGE_SIZE)
        uint8.
    captions : list of str
    labels : Tensor of shape (N, 6)
        Index of each attribute's value, in the order of ``ATTRIBUTES``.
    """

    images: Tensor
    captions: list[str]
    labels: Tensor


def draw_scenes(seed: int, n_scenes: int) -> tuple[list[Scene], list[Scene]]:
    """Draw ``n_scenes`` scenes to learn from and ``HELD_OUT`` others for the scores."""
    rng = np.random.default_rng([seed, 1])
    scenes = [sample_scene(rng) for _ in range(n_scenes + HELD_OUT)]
    return scenes[:n_scenes], scenes[n_scenes:]


def render_examples(scenes: list[Scene]) -> Examples:
    """Render scenes at the size that the encoders see, with captions and labels."""
    images = np.stack([render(scene, IMAGE_SIZE) for scene in scenes])  # N H W 3
    labels = [
        [values.index(getattr(scene, name)) for name, values in ATTRIBUTES.items()]
        for scene in scenes
    ]
    return Examples(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        [describe(scene) for scene in scenes],
        torch.tensor(labels),
    )


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


def train_clip(
    folder: Path,
    *,
    seed: int,
    n_scenes: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> dict[str, float]:
    """Train a small CLIP model and save it as an open_clip folder.

    The loss is CLIP's contrastive one plus the cross-entropy of the attributes, which
    one linear layer predicts from the embeddings of both, image and caption.

    Parameters
    ----------
    folder
        Loaded as ``"local-dir:<folder>"`` afterwards.
    seed
        Of scenes, weights and batches.
    n_scenes
        Scenes to learn from.
    steps, batch_size
        Optimizer steps, and pairs in each.
    learning_rate
        Highest of a one-cycle schedule.

    Returns
    -------
    dict
        Share of ``HELD_OUT`` scenes whose caption is found by their image
        (``image_to_text``) and the reverse (``text_to_image``).
    """
    scenes, held_out = draw_scenes(seed, n_scenes)
    examples = render_examples(scenes)
    tokens = open_clip.SimpleTokenizer()(examples.captions)
    used, texts = torch.unique(tokens, return_inverse=True)
    texts = texts[:, : (tokens != 0).sum(dim=1).max()]
    with _seeded(seed):
        model = _small_vocabulary_clip(len(used), texts.shape[1])
        head = AttributeLoss(CLIP_CONFIG["embed_dim"])
    pixels = _normalize(examples.images)
    contrast = open_clip.ClipLoss()

    def loss(batch: Tensor) -> Tensor:
        image = model.encode_image(pixels[batch], normalize=True)
        text = model.encode_text(texts[batch], normalize=True)
        # unit vectors times 8, so that the linear layer can be sure of itself
        guide = sum(head(8 * x, examples.labels[batch]) for x in (image, text))
        return contrast(image, text, model.logit_scale.exp()) + guide

    _optimize(
        [*model.parameters(), *head.parameters()],
        loss,
        batches=_batches(n_scenes, batch_size, steps, seed),
        learning_rate=learning_rate,
        label="CLIP",
    )
    with _seeded(seed):
        _save_clip(folder, _full_vocabulary_clip(model, used))
    return _score_clip(folder, held_out)


def train_captioner(
    folder: Path,
    *,
    seed: int,
    prompt: str,
    n_scenes: int,
    vision_steps: int,
    snapshots: Mapping[str, int],
    batch_size: int,
    learning_rate: float,
) -> dict[str, dict[str, float]]:
    """Train a small Qwen2-VL model and save it, at several stages, for transformers.

    The vision tower first learns to predict the attributes; then it is fixed and the
    language model learns to answer the prompt with the caption (loss on the answer
    only). Snapshots of this one training are captioners of graded quality.

    Parameters
    ----------
    folder
        Gets a folder for each snapshot, which ``from_pretrained`` loads.
    seed
        Of scenes, weights and batches.
    prompt
        What will be asked.
    n_scenes
        Scenes to learn from.
    vision_steps
        Optimizer steps of the vision tower.
    snapshots
        Name of each snapshot, and after how many optimizer steps of the language model
        it is taken; the most ends the training.
    batch_size
        Scenes in a step.
    learning_rate
        Highest of each stage's one-cycle schedule.

    Returns
    -------
    dict
        For each snapshot, the share of ``HELD_OUT`` scenes whose caption names each
        attribute rightly.
    """
    scenes, held_out = draw_scenes(seed, n_scenes)
    examples = render_examples(scenes)
    processor = build_processor(examples.captions, prompt)
    with _seeded(seed):
        model = build_captioner(processor)
    pixels = processor.image_processor(list(examples.images), return_tensors="pt")
    patches = pixels["pixel_values"].reshape(n_scenes, N_PATCHES, -1)

    def save(step: int) -> None:
        for name in (name for name, last in snapshots.items() if last == step):
            model.save_pretrained(folder / name)
            processor.save_pretrained(folder / name)

    _train_vision(
        model,
        patches,
        examples.labels,
        batches=_batches(n_scenes, batch_size, vision_steps, seed),
        learning_rate=learning_rate,
        seed=seed,
    )
    _train_answers(
        model,
        patches,
        _chats(processor, examples.captions, prompt),
        batches=_batches(n_scenes, batch_size, max(snapshots.values()), seed + 1),
        learning_rate=learning_rate,
        after_step=save,
    )
    return {
        name: _score_captioner(folder / name, held_out, prompt) for name in snapshots
    }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator for what only reads that one; restore it after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _batches(n_scenes: int, batch_size: int, steps: int, seed: int) -> list[Tensor]:
    """Return the rows of each step's batch, epoch by epoch in a new order."""
    generator = torch.Generator().manual_seed(seed)
    n_epochs = -(-steps * batch_size // n_scenes)
    rows = torch.cat(
        [torch.randperm(n_scenes, generator=generator) for _ in range(n_epochs)]
    )
    return list(rows[: steps * batch_size].split(batch_size))


def _optimize(
    parameters: list[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    *,
    batches: list[Tensor],
    learning_rate: float,
    label: str,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Minimize ``loss(batch)`` by AdamW with a one-cycle schedule."""
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=len(batches), pct_start=0.1
    )
    for step, batch in enumerate(progress_bar(batches, label=label, unit="step"), 1):
        optimizer.zero_grad()
        loss(batch).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        after_step(step)


def _small_vocabulary_clip(n_words: int, n_tokens: int) -> open_clip.CLIP:
    """Build the CLIP model for the tokens that occur; others would learn nothing."""
    text = {"vocab_size": n_words, "context_length": n_tokens}
    config = {**CLIP_CONFIG, "text_cfg": {**CLIP_CONFIG["text_cfg"], **text}}
    model = open_clip.CLIP(**config)
    grid = IMAGE_SIZE // CLIP_CONFIG["vision_cfg"]["patch_size"]
    width = CLIP_CONFIG["vision_cfg"]["width"]
    with torch.no_grad():
        model.visual.positional_embedding[1:] = _waves(grid, width)
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

    A causal text transformer does not see what comes behind the end token, so the
    embeddings of captions stay the same.
    """
    full = open_clip.CLIP(**CLIP_CONFIG)
    trained, state = small.state_dict(), full.state_dict()
    words = trained.pop("token_embedding.weight")
    positions = trained.pop("positional_embedding")
    state.update(trained)
    state["token_embedding.weight"][used] = words
    state["positional_embedding"][: len(positions)] = positions
    full.load_state_dict(state)
    return full


def _save_clip(folder: Path, model: open_clip.CLIP) -> None:
    config = {"model_cfg": CLIP_CONFIG, "preprocess_cfg": PREPROCESSING}
    with atomic_path(folder / "open_clip_model.safetensors") as partial:
        save_file(model.state_dict(), partial)
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")


def _normalize(images: Tensor) -> Tensor:
    """Scale uint8 images as CLIP and Qwen2-VL do."""
    mean = torch.tensor(PREPROCESSING["mean"])[:, None, None]
    std = torch.tensor(PREPROCESSING["std"])[:, None, None]
    return (images / 255 - mean) / std


@torch.inference_mode()
def _score_clip(folder: Path, scenes: list[Scene]) -> dict[str, float]:
    clip = load_clip(f"local-dir:{folder}", None, device="cpu")
    pixels = torch.stack([clip.preprocess(picture) for picture in _pictures(scenes)])
    texts = clip.tokenizer([describe(scene) for scene in scenes])
    image = clip.model.encode_image(pixels, normalize=True)
    text = clip.model.encode_text(texts, normalize=True)
    similarity, right = image @ text.T, torch.arange(len(scenes))
    return {
        "image_to_text": (similarity.argmax(dim=1) == right).float().mean().item(),
        "text_to_image": (similarity.argmax(dim=0) == right).float().mean().item(),
    }


def _pictures(scenes: list[Scene]) -> list[Image.Image]:
    return [Image.fromarray(render(scene, HELD_OUT_SIZE)) for scene in scenes]


def build_processor(captions: list[str], prompt: str) -> Qwen2VLProcessor:
    """Return a Qwen2-VL processor for small images whose tokenizer knows the captions.

    Parameters
    ----------
    captions
        Texts from which the byte-level BPE learns its merges.
    prompt
        What will be asked; learned as well.
    """
    chat = f"system\n{SYSTEM_PROMPT}\nuser\n{prompt}\nassistant\n"
    vocabulary, merges = _learn_merges([*captions, *[chat] * len(captions)])
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
    )
    pixels = {"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2}
    patches = {"patch_size": PATCH_SIZE, "merge_size": 1, "temporal_patch_size": 1}
    return Qwen2VLProcessor(
        Qwen2VLImageProcessor(size=pixels, **patches),
        tokenizer,
        Qwen2VLVideoProcessor(size=pixels, **patches),
        chat_template=CHAT_TEMPLATE,
    )


def build_captioner(processor: Qwen2VLProcessor) -> Qwen2VLForConditionalGeneration:
    """Return an untrained small Qwen2-VL model that fits the processor."""
    tokenizer, patches = processor.tokenizer, processor.image_processor
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 3.0,  # a grid of 4 x 4 needs fast rotations
                "mrope_section": [4, 6, 6],  # of 16 pairs: time, height, width
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 3,
            "embed_dim": 96,
            "hidden_size": 64,
            "num_heads": 3,
            "mlp_ratio": 3,
            "patch_size": patches.patch_size,
            "spatial_merge_size": patches.merge_size,
            "temporal_patch_size": patches.temporal_patch_size,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return Qwen2VLForConditionalGeneration(config)


def _learn_merges(texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train a byte-level BPE with Qwen2's way to split a text into words."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    return learned["vocab"], [tuple(pair) for pair in learned["merges"]]


def _train_vision(
    model: Qwen2VLForConditionalGeneration,
    patches: Tensor,
    labels: Tensor,
    *,
    batches: list[Tensor],
    learning_rate: float,
    seed: int,
) -> None:
    """Let all image tokens together, and their mean, predict the attributes."""
    width = model.config.text_config.hidden_size
    with _seeded(seed):
        heads = nn.ModuleList([AttributeLoss(N_PATCHES * width), AttributeLoss(width)])

    def loss(batch: Tensor) -> Tensor:
        tokens = _see(model, patches[batch])  # B L D
        features = tokens.flatten(1), tokens.mean(dim=1)
        pairs = zip(heads, features, strict=True)
        return sum(head(feature, labels[batch]) for head, feature in pairs)

    _optimize(
        [*model.model.visual.parameters(), *heads.parameters()],
        loss,
        batches=batches,
        learning_rate=learning_rate,
        label="Captioner, vision",
    )


def _train_answers(
    model: Qwen2VLForConditionalGeneration,
    patches: Tensor,
    chats: tuple[Tensor, Tensor],
    *,
    batches: list[Tensor],
    learning_rate: float,
    after_step: Callable[[int], None],
) -> None:
    """Let the language model answer with the caption; the vision tower is fixed."""
    ids, labels = chats
    is_image = ids[0] == model.config.image_token_id
    with torch.no_grad():
        images = torch.cat([_see(model, some) for some in patches.split(256)])
    place, _ = model.model.get_rope_index(
        ids[:1], is_image[None].int(), image_grid_thw=_grid(1)
    )
    words = model.get_input_embeddings()

    def loss(batch: Tensor) -> Tensor:
        embedded = words(ids[batch])
        embedded[:, is_image] = images[batch]
        positions = place.expand(-1, len(batch), -1)
        return model(
            inputs_embeds=embedded, position_ids=positions, labels=labels[batch]
        ).loss

    model.train()
    _optimize(
        list(model.model.language_model.parameters()),
        loss,
        batches=batches,
        learning_rate=learning_rate,
        label="Captioner, answers",
        after_step=after_step,
    )
    model.eval()


def _see(model: Qwen2VLForConditionalGeneration, patches: Tensor) -> Tensor:
    """Return the image tokens, (B, N_PATCHES, D), of patches (B, N_PATCHES, ...)."""
    tower = model.model.visual
    tokens = tower(patches.flatten(0, 1), grid_thw=_grid(len(patches))).pooler_output
    return tokens.reshape(len(patches), N_PATCHES, -1)


def _grid(n_images: int) -> Tensor:
    """Return Qwen2-VL's grids: frames, rows and columns of patches of each image."""
    side = IMAGE_SIZE // PATCH_SIZE
    return torch.tensor([[1, side, side]]).expand(n_images, -1)


def _chats(
    processor: Qwen2VLProcessor, captions: list[str], prompt: str
) -> tuple[Tensor, Tensor]:
    """Return ids of question and answer, and labels that count the answer only.

    Answers are padded at the right: causal attention does not look there, and the
    labels leave it out.
    """
    tokenizer = processor.tokenizer
    blank = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    content = [{"type": "image", "image": blank}, {"type": "text", "text": prompt}]
    question = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
    )["input_ids"][0]
    answers = [
        tokenizer(text).input_ids + [tokenizer.eos_token_id] for text in captions
    ]
    longest = max(len(answer) for answer in answers)
    ids = torch.full((len(answers), len(question) + longest), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    ids[:, : len(question)] = torch.tensor(question)
    for row, answer in enumerate(answers):
        place = slice(len(question), len(question) + len(answer))
        ids[row, place] = labels[row, place] = torch.tensor(answer)
    return ids, labels


def _score_captioner(
    folder: Path, scenes: list[Scene], prompt: str
) -> dict[str, float]:
    entry = {"kind": "qwen2-vl", "model": str(folder), "revision": None}
    entry |= {"pixels": IMAGE_SIZE**2}
    captioner = load_captioner(entry, device="cpu", dtype=torch.float32)
    captions = captioner(_pictures(scenes), prompt=prompt, max_new_tokens=40)
    right = [_rightly_named(*pair) for pair in zip(scenes, captions, strict=True)]
    return dict(zip(ATTRIBUTES, np.mean(right, axis=0).tolist(), strict=True))


def _rightly_named(scene: Scene, caption: str) -> list[bool]:
    """Tell for each attribute whether the caption holds the scene's word for it."""
    size = {"medium": "medium-sized"}.get(scene.size, scene.size)
    words = [size if name == "size" else getattr(scene, name) for name in ATTRIBUTES]
    return [f" {word} " in caption for word in words]
