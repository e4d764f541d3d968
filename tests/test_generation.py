"""Responses to a user's own images, with tiny models of every kind."""

import os

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_stimuli_images import noise
from tiny_captioner import ENTRY, PROMPT, write_captioner
from tiny_checkpoint import DIT, make_checkpoint, make_recipe
from tiny_clip import write_clip

from paperlib.checkpoints import Checkpoint
from paperlib.config import Machine, Sampling
from paperlib.generation import find_pictures, generate
from paperlib.models.linear import fit_layerwise_ridge, fit_ridge
from paperlib.stimuli.clip import image_tokens, load_clip, text_tokens
from paperlib.stimuli.cnn import load_cnn, write_layer_outputs
from paperlib.stimuli.features import LayerFeatures
from paperlib.stimuli.images import open_image
from paperlib.stimuli.map_tokens import fit_map_tokens
from paperlib.stimuli.tokens import Tokens

EEG = ["FCz", "Cz", "Oz"]
MEG = ["MLO11-1609", "MRO12-1609", "MZC01-1609"]
N_TIMES = 8
QUICK = {
    "sampling": Sampling(steps=2, precision="no"),
    "machine": Machine(device="cpu"),
}
RIDGE = {"n_components": 3, "alphas": [1.0], "block": 50, "seed": 0}
NETWORK = {"image": False, "network": "efficientnet-lite0"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write a CLIP and a captioner of random weights to folders."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "clip").mkdir()
    write_clip(folder / "clip")
    write_captioner(folder / "captioner")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{name}.png" for name in ("cat", "dog", "emu")]
    for picture, path in zip(noise([(40, 50)] * 3), paths, strict=True):
        picture.save(path)
    return paths


def recipe_of(weights, **changes):
    """Return the recipe of a network that sees images and captions."""
    clip = {"model": f"local-dir:{weights / 'clip'}", "pretrained": None}
    captioners = {"qwen2-vl": ENTRY | {"model": str(weights / "captioner")}}
    options = {"prompt": PROMPT, "max_new_tokens": 6, "captioners": captioners}
    recipe = {
        "conditioning": {"image": True, "captioner": "qwen2-vl"},
        "embedding": clip
        | {"revision": None, "project_text": True}
        | {"networks": {"efficientnet-lite0": {"grid": 4}}},
        **{"captioning": options, "options": DIT | {"patch": [2, 4]}},
        **{"n_tokens": 82, "context_width": 12, "ch_names": EEG},
        "diffusion": {"timesteps": 20, "beta_start": 1e-3, "beta_end": 0.5},
    }
    return make_recipe(**recipe | changes)


@pytest.fixture(scope="module")
def checkpoint(weights):
    return make_checkpoint(recipe_of(weights))


def encode(weights, pictures, captions):
    clip = load_clip(f"local-dir:{weights / 'clip'}", None, device="cpu")
    images = image_tokens(clip, list(map(open_image, pictures)), normalize_by_cls=False)
    parts = [images]
    if captions is not None:
        parts.append(text_tokens(clip, captions, project=True))
    tokens = np.concatenate(parts, axis=1)  # N L D
    return tokens.astype(np.float16).astype(np.float32)  # as they are on disk


class Context:
    """Tokens as a model reads them."""

    def __init__(self, tokens):
        self.tokens = tokens
        self.image_ids = np.arange(len(tokens))

    def __call__(self, rows):
        return self.tokens[rows]


def test_epochs_say_which_image_which_caption_and_which_sample(checkpoint, pictures):
    epochs = generate(pictures, checkpoint, samples=2, **QUICK)
    assert isinstance(epochs, mne.EpochsArray)
    assert epochs.event_id == {"image-001": 1, "image-002": 2, "image-003": 3}
    assert epochs.metadata["image"].tolist() == [str(p) for p in pictures for _ in "12"]
    assert epochs.metadata["sample"].tolist() == [1, 2] * 3
    assert epochs.metadata["caption"].nunique() > 1
    assert epochs["image-002"].get_data().shape == (2, 3, N_TIMES)
    np.testing.assert_allclose(epochs.times, checkpoint.recipe.times)
    assert epochs.ch_names == EEG and set(epochs.get_channel_types()) == {"eeg"}
    assert epochs.get_montage() is not None
    assert "values in noise SD, neither V nor T" in epochs.info["description"]
    assert "simulated participant 1 of things-eeg2" in epochs.info["description"]


@pytest.mark.parametrize("samples", [None, 2])
def test_values_are_those_of_the_model_for_the_tokens(
    checkpoint, weights, pictures, samples
):
    epochs = generate(pictures, checkpoint, samples=samples, seed=5, **QUICK)
    captions = epochs.metadata["caption"][:: samples or 1]
    context = Context(encode(weights, pictures, captions))
    sampling = Sampling(steps=2, samples=2, precision="no")
    options = {"sampling": sampling, "seed": 5, "machine": Machine(device="cpu")}
    draw = "posterior_mean" if samples is None else "sample"
    expected = getattr(checkpoint.model, draw)(context, **options)
    expected = expected.reshape(-1, 3, N_TIMES)
    np.testing.assert_allclose(epochs.get_data(), expected, rtol=1e-5, atol=1e-5)


def test_samples_are_averaged_by_mne(checkpoint, pictures):
    epochs = generate(pictures, checkpoint, samples=4, **QUICK)
    means = [evoked.data for evoked in epochs.average(by_event_type=True)]
    each = epochs.get_data().reshape(3, 4, 3, N_TIMES)
    np.testing.assert_allclose(means, each.mean(axis=1), rtol=1e-5, atol=1e-6)


def test_batches_do_not_change_the_responses(checkpoint, pictures):
    whole = generate(pictures, checkpoint, **QUICK)
    single = Machine(device="cpu", captioning_batch=1, embedding_batch=1)
    epochs = generate(pictures, checkpoint, sampling=QUICK["sampling"], machine=single)
    assert epochs.metadata.equals(whole.metadata)
    np.testing.assert_allclose(epochs.get_data(), whole.get_data(), atol=1e-4)


def test_files_a_folder_and_opened_pictures_are_the_same(checkpoint, pictures):
    expected = generate(pictures, checkpoint, **QUICK)
    opened = [Image.open(path) for path in pictures]
    for images in (opened, pictures[0].parent, [str(path) for path in pictures]):
        epochs = generate(images, checkpoint, **QUICK)
        assert epochs.metadata.equals(expected.metadata)
        np.testing.assert_array_equal(epochs.get_data(), expected.get_data())
    made = Image.new("RGB", (8, 8), "red")  # without a file
    assert generate(made, checkpoint, **QUICK).metadata["image"].tolist() == [""]


def test_opened_pictures_are_seen_upright(checkpoint, pictures, tmp_path):
    upright = Image.open(pictures[0])
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_180).save(turned, exif=exif)
    epochs = generate([upright, turned, Image.open(turned)], checkpoint, **QUICK)
    captions = epochs.metadata["caption"]
    assert captions[0] == captions[1] == captions[2]


