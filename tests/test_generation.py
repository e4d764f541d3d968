"""Responses to a user's own images, with tiny models of every kind."""

import os

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from tiny_clip import write_clip

from minithings.captioner import build_captioner, build_processor
from paperlib.checkpoints import Checkpoint, Recipe
from paperlib.config import Machine, Methods, Sampling
from paperlib.coordinates import Coordinates
from paperlib.generation import find_pictures, generate
from paperlib.methods import build_model
from paperlib.models.linear import fit_layerwise_ridge, fit_ridge
from paperlib.stimuli.clip import image_tokens, load_clip, text_tokens
from paperlib.stimuli.cnn import load_cnn, write_layer_outputs
from paperlib.stimuli.features import LayerFeatures
from paperlib.stimuli.images import open_image
from paperlib.stimuli.map_tokens import fit_map_tokens
from paperlib.stimuli.tokens import Tokens

EEG = ["FCz", "Cz", "Oz"]
MEG = ["MLO11-1609", "MRO12-1609", "MZC01-1609"]
PROMPT = "What is in the picture?"
N_TIMES = 8
QUICK = {
    "sampling": Sampling(steps=2, precision="no"),
    "machine": Machine(device="cpu"),
}
DIT = {"width": 8, "depth": 1, "heads": 2, "mlp_ratio": 1.0, "patch": [2, 4]}
RIDGE = {"n_components": 3, "alphas": [1.0], "block": 50, "seed": 0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write a CLIP and a captioner of random weights to folders."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "clip").mkdir()
    write_clip(folder / "clip")
    processor = build_processor(["A red cat.", "A blue box."], PROMPT)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_captioner(processor)
        for parameter in model.parameters():
            parameter.data *= 3  # so that captions differ from image to image
    model.save_pretrained(folder / "captioner")
    processor.save_pretrained(folder / "captioner")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "emu"):
        pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in ("cat", "dog", "emu")]


def make_recipe(weights, **changes):
    """Return the recipe of a network that sees images and captions."""
    captioner = {"kind": "qwen2-vl", "revision": None, "pixels": 1024}
    embedding = {"model": f"local-dir:{weights / 'clip'}", "pretrained": None}
    embedding |= {"revision": None, "normalize_by_cls": False, "project_text": True}
    recipe = {
        **{"simulated": True, "dataset": "things-eeg2", "subject": 1, "run": "ours"},
        **{"seed": 0, "method": "dit", "options": DIT, "training": {}},
        "conditioning": {"image": True, "captioner": "qwen2-vl"},
        "tokens": {
            "embedding": embedding | {"network": None},
            "captioning": {
                **{"prompt": PROMPT, "max_new_tokens": 6},
                "captioner": captioner | {"model": str(weights / "captioner")},
            },
        },
        **{"n_tokens": 82, "context_width": 12},
        "diffusion": {"timesteps": 20, "beta_start": 1e-3, "beta_end": 0.5},
        **{"ch_names": EEG, "sfreq": 250.0, "unit": "noise SD"},
        "times": [0.1 + 0.004 * i for i in range(N_TIMES)],
    }
    return Recipe.model_validate(recipe | changes)


def make_checkpoint(recipe):
    """Return a model whose weights, where it has any, are random."""
    size = (len(recipe.ch_names), N_TIMES)
    coordinates = Coordinates(
        mean=torch.ones(size),
        axes=torch.eye(N_TIMES),
        gains=torch.full((N_TIMES,), 0.5),
        deviations=torch.ones(N_TIMES),
        factors=torch.empty(0, size[0], size[0]),
    )
    options = Methods.model_fields[recipe.method].annotation
    model = build_model(
        recipe.method,
        options.model_validate(recipe.options),
        ch_names=recipe.ch_names,
        n_tokens=recipe.n_tokens,
        context_width=recipe.context_width,
        coordinates=coordinates,
        diffusion=recipe.diffusion,
    )
    if recipe.method == "dit":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for parameter in model.network.eval().parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
    return Checkpoint(model, recipe)


