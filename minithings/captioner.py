"""Small captioners: a Qwen2-VL model trained on rendered scenes and their captions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
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

from minithings.examples import (
    ATTRIBUTES,
    AttributeLoss,
    draw_batches,
    draw_scenes,
    held_out_pictures,
    optimize,
    render_examples,
    seeded,
)
from minithings.scenes import Scene, draw_object
from minithings.world import World
from paperlib.stimuli.captioners import load_captioner

IMAGE_SIZE = 32  # pixels that the model sees; every image is resized to it
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE  # patches a side; the merger makes one token of all
WIDTH = 64  # of the image token and of the language model
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


def train_captioners(
    folder: Path, world: World, *, prompt: str
) -> dict[str, dict[str, float]]:
    """Train a small Qwen2-VL model and save it, at several stages, for transformers.

    The vision tower first learns to predict the attributes; then it is fixed and the
    language model learns to answer ``prompt`` with the caption (loss on the answer
    only). Snapshots of this one training are captioners of graded quality, each in a
    folder of its own. Returns the scores of each; see `score_captions`.
    """
    seed, training = world.seed, world.captioner
    scenes, held_out = draw_scenes(seed, training.n_scenes)
    examples = render_examples(scenes, IMAGE_SIZE)
    processor = build_processor(examples.captions, prompt)
    with seeded(seed):
        model = build_captioner(processor)
    pixels = processor.image_processor(list(examples.images), return_tensors="pt")
    patches = pixels["pixel_values"].reshape(len(scenes), GRID**2, -1)  # N L P

    def save(step: int) -> None:
        for name in (k for k, last in training.snapshots.items() if last == step):
            model.save_pretrained(folder / name)
            processor.save_pretrained(folder / name)

    size = training.batch_size
    _train_vision(
        model,
        patches,
        _object_patches(scenes),
        examples.labels,
        batches=draw_batches(len(scenes), size, training.vision_steps, seed),
        learning_rate=training.vision_learning_rate,
        seed=seed,
    )
    _train_answers(
        model,
        patches,
        _chats(processor, examples.captions, prompt),
        batches=draw_batches(
            len(scenes), size, max(training.snapshots.values()), seed + 1
        ),
        learning_rate=training.learning_rate,
        after_step=save,
    )
    pictures = held_out_pictures(held_out)
    scores = {}
    for name in training.snapshots:
        captioner = load_small_captioner(folder / name)
        captions = captioner(pictures, prompt=prompt, max_new_tokens=40)
        scores[name] = score_captions(held_out, captions)
    return scores


def load_small_captioner(folder: Path):
    """Load a snapshot as notebook 02 loads any captioner."""
    return load_captioner(
        "qwen2-vl",
        model=str(folder),
        revision=None,
        pixels=IMAGE_SIZE**2,
        device=torch.device("cpu"),
    )


def score_captions(
    scenes: Sequence[Scene], captions: Sequence[str]
) -> dict[str, float]:
    """Return the share of captions that name each attribute of their scene correctly.

    ``"concept"`` stands for texture, color and shape at once.
    """
    words = {"medium": "medium-sized"}
    correct = np.array(
        [
            [
                f" {words.get(value, value)} " in caption
                for value in (getattr(scene, name) for name in ATTRIBUTES)
            ]
            for scene, caption in zip(scenes, captions, strict=True)
        ]
    )  # N 6
    shares = dict(zip(ATTRIBUTES, correct.mean(axis=0).tolist(), strict=True))
    columns = [list(ATTRIBUTES).index(name) for name in ("shape", "color", "texture")]
    return {"concept": correct[:, columns].all(axis=1).mean().item(), **shares}


def build_processor(captions: list[str], prompt: str) -> Qwen2VLProcessor:
    """Return a Qwen2-VL processor for small images, its tokenizer made for texts.

    The byte-level BPE learns its merges from captions and prompt.
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
    patches = {"patch_size": PATCH_SIZE, "merge_size": GRID, "temporal_patch_size": 1}
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
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 3.0,  # small: texts are short
                "mrope_section": [4, 6, 6],  # of 16 pairs: time, height, width
            },
            "initializer_range": 0.1,  # for narrow layers; 0.02 learns slowly
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 3,
            "embed_dim": 64,
            "hidden_size": WIDTH,
            "num_heads": 2,
            "mlp_ratio": 3,
            "patch_size": patches.patch_size,
            "spatial_merge_size": patches.merge_size,
            "temporal_patch_size": patches.temporal_patch_size,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 3.0},
            "initializer_range": 0.1,
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
    objects: Tensor,
    labels: Tensor,
    *,
    batches: list[Tensor],
    learning_rate: float,
    seed: int,
) -> None:
    """Let the image token predict the attributes, and each patch the object in it.

    The second loss, on the object's pixels (N, L, P), helps to learn shapes.
    """
    tower = model.model.visual
    with seeded(seed):
        attributes = AttributeLoss(WIDTH)
        pixels = nn.Linear(tower.config.embed_dim, PATCH_SIZE**2)

    def loss(batch: Tensor) -> Tensor:
        seen = tower(patches[batch].flatten(0, 1), grid_thw=_grid(len(batch)))
        drawn = pixels(seen.last_hidden_state)  # B*L P
        target = objects[batch].flatten(0, 1)
        shapes = F.binary_cross_entropy_with_logits(drawn, target)
        return attributes(seen.pooler_output, labels[batch]) + 5 * shapes

    optimize(
        [*tower.parameters(), *attributes.parameters(), *pixels.parameters()],
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
        images = torch.cat([_see(model, part) for part in patches.split(256)])  # N D
    place, _ = model.model.get_rope_index(
        ids[:1], is_image[None].int(), image_grid_thw=_grid(1)
    )
    words = model.get_input_embeddings()

    def loss(batch: Tensor) -> Tensor:
        embedded = words(ids[batch])
        embedded[:, is_image] = images[batch, None]
        positions = place.expand(-1, len(batch), -1)
        return model(
            inputs_embeds=embedded, position_ids=positions, labels=labels[batch]
        ).loss

    model.train()
    optimize(
        list(model.model.language_model.parameters()),
        loss,
        batches=batches,
        learning_rate=learning_rate,
        label="Captioner, answers",
        after_step=after_step,
    )
    model.eval()


def _see(model: Qwen2VLForConditionalGeneration, patches: Tensor) -> Tensor:
    """Return the image tokens, (B, D), of patches (B, L, P)."""
    tower = model.model.visual
    return tower(patches.flatten(0, 1), grid_thw=_grid(len(patches))).pooler_output


def _grid(n_images: int) -> Tensor:
    """Return Qwen2-VL's grids: frames, rows and columns of patches of each image."""
    return torch.tensor([[1, GRID, GRID]]).expand(n_images, -1)


def _object_patches(scenes: Sequence[Scene]) -> Tensor:
    """Return the object in each image, cut into patches like it, (N, L, P)."""
    drawn = np.stack([draw_object(scene, IMAGE_SIZE) for scene in scenes])
    cut = drawn.reshape(-1, GRID, PATCH_SIZE, GRID, PATCH_SIZE).swapaxes(2, 3)
    return torch.from_numpy(cut.reshape(len(scenes), GRID**2, -1))


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