def test_own_captions_are_read_by_the_model(checkpoint, pictures):
    described = generate(pictures[:1], checkpoint, **QUICK)
    for captions in (["two dogs"], "two dogs"):
        epochs = generate(pictures[0], checkpoint, captions=captions, **QUICK)
        assert epochs.metadata["caption"].tolist() == ["two dogs"]
        assert np.abs(epochs.get_data() - described.get_data()).max() > 1e-3


NAMES = ["猫.png", "a;b.png", "a:b.png", 'Doe, John/it\'s "x".png', "new\nline.png"]
NAMES += ["/".join(["x" * 100] * 3) + ".png", " blank .png", "$5, 50% or $10.png"]
NAMES += ["one/cat.png", "other/cat.png", os.fsdecode(b"caf\xe9.png")]


def test_any_file_name_survives_the_fif_file(checkpoint, pictures, tmp_path):
    paths = [tmp_path / "images" / name for name in NAMES]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures[0].read_bytes())
    captions = [f"caption: {number}; 猫\n$5" for number in range(len(paths))]
    epochs = generate(paths, checkpoint, captions=captions, **QUICK)
    epochs.save(tmp_path / "own-epo.fif")
    again = mne.read_epochs(tmp_path / "own-epo.fif", verbose="error")
    np.testing.assert_allclose(again.get_data(), epochs.get_data(), rtol=1e-6)
    expected = [*map(str, paths[:-1]), str(paths[-1]).replace("\udce9", "\\xe9")]
    assert again.metadata["image"].tolist() == expected
    assert again.metadata["caption"].tolist() == captions
    assert again.event_id == epochs.event_id
    assert again.info["description"] == epochs.info["description"]