@pytest.fixture(scope="module")
def checkpoint(weights):
    return make_checkpoint(make_recipe(weights))


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


def test_samples_can_be_averaged(checkpoint, pictures):
    each = generate(pictures, checkpoint, samples=4, **QUICK).get_data()
    epochs = generate(pictures, checkpoint, samples=4, average=True, **QUICK)
    means = each.reshape(3, 4, 3, N_TIMES).mean(axis=1)
    np.testing.assert_allclose(epochs.get_data(), means, rtol=1e-5, atol=1e-6)
    assert list(epochs.metadata) == ["image", "caption"]


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


def test_a_comma_in_a_path_separates_nothing(checkpoint, pictures, tmp_path):
    path = tmp_path / "Doe, John" / "cat.png"
    path.parent.mkdir()
    path.write_bytes(pictures[0].read_bytes())
    for images in (path, str(path)):
        epochs = generate(images, checkpoint, **QUICK)
        assert epochs.metadata["image"].tolist() == [str(path)]


def test_a_checkpoint_in_a_folder(checkpoint, pictures, tmp_path):
    checkpoint.save_pretrained(tmp_path / "checkpoint")
    epochs = generate(pictures, tmp_path / "checkpoint", **QUICK)
    expected = generate(pictures, checkpoint, **QUICK)
    np.testing.assert_allclose(epochs.get_data(), expected.get_data(), rtol=1e-6)


def test_gradiometers_have_the_positions_of_the_helmet(weights, pictures):
    recipe = make_recipe(weights, ch_names=MEG, unit="baseline SD")
    epochs = generate(pictures[:1], make_checkpoint(recipe), **QUICK)
    assert epochs.ch_names == MEG
    assert all(np.abs(channel["loc"][:3]).sum() > 0 for channel in epochs.info["chs"])
    assert "values in baseline SD" in epochs.info["description"]


def without_captions(weights, **changes):
    conditioning = {"image": True} | changes.pop("conditioning", {})
    tokens = make_recipe(weights).tokens | {"captioning": None}
    tokens["embedding"] = tokens["embedding"] | changes.pop("embedding", {})
    return make_recipe(weights, conditioning=conditioning, tokens=tokens, **changes)


def test_a_linear_method_predicts_from_tokens(weights, pictures):
    rng = np.random.default_rng(0)
    features, responses = rng.standard_normal((20, 12)), rng.standard_normal((20, 24))
    options = {"pooling": "mean", "n_components": 3, "alphas": [1.0]}
    recipe = without_captions(weights, method="ridge", options=options)
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


NETWORK = {"image": False, "network": "efficientnet-lite0"}


def test_a_linear_method_predicts_from_the_layers_of_a_network(
    weights, pictures, layers
):
    features = LayerFeatures(layers, layers.image_ids)
    responses = np.random.default_rng(0).standard_normal((3, 24), dtype=np.float32)
    recipe = without_captions(
        weights,
        method="layerwise_ridge",
        options={"n_components": 3, "alphas": [1.0]},
        conditioning=NETWORK,
        embedding={"network": {"grid": 4}},
    )
    checkpoint = make_checkpoint(recipe)
    checkpoint.model.encoder = fit_layerwise_ridge(features, responses, **RIDGE)
    epochs = generate(pictures, checkpoint, **QUICK)
    predicted = checkpoint.model.encoder.predict(features).reshape(3, 3, N_TIMES)
    np.testing.assert_allclose(epochs.get_data(), 2 * predicted + 1, atol=1e-3)


def test_a_network_attends_to_the_maps_of_another_network(weights, pictures, layers):
    maps = fit_map_tokens(layers, ["blocks.4"], layers.image_ids, n_components=12)
    recipe = without_captions(
        weights,
        conditioning=NETWORK | {"layers": ["blocks.4"]},
        embedding={"network": {"grid": 4}},
        n_tokens=16,
    )
    checkpoint = make_checkpoint(recipe)
    checkpoint.maps = maps
    epochs = generate(pictures, checkpoint, **QUICK)
    expected = checkpoint.model.posterior_mean(
        Context(maps[layers.image_ids]),
        sampling=QUICK["sampling"],
        seed=0,
        machine=QUICK["machine"],
    )
    np.testing.assert_allclose(epochs.get_data(), expected, atol=1e-2, rtol=1e-3)


