import shutil
from copy import deepcopy

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import ARCHITECTURE, write_clip
from transformers import CLIPConfig, CLIPModel

from paperlib.config import load_config
from paperlib.stimuli.clip import (
    embed_images,
    embed_texts,
    image_tokens,
    load_clip,
    text_tokens,
)

CAPTIONS = ["a cat", "two dogs in the sun", "word " * 100]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return load_clip(f"local-dir:{folder}", None, device="cpu")


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
        for _ in range(3)
    ]


@pytest.fixture(scope="module")
def twin(clip):
    return make_twin(clip, ARCHITECTURE)


def make_twin(clip, architecture):
    """Return the same weights in transformers' implementation of CLIP."""
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    config = CLIPConfig(
        projection_dim=architecture["embed_dim"],
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        text_config={
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
        },
    )
    model = CLIPModel(config).eval()
    model.load_state_dict(as_transformers(clip.model.state_dict()), strict=False)
    return model


def as_transformers(state):
    """Rename open_clip's weights and split its joint query, key and value."""
    renamed = {}
    for name, value in state.items():
        vision = name.startswith("visual.")
        name = name.removeprefix("visual.").removeprefix("transformer.")
        part = "vision_model" if vision else "text_model"
        if name in ("proj", "text_projection"):
            renamed[f"{'visual' if vision else 'text'}_projection.weight"] = value.T
            continue
        for old, new in (
            ("resblocks", "encoder.layers"),
            ("attn.out_proj", "self_attn.out_proj"),
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
            ("ln_pre", "pre_layrnorm"),
            ("ln_post", "post_layernorm"),
            ("ln_final", "final_layer_norm"),
            ("conv1", "embeddings.patch_embedding"),
            ("class_embedding", "embeddings.class_embedding"),
            ("token_embedding", "embeddings.token_embedding"),
        ):
            name = name.replace(old, new)
        if name == "positional_embedding":
            name = "embeddings.position_embedding.weight"
        if "in_proj" in name:
            kind = name.rsplit("_", maxsplit=1)[1]
            layer = name.split("attn.")[0]
            for key, chunk in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{part}.{layer}self_attn.{key}_proj.{kind}"] = chunk
            continue
        renamed[f"{part}.{name}"] = value
    return renamed


def tokens_of_twin(twin, clip, pictures):
    """Return image and text tokens as transformers computes them."""
    pixels = torch.stack([clip.preprocess(picture) for picture in pictures])
    with torch.inference_mode():
        hidden = twin.vision_model(pixels).last_hidden_state
        seen = twin.visual_projection(twin.vision_model.post_layernorm(hidden))
        read = twin.text_model(clip.tokenizer(CAPTIONS)).last_hidden_state
    return seen.numpy(), read.numpy()