def test_a_checkpoint_in_a_folder(checkpoint, pictures, tmp_path):
    checkpoint.save_pretrained(tmp_path / "checkpoint")
    epochs = generate(pictures, tmp_path / "checkpoint", **QUICK)
    expected = generate(pictures, checkpoint, **QUICK)
    np.testing.assert_allclose(epochs.get_data(), expected.get_data(), rtol=1e-6)


def test_gradiometers_have_the_positions_of_the_helmet(weights, pictures):
    recipe = recipe_of(weights, ch_names=MEG, unit="baseline SD")
    epochs = generate(pictures[:1], make_checkpoint(recipe), **QUICK)
    assert epochs.ch_names == MEG
    assert all(np.abs(channel["loc"][:3]).sum() > 0 for channel in epochs.info["chs"])
    assert "values in baseline SD" in epochs.info["description"]


def test_a_linear_method_predicts_from_tokens(weights, pictures):
    rng = np.random.default_rng(0)
    features, responses = rng.standard_normal((20, 12)), rng.standard_normal((20, 24))
    options = {"method": "ridge", "options": {"pooling": "mean"}}
    recipe = recipe_of(weights, conditioning={"image": True}, **options)
    checkpoint = make_checkpoint(recipe)
    checkpoint.model.encoder = fit_ridge(features, responses, **RIDGE)
    epochs = generate(pictures, checkpoint, samples=3, **QUICK)
    pooled = encode(weights, pictures, None).mean(axis=1)
    predicted = checkpoint.model.encoder.predict(pooled).reshape(3, 3, N_TIMES)
    np.testing.assert_allclose(epochs.get_data(), 2 * predicted + 1, atol=1e-5)
    assert epochs.metadata["caption"].tolist() == [""] * 3
    with pytest.raises(ValueError, match="trained without captions"):
        generate(pictures[:1], checkpoint, captions=["a cat"])


@pytest.fixture(scope="module")
def layers(pictures, tmp_path_factory):
    """Write the layers of a CNN as for training."""
    path = tmp_path_factory.mktemp("tokens") / "layers.npy"
    images = pd.DataFrame({"image_id": ["cat", "dog", "emu"], "path": pictures})
    cnn = load_cnn("efficientnet-lite0", device="cpu")
    write_layer_outputs(path, images, cnn=cnn, grid=4, batch_size=3)
    return Tokens(path)


def test_a_linear_method_predicts_from_the_layers_of_a_network(
    weights, pictures, layers
):
    features = LayerFeatures(layers, layers.image_ids)
    responses = np.random.default_rng(0).standard_normal((3, 24), dtype=np.float32)
    options = {"method": "layerwise_ridge", "options": {}}
    recipe = recipe_of(weights, conditioning=NETWORK, **options)
    checkpoint = make_checkpoint(recipe)
    checkpoint.model.encoder = fit_layerwise_ridge(features, responses, **RIDGE)
    epochs = generate(pictures, checkpoint, **QUICK)
    predicted = checkpoint.model.encoder.predict(features).reshape(3, 3, N_TIMES)
    np.testing.assert_allclose(epochs.get_data(), 2 * predicted + 1, atol=1e-3)