def test_pictures_are_listed_from_files_and_folders(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_pictures(tmp_path)] == ["a.jpg", "b.PNG"]
    listed = find_pictures([tmp_path / "b.PNG", str(tmp_path), "c.png"])
    assert [path.name for path in listed] == ["b.PNG", "a.jpg", "b.PNG", "c.png"]


def test_a_folder_without_pictures_or_with_unreadable_ones(checkpoint, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="no picture .*.jpg"):
        generate(tmp_path, checkpoint)
    (tmp_path / "phone.HEIC").touch()
    with pytest.raises(ValueError, match="phone.HEIC.*Convert"):
        generate(tmp_path, checkpoint)


def test_no_image_at_all(checkpoint):
    with pytest.raises(ValueError, match="There is no image"):
        generate([], checkpoint)


def test_images_that_cannot_be_read(checkpoint, pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no image .*bird.png"):
        generate([pictures[0], tmp_path / "bird.png"], checkpoint)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(pictures[0].read_bytes()[:400])
    for name in ("text.png", "half.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an image"):
            generate([tmp_path / name], checkpoint)


@pytest.mark.parametrize("captions", [["a cat"], ["a cat", None, "a dog"], "a cat"])
def test_captions_that_do_not_fit_the_images(checkpoint, pictures, captions):
    with pytest.raises(ValueError, match="one text for each of 3 images; got"):
        generate(pictures, checkpoint, captions=captions)


def test_unknown_precision():
    with pytest.raises(ValidationError, match="precision"):
        Sampling(precision="fp8")


@pytest.mark.parametrize("samples", [0, -1])
def test_number_of_samples_out_of_range(checkpoint, pictures, samples):
    with pytest.raises(ValueError, match="samples"):
        generate(pictures, checkpoint, samples=samples)


@pytest.mark.parametrize("part", ["weight", "coordinates", "schedule"])
def test_nan_in_a_checkpoint(weights, pictures, part):
    checkpoint = make_checkpoint(make_recipe(weights))
    if part == "weight":
        next(checkpoint.model.network.parameters()).data[0] = torch.nan
    elif part == "coordinates":
        checkpoint.model.coordinates.gains[2] = torch.nan
    else:
        checkpoint.model.loss.alpha_bar[:] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        generate(pictures, checkpoint, captions=["a"] * 3, **QUICK)


def test_nan_in_a_recipe(weights):
    with pytest.raises(ValidationError, match="finite"):
        make_recipe(weights, diffusion={"beta_end": float("nan")})


def change_captioner(checkpoint, entry):
    tokens = checkpoint.recipe.tokens
    captioning = tokens["captioning"] | {"captioner": entry}
    changes = {"tokens": tokens | {"captioning": captioning}}
    return Checkpoint(checkpoint.model, checkpoint.recipe.model_copy(update=changes))


def test_a_captioner_that_is_missing(checkpoint, pictures):
    entry = checkpoint.recipe.tokens["captioning"]["captioner"]
    missing = change_captioner(checkpoint, entry | {"model": "data/none/qwen2-vl"})
    with pytest.raises(FileNotFoundError, match="There is no folder .*none/qwen2-vl"):
        generate(pictures, missing, **QUICK)


def test_captions_that_another_program_made(checkpoint, pictures):
    entry = {"kind": "file", "file": "captions.jsonl"}
    imported = change_captioner(checkpoint, entry)
    with pytest.raises(ValueError, match="by another program.*captions="):
        generate(pictures, imported, **QUICK)
    epochs = generate(pictures[:1], imported, captions=["a cat"], **QUICK)
    assert epochs.metadata["caption"].tolist() == ["a cat"]
