import pytest
import torch
from open_clip import SimpleTokenizer
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from minithings.captioner import load_small_captioner, score_captions, train_captioners
from minithings.clip import train_clip
from minithings.examples import ATTRIBUTES, draw_scenes, render_examples
from minithings.scenes import describe
from minithings.world import World
from paperlib.stimuli.clip import load_clip, text_tokens

PROMPT = "What is in the picture?"
CAPTIONER = {
    "n_scenes": 24,
    "vision_steps": 2,
    "snapshots": {"whole": 3, "third": 1},
    "batch_size": 8,
    "learning_rate": 1e-3,
}
WORLD = World.model_validate(
    {
        "seed": 0,
        "clip": {"n_scenes": 24, "steps": 3, "batch_size": 8, "learning_rate": 1e-3},
        "captioner": CAPTIONER,
    }
)


def train(folder, **changes):
    world = World.model_validate({"seed": 0, "captioner": CAPTIONER | changes})
    return train_captioners(folder, world, prompt=PROMPT)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    train_clip(folder, WORLD)
    return folder


@pytest.fixture(scope="module")
def captioner_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    train(folder)
    return folder / "whole"


def test_examples_agree_with_their_scenes():
    scenes, held_out = draw_scenes(0, 20)
    assert not {describe(s) for s in scenes} & {describe(s) for s in held_out[:5]}
    examples = render_examples(scenes, 24)
    assert examples.images.shape == (20, 3, 24, 24)
    for scene, label in zip(scenes, examples.labels.tolist(), strict=True):
        for (name, values), index in zip(ATTRIBUTES.items(), label, strict=True):
            assert values[index] == getattr(scene, name)


def test_clip_is_loaded_as_any_other(clip_folder):
    clip = load_clip(f"local-dir:{clip_folder}", None, device="cpu")
    scenes, _ = draw_scenes(1, 2)
    assert clip.model.token_embedding.num_embeddings == SimpleTokenizer().vocab_size
    texts = text_tokens(clip, [describe(s) for s in scenes], project=False)
    assert texts.shape == (2, 32, 64)
    assert type(clip.model.visual.transformer.resblocks[0].mlp.gelu).__name__ == (
        "QuickGELU"
    )


def test_captioner_is_loaded_as_any_other(captioner_folder):
    captioner = load_small_captioner(captioner_folder)
    assert sum(p.numel() for p in captioner.model.parameters()) < 2e6
    reloaded = Qwen2VLForConditionalGeneration.from_pretrained(captioner_folder)
    for name, value in reloaded.state_dict().items():
        torch.testing.assert_close(value, captioner.model.state_dict()[name])


def test_question_of_the_captioner(captioner_folder):
    processor = AutoProcessor.from_pretrained(captioner_folder)
    content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        f"{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.decode(ids) == text
    assert ids.count(processor.image_token_id) == 1


def test_same_seed_gives_the_same_bytes(tmp_path, clip_folder, captioner_folder):
    train_clip(tmp_path / "clip", WORLD)
    train(tmp_path / "captioner")
    pairs = ((clip_folder, "clip"), (captioner_folder, "captioner/whole"))
    for first, again in pairs:
        for path in first.iterdir():
            assert path.read_bytes() == (tmp_path / again / path.name).read_bytes()


def test_captioner_learns_the_form_of_a_caption(tmp_path):
    named = train(
        tmp_path, n_scenes=64, learning_rate=1e-2, snapshots={"whole": 60, "tenth": 6}
    )
    for scores in named.values():
        assert set(scores) == {"concept", *ATTRIBUTES}
    assert named["whole"]["size"] > 0.15  # every caption names one of three sizes
    assert sum(named["tenth"].values()) < sum(named["whole"].values())


def test_snapshots_are_of_one_training(tmp_path, captioner_folder):
    train(tmp_path, snapshots={"only": 3})
    weights = "model.safetensors"
    whole = (captioner_folder / weights).read_bytes()
    assert (tmp_path / "only" / weights).read_bytes() == whole
    third = load_file(captioner_folder.parent / "third" / weights)
    for name, value in load_file(captioner_folder / weights).items():
        assert torch.equal(value, third[name]) == name.startswith("visual")


def test_captions_score_what_they_name():
    scenes, _ = draw_scenes(0, 2)
    assert set(score_captions(scenes, [describe(s) for s in scenes]).values()) == {1.0}
    one_wrong = [describe(scenes[0]), describe(scenes[1]).replace(scenes[1].shape, "x")]
    scores = score_captions(scenes, one_wrong)
    assert (scores["concept"], scores["shape"], scores["color"]) == (0.5, 0.5, 1.0)