def test_tokens_are_those_of_transformers(clip, twin, pictures):
    want = tokens_of_twin(twin, clip, pictures)
    seen = image_tokens(clip, pictures, normalize_by_cls=False)
    np.testing.assert_allclose(seen, want[0], atol=1e-5, rtol=1e-5)
    read = text_tokens(clip, CAPTIONS, project=False)
    np.testing.assert_allclose(read, want[1], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return CLIP as the paper uses it, but for the number of its layers."""
    name = load_config("paper").embedding.model
    architecture = deepcopy(open_clip.get_model_config(name))
    for part in ("vision_cfg", "text_cfg"):
        architecture[part]["layers"] = 1
    folder = write_clip(tmp_path_factory.mktemp("published"), architecture)
    return architecture, load_clip(f"local-dir:{folder}", None, device="cpu")


def test_the_published_model_gives_257_and_77_tokens_of_width_768(published, pictures):
    architecture, clip = published
    want = tokens_of_twin(make_twin(clip, architecture), clip, pictures)
    seen = image_tokens(clip, pictures, normalize_by_cls=False)
    read = text_tokens(clip, CAPTIONS, project=False)
    assert seen.shape == (3, 257, 768) and read.shape == (3, 77, 768)
    np.testing.assert_allclose(seen, want[0], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(read, want[1], atol=1e-4, rtol=1e-4)


def test_the_published_model_computes_with_quick_gelu(published):
    _, clip = published
    activations = [m for m in clip.model.modules() if "GELU" in type(m).__name__]
    assert [type(m).__name__ for m in activations] == ["QuickGELU"] * 2


def test_first_image_token_is_the_embedding_of_the_image(clip, pictures):
    pixels = torch.stack([clip.preprocess(picture) for picture in pictures])
    with torch.inference_mode():
        want = clip.model.encode_image(pixels).numpy()
    tokens = image_tokens(clip, pictures, normalize_by_cls=False)
    assert tokens.shape == (3, 5, 12)  # class token and 2 x 2 patches
    np.testing.assert_allclose(tokens[:, 0], want, **CLOSE)
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(embed_images(clip, pictures), want, **CLOSE)


def test_projected_end_token_is_the_embedding_of_the_text(clip):
    ids = clip.tokenizer(CAPTIONS)
    with torch.inference_mode():
        want = clip.model.encode_text(ids).numpy()
    tokens = text_tokens(clip, CAPTIONS, project=True)
    assert tokens.shape == (3, 77, 12)
    np.testing.assert_allclose(tokens[np.arange(3), ids.argmax(1)], want, **CLOSE)
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(embed_texts(clip, CAPTIONS), want, **CLOSE)


def test_normalized_class_tokens_have_unit_norm(clip, pictures):
    raw = image_tokens(clip, pictures, normalize_by_cls=False)
    tokens = image_tokens(clip, pictures, normalize_by_cls=True)
    np.testing.assert_allclose(np.linalg.norm(tokens[:, 0], axis=-1), 1, rtol=1e-5)
    ratio = raw / tokens
    np.testing.assert_allclose(ratio, ratio[:, :1, :1].repeat(5, 1).repeat(12, 2), 1e-4)


def test_texts_are_padded_with_zero_and_cut_at_77(clip):
    ids = clip.tokenizer(CAPTIONS)
    start, end = 49406, 49407
    assert ids.shape == (3, 77)
    assert (ids[:, 0] == start).all()
    assert ids[0, 3] == end and (ids[0, 4:] == 0).all()
    assert ids[2, -1] == end


def test_activation_that_does_not_fit_the_weights():
    with pytest.raises(ValueError, match="GELU.*Use 'ViT-L-14-quickgelu'"):
        load_clip("ViT-L-14", "openai", device="cpu")


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-L-14-quickgel", "openai", "Did you mean 'ViT-L-14-quickgelu'"),
        ("ViT-L-14-quickgelu", "open-ai", "Did you mean 'openai'"),
        ("ViT-L-14-quickgelu", None, "must be a checkpoint file or one of"),
    ],
)
def test_unknown_model_or_weights(model, pretrained, message):
    with pytest.raises(ValueError, match=message):
        load_clip(model, pretrained, device="cpu")


def test_folder_without_model_or_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no open_clip_config.json"):
        load_clip(f"local-dir:{tmp_path}", None, device="cpu")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load_clip(f"local-dir:{tmp_path}", None, device="cpu")


@pytest.fixture
def copied(tmp_path, folder):
    """Return a copy of the weights to damage."""
    copy = tmp_path / "clip"
    shutil.copytree(folder, copy)
    return copy / "open_clip_model.safetensors"


def test_truncated_weights(copied):
    copied.write_bytes(copied.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{copied.parent} cannot be loaded.*Download"):
        load_clip(f"local-dir:{copied.parent}", None, device="cpu")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda tensors: tensors.pop("visual.proj"),
            "(?s)cannot be loaded.*visual.proj",
        ),
        (lambda t: t["visual.proj"].fill_(torch.nan), "visual.proj are NaN"),
    ],
)
def test_weights_that_are_not_whole(copied, damage, message):
    tensors = load_file(copied)
    damage(tensors)
    save_file(tensors, copied)
    with pytest.raises(ValueError, match=message):
        load_clip(f"local-dir:{copied.parent}", None, device="cpu")


def test_a_configuration_nested_too_deeply(copied):
    (copied.parent / "open_clip_config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{copied.parent} cannot be loaded"):
        load_clip(f"local-dir:{copied.parent}", None, device="cpu")
