import shutil
from copy import deepcopy

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_stimuli_images import noise
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
NAMES = {  # of modules, in open_clip and in transformers
    "resblocks": "encoder.layers",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "ln_final": "final_layer_norm",
    "conv1": "embeddings.patch_embedding",
    "class_embedding": "embeddings.class_embedding",
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
}


def load(folder):
    return load_clip(f"local-dir:{folder}", None, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return load(folder)


@pytest.fixture(scope="module")
def pictures():
    return noise([(40, 50)] * 3)


@pytest.fixture(scope="module")
def published():
    """Return CLIP's architecture in the paper, but for the number of its layers."""
    name = load_config("paper").embedding.model
    architecture = deepcopy(open_clip.get_model_config(name))
    for part in ("vision_cfg", "text_cfg"):
        architecture[part]["layers"] = 1
    return architecture


def make_twin(clip, architecture):
    """Return the same weights in transformers' implementation of CLIP."""
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    heads = {
        "vision": vision["width"] // vision.get("head_width", 64),
        "text": text["heads"],
    }
    parts = {
        f"{part}_config": {
            "hidden_size": architecture[f"{part}_cfg"]["width"],
            "intermediate_size": 4 * architecture[f"{part}_cfg"]["width"],
            "num_hidden_layers": architecture[f"{part}_cfg"]["layers"],
            "num_attention_heads": heads[part],
        }
        for part in heads
    }
    parts["vision_config"] |= {k: vision[k] for k in ("image_size", "patch_size")}
    config = CLIPConfig(projection_dim=architecture["embed_dim"], **parts)
    model = CLIPModel(config).eval()
    model.load_state_dict(as_transformers(clip.model.state_dict()), strict=False)
    return model


def as_transformers(state):
    """Rename open_clip's weights and split its joint query, key and value."""
    renamed = {}
    for name, value in state.items():
        part = "vision" if name.startswith("visual.") else "text"
        name = name.removeprefix("visual.").removeprefix("transformer.")
        for old, new in NAMES.items():
            name = name.replace(old, new)
        if name in ("proj", "text_projection"):
            kind = {"proj": "visual", "text_projection": "text"}[name]
            renamed[f"{kind}_projection.weight"] = value.T
        elif "in_proj" in name:
            layer, kind = name.split("attn.in_proj_")
            for key, chunk in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{part}_model.{layer}self_attn.{key}_proj.{kind}"] = chunk
        else:
            renamed[f"{part}_model.{name}"] = value
    return renamed


@pytest.mark.parametrize("is_published", [False, True])
@torch.inference_mode()
def test_tokens_are_those_of_transformers(published, tmp_path, pictures, is_published):
    architecture = published if is_published else ARCHITECTURE
    clip = load(write_clip(tmp_path, architecture))
    twin = make_twin(clip, architecture)
    hidden = twin.vision_model(clip.pixels(pictures)).last_hidden_state
    of_images = twin.visual_projection(twin.vision_model.post_layernorm(hidden))
    of_texts = twin.text_model(clip.ids(CAPTIONS)).last_hidden_state
    seen = image_tokens(clip, pictures, normalize_by_cls=False)
    read = text_tokens(clip, CAPTIONS, project=False)
    np.testing.assert_allclose(seen, of_images, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(read, of_texts, atol=1e-4, rtol=1e-4)
    if is_published:
        assert seen.shape == (3, 257, 768) and read.shape == (3, 77, 768)
        gelus = {type(m).__name__ for m in clip.model.modules()}
        assert "QuickGELU" in gelus and "GELU" not in gelus


@torch.inference_mode()
def test_first_image_token_is_the_embedding_of_the_image(clip, pictures):
    want = clip.model.encode_image(clip.pixels(pictures)).numpy()
    tokens = image_tokens(clip, pictures, normalize_by_cls=False)
    assert tokens.shape == (3, 5, 12)  # class token and 2 x 2 patches
    np.testing.assert_allclose(tokens[:, 0], want, **CLOSE)
    norms = np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(embed_images(clip, pictures), want / norms, **CLOSE)
    normalized = image_tokens(clip, pictures, normalize_by_cls=True)
    np.testing.assert_allclose(normalized, tokens / norms[:, None], **CLOSE)


@torch.inference_mode()
def test_projected_end_token_is_the_embedding_of_the_text(clip):
    ids = clip.tokenizer(CAPTIONS)
    want = clip.model.encode_text(ids).numpy()
    tokens = text_tokens(clip, CAPTIONS, project=True)
    assert tokens.shape == (3, 77, 12)
    np.testing.assert_allclose(tokens[np.arange(3), ids.argmax(1)], want, **CLOSE)
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(embed_texts(clip, CAPTIONS), want, **CLOSE)


def test_texts_are_padded_with_zero_and_cut_at_77(clip):
    ids = clip.tokenizer(CAPTIONS)
    start, end = 49406, 49407
    assert ids.shape == (3, 77)
    assert (ids[:, 0] == start).all()
    assert ids[0, 3] == end and (ids[0, 4:] == 0).all()
    assert ids[2, -1] == end


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-L-14", "openai", "GELU.*Use 'ViT-L-14-quickgelu'"),
        ("ViT-L-14-quickgel", "openai", "Did you mean 'ViT-L-14-quickgelu'"),
        ("ViT-L-14-quickgelu", "open-ai", "Did you mean 'openai'"),
        ("ViT-L-14-quickgelu", None, "must be a checkpoint file or one of"),
    ],
)
def test_models_and_weights_that_do_not_fit(model, pretrained, message):
    with pytest.raises(ValueError, match=message):
        load_clip(model, pretrained, device="cpu")


def test_folder_without_model_or_weights(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="open_clip_config.json is missing. Expected"
    ):
        load(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "open_clip_model.safetensors").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load(tmp_path)


def test_damaged_folders(tmp_path, folder):
    copy = shutil.copytree(folder, tmp_path / "clip")
    file = copy / "open_clip_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"visual.proj": tensors["visual.proj"] * torch.nan}, file)
    with pytest.raises(ValueError, match=f"{copy}: the weights visual.proj are NaN"):
        load(copy)
    del tensors["visual.proj"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=f"{copy} is damaged.*visual.proj"):
        load(copy)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{copy} is damaged.*Download"):
        load(copy)
    (copy / "open_clip_config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{copy} is damaged.*recursion"):
        load(copy)
