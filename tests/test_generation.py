"""Responses to images of one's own, with tiny models of every kind."""

import mne
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import write_clip

from paperlib.checkpoints import Checkpoint, build_model
from paperlib.generation import find_images, generate
from paperlib.minithings.encoders import build_captioner, build_processor
from paperlib.models.linear import FITS
from paperlib.recordings.regions import channel_regions
from paperlib.sampling import sample_signals
from paperlib.stimuli.embeddings import image_tokens, load_clip, text_tokens
from paperlib.stimuli.images import open_image

EEG = ["FCz", "Cz", "Oz"]
MEG = ["MLO11-1609", "MRO12-1609", "MZC01-1609"]
PROMPT = "What is in the picture?"
QUICK = {"samples": 2, "steps": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write a CLIP and a captioner of random weights to folders."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "clip").mkdir()
    write_clip(folder / "clip")
    processor = build_processor(["A red cat.", "A blue box."], PROMPT)
    with torch.random.fork_rng():
        torch.manual_seed(3)
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
    ch_names = changes.get("ch_names", EEG)
    architecture = dict(regions=channel_regions(ch_names), n_times=8, width=8, depth=1)
    architecture |= dict(context_width=12, heads=2, mlp_ratio=1.0, patch=[2, 4])
    return {
        "method": "dit",
        "architecture": architecture,
        "diffusion": dict(timesteps=20, beta_start=1e-3, beta_end=0.5, prediction="v"),
        "conditioning": {"image": True, "captioner": "qwen2-vl", "network": None},
        "tokens": {
            "embedding": {
                "model": f"local-dir:{weights / 'clip'}",
                **{"pretrained": None, "revision": None, "normalize_by_cls": False},
                **{"project_text": True, "batch_size": 2, "network": None},
            },
            "captioning": {
                **{"prompt": PROMPT, "max_new_tokens": 6, "batch_size": 2},
                "captioner": captioner | {"model": str(weights / "captioner")},
            },
        },
        **{"simulated": True, "dataset": "things-eeg2", "subject": 1},
        **{"scale": 2.0, "unit": "noise SD", "ch_names": EEG, "sfreq": 250.0},
        "times": [0.1 + 0.004 * i for i in range(8)],
        **changes,
    }


def make_network(recipe):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(recipe).eval()
        for parameter in model.parameters():  # the output of a new network is zero
            parameter.data += 0.3 * torch.randn_like(parameter)
    return Checkpoint(model, recipe)


@pytest.fixture(scope="module")
def checkpoint(weights):
    return make_network(make_recipe(weights))


def test_epochs_say_which_image_which_caption_and_which_sample(checkpoint, pictures):
    epochs = generate(pictures, checkpoint, average=False, **QUICK)
    assert isinstance(epochs, mne.EpochsArray)
    assert epochs.event_id == {"cat": 1, "dog": 2, "emu": 3}
    assert epochs.metadata["image"].tolist() == ["cat"] * 2 + ["dog"] * 2 + ["emu"] * 2
    assert epochs.metadata["sample"].tolist() == [1, 2] * 3
    assert epochs.metadata["caption"].nunique() > 1
    assert epochs["dog"].get_data().shape == (2, 3, 8)
    np.testing.assert_allclose(epochs.times, checkpoint.recipe["times"])
    assert epochs.ch_names == EEG and set(epochs.get_channel_types()) == {"eeg"}
    assert epochs.get_montage() is not None
    assert "values in noise SD, neither V nor T" in epochs.info["description"]
    assert "simulated participant 1 of things-eeg2" in epochs.info["description"]


def test_values_are_what_the_sampler_draws_for_the_tokens(
    checkpoint, weights, pictures
):
    epochs = generate(pictures, checkpoint, average=False, seed=5, **QUICK)
    clip = load_clip(f"local-dir:{weights / 'clip'}", None, device="cpu")
    captions = epochs.metadata["caption"][::2]
    tokens = torch.cat(
        [
            image_tokens(clip, map(open_image, pictures), normalize_by_cls=False),
            text_tokens(clip, captions, project=True),
        ],
        dim=1,
    )
    want = sample_signals(
        checkpoint.model,
        checkpoint.recipe,
        tokens.half().float().numpy().__getitem__,
        np.arange(3),
        **{"steps": 2, "eta": 0.0, "bound": None, "samples": 2, "seed": 5},
        batch_size=64,
    )
    np.testing.assert_allclose(
        epochs.get_data(), want.reshape(6, 3, 8), rtol=1e-5, atol=1e-5
    )


def test_the_mean_over_samples_is_one_epoch_an_image(checkpoint, pictures):
    each = generate(pictures, checkpoint, average=False, **QUICK).get_data()
    epochs = generate(pictures, checkpoint, **QUICK)
    means = each.reshape(3, 2, 3, 8).mean(axis=1)
    np.testing.assert_allclose(epochs.get_data(), means, rtol=1e-5, atol=1e-6)
    assert list(epochs.metadata) == ["image", "caption"]


def test_files_a_folder_and_open_pictures_are_the_same(checkpoint, pictures):
    wanted = generate(pictures, checkpoint, **QUICK)
    opened = [Image.open(path) for path in pictures]
    for images in (opened, pictures[0].parent, [str(path) for path in pictures]):
        epochs = generate(images, checkpoint, **QUICK)
        assert epochs.event_id == wanted.event_id
        np.testing.assert_array_equal(epochs.get_data(), wanted.get_data())


def test_pictures_without_a_file_are_numbered(checkpoint):
    made = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    assert list(generate(made, checkpoint, **QUICK).event_id) == ["image-1", "image-2"]


def test_own_captions_are_read_by_the_model(checkpoint, pictures):
    described = generate(pictures[:1], checkpoint, **QUICK)
    epochs = generate(pictures[:1], checkpoint, captions=["two dogs"], **QUICK)
    assert epochs.metadata["caption"].tolist() == ["two dogs"]
    assert np.abs(epochs.get_data() - described.get_data()).max() > 1e-3


def test_epochs_are_saved_and_read(checkpoint, pictures, tmp_path):
    checkpoint.save_pretrained(tmp_path / "checkpoint")
    epochs = generate(pictures, tmp_path / "checkpoint", **QUICK)
    epochs.save(tmp_path / "own-epo.fif")
    again = mne.read_epochs(tmp_path / "own-epo.fif", verbose="error")
    np.testing.assert_allclose(again.get_data(), epochs.get_data(), rtol=1e-6)
    assert again.metadata.equals(epochs.metadata)
    assert again.info["description"] == epochs.info["description"]


def test_gradiometers_have_the_positions_of_the_helmet(weights, pictures):
    recipe = make_recipe(weights, ch_names=MEG, unit="baseline SD")
    epochs = generate(pictures[:1], make_network(recipe), **QUICK)
    assert epochs.ch_names == MEG
    assert all(np.abs(channel["loc"][:3]).sum() > 0 for channel in epochs.info["chs"])
    assert "values in baseline SD" in epochs.info["description"]


def test_a_linear_method_gives_one_signal_an_image(weights, pictures):
    rng = np.random.default_rng(0)
    features, responses = rng.standard_normal((20, 12)), rng.standard_normal((20, 24))
    options = {"n_components": 3, "alphas": [1.0], "block": 50, "seed": 0}
    encoder = FITS["ridge"](features, responses, **options)
    recipe = make_recipe(weights, method="ridge", options={"pooling": "mean"})
    recipe["conditioning"]["captioner"] = None
    recipe["tokens"]["captioning"] = None
    epochs = generate(pictures, Checkpoint(encoder, recipe), average=False)
    clip = load_clip(f"local-dir:{weights / 'clip'}", None, device="cpu")
    tokens = image_tokens(clip, map(open_image, pictures), normalize_by_cls=False)
    want = 2 * encoder.predict(tokens.mean(dim=1).numpy()).reshape(3, 3, 8)
    np.testing.assert_allclose(epochs.get_data(), want, atol=2e-3)  # float16 tokens
    assert epochs.metadata["caption"].tolist() == [""] * 3
    with pytest.raises(ValueError, match="trained without captions"):
        generate(pictures[:1], Checkpoint(encoder, recipe), captions=["a cat"])


def test_images_are_found_in_files_and_folders(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images(tmp_path)] == ["a.jpg", "b.PNG"]
    found = find_images(f" {tmp_path / 'b.PNG'}, {tmp_path}/, {tmp_path / 'c.png'}")
    assert [path.name for path in found] == ["b.PNG", "a.jpg", "b.PNG", "c.png"]


def test_a_folder_without_pictures(checkpoint, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="holds no picture; expected .*.jpg"):
        generate(tmp_path, checkpoint)


@pytest.mark.parametrize("images", ["", []])
def test_no_image_at_all(checkpoint, images):
    with pytest.raises(ValueError, match="There is no image"):
        generate(images, checkpoint)


def test_images_that_cannot_be_read(checkpoint, pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no image .*bird.png"):
        generate([pictures[0], tmp_path / "bird.png"], checkpoint)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(pictures[0].read_bytes()[:400])
    for name in ("text.png", "half.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an image"):
            generate([tmp_path / name], checkpoint)


def test_two_images_of_one_name(checkpoint, pictures):
    with pytest.raises(ValueError, match="names of their own; two are called 'cat'"):
        generate([pictures[0], pictures[0]], checkpoint)


def test_too_few_captions(checkpoint, pictures):
    with pytest.raises(ValueError, match="one caption for each of 3 images; got 1"):
        generate(pictures, checkpoint, captions=["a cat"])


def change_captioner(checkpoint, entry):
    tokens = checkpoint.recipe["tokens"]
    captioning = tokens["captioning"] | {"captioner": entry}
    recipe = checkpoint.recipe | {"tokens": tokens | {"captioning": captioning}}
    return Checkpoint(checkpoint.model, recipe)


def test_a_captioner_that_is_not_there(checkpoint, pictures):
    entry = checkpoint.recipe["tokens"]["captioning"]["captioner"]
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


def test_a_checkpoint_that_does_not_know_its_tokens(checkpoint, pictures):
    recipe = {k: v for k, v in checkpoint.recipe.items() if k != "tokens"}
    with pytest.raises(ValueError, match="does not say tokens.*notebook 04"):
        generate(pictures, Checkpoint(checkpoint.model, recipe))