def test_a_network_attends_to_the_maps_of_another_network(weights, pictures, layers):
    maps = fit_map_tokens(layers, ["blocks.4"], layers.image_ids, n_components=12)
    conditioning = NETWORK | {"layers": ["blocks.4"]}
    recipe = recipe_of(weights, conditioning=conditioning, n_tokens=16)
    checkpoint = make_checkpoint(recipe)
    checkpoint.maps = maps
    epochs = generate(pictures, checkpoint, **QUICK)
    context = Context(maps[layers.image_ids])
    expected = checkpoint.model.posterior_mean(context, seed=0, **QUICK)
    np.testing.assert_allclose(epochs.get_data(), expected, atol=1e-2, rtol=1e-3)


def test_pictures_are_listed_from_files_and_folders(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", "._a.jpg"):
        (tmp_path / name).touch()
    assert [path.name for path in find_pictures(tmp_path)] == ["a.jpg", "b.PNG"]
    listed = find_pictures([tmp_path / "b.PNG", str(tmp_path), "c.png"])
    assert [path.name for path in listed] == ["b.PNG", "a.jpg", "b.PNG", "c.png"]
    with pytest.raises(ValueError, match="There is no image"):
        find_pictures([])


def test_an_array_is_no_image():
    for images in (np.zeros((2, 2, 3)), [np.zeros((2, 2, 3))]):
        with pytest.raises(TypeError, match="got ndarray. PIL.Image.fromarray"):
            find_pictures(images)


def test_images_that_cannot_be_read(checkpoint, pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match="bird.png is missing. Expected"):
        generate([pictures[0], tmp_path / "bird.png"], checkpoint)
    (tmp_path / "half.png").write_bytes(pictures[0].read_bytes()[:400])
    with pytest.raises(ValueError, match="half.png is damaged"):
        generate([tmp_path / "half.png"], checkpoint)


@pytest.mark.parametrize("captions", [["a cat"], ["a cat", None, "a dog"], "a cat"])
def test_captions_that_do_not_fit_the_images(checkpoint, pictures, captions):
    with pytest.raises(ValueError, match="one text for each of 3 images; got"):
        generate(pictures, checkpoint, captions=captions)


@pytest.mark.parametrize("samples", [0, -1])
def test_number_of_samples_out_of_range(checkpoint, pictures, samples):
    with pytest.raises(ValueError, match="samples"):
        generate(pictures, checkpoint, samples=samples)


@pytest.mark.parametrize("part", ["weight", "coordinates", "schedule"])
def test_nan_in_a_checkpoint(weights, pictures, part):
    checkpoint = make_checkpoint(recipe_of(weights))
    if part == "weight":
        next(checkpoint.model.network.parameters()).data[0] = torch.nan
    elif part == "coordinates":
        checkpoint.model.coordinates.gains[2] = torch.nan
    else:
        checkpoint.model.loss.alpha_bar[:] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        generate(pictures, checkpoint, captions=["a"] * 3, **QUICK)


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (
            ENTRY | {"model": "data/none/qwen2-vl"},
            FileNotFoundError,
            "There is no folder .*none/qwen2-vl",
        ),
        (
            {"kind": "file", "file": "captions.jsonl"},
            ValueError,
            "by another program.*captions=",
        ),
    ],
)
def test_captioners_that_cannot_be_asked(checkpoint, pictures, entry, error, message):
    changes = {"captioning": {"captioners": {"qwen2-vl": entry}}}
    recipe = make_recipe(**checkpoint.recipe.model_dump() | changes)
    other = Checkpoint(checkpoint.model, recipe)
    with pytest.raises(error, match=message):
        generate(pictures, other, **QUICK)
    epochs = generate(pictures[:1], other, captions=["a cat"], **QUICK)
    assert epochs.metadata["caption"].tolist() == ["a cat"]
