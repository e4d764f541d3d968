"""Trained models as folders, on the hub (without a network), and their cards."""

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from paperlib import checkpoints
from paperlib.checkpoints import (
    Checkpoint,
    build_model,
    load_checkpoint,
    save_checkpoint,
)
from paperlib.config import load_settings
from paperlib.models.linear import FITS

FILES = {"config.json", "model.safetensors", "README.md"}


def make_recipe(config="mini", **changes):
    """Return what notebook 04 writes, with a network as small as it can be."""
    keys = {"dataset": "things-eeg2", "run": "ours_plus"}
    settings = load_settings("04_train", config, **keys)
    sections = ("simulated", "conditioning", "tokens", "training", "diffusion")
    architecture = dict(
        regions=["Frontal", "Central"], n_times=8, context_width=5, width=8, depth=1
    )
    architecture |= dict(heads=2, mlp_ratio=1.0, patch=[1, 4])
    return {
        "method": "dit",
        "architecture": architecture,
        **{key: settings[key] for key in sections},
        **{"scale": 2.0, "unit": "noise SD", "ch_names": ["Fz", "Cz"]},
        **{"sfreq": 250.0, "times": [0.004 * i for i in range(8)]},
        **keys,
        **{"subject": 1, "seed": 0},
        **changes,
    }


def make_model(recipe):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(recipe).eval()
        for parameter in model.parameters():  # the output of a new network is zero
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def answer(model):
    rng = np.random.default_rng(0)
    y, context = (
        torch.from_numpy(rng.standard_normal(shape)).float()
        for shape in ((3, 2, 8), (3, 4, 5))
    )
    with torch.inference_mode():
        return model(y, torch.tensor([1, 20, 900]), context).numpy()


@pytest.fixture
def checkpoint():
    recipe = make_recipe()
    return Checkpoint(make_model(recipe), recipe)


def test_a_network_is_the_same_after_loading(checkpoint, tmp_path):
    checkpoint.save_pretrained(tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == FILES
    again = Checkpoint.from_pretrained(tmp_path / "one", device="cpu")
    assert not again.model.training
    assert again.recipe == checkpoint.recipe
    np.testing.assert_array_equal(answer(again.model), answer(checkpoint.model))


def test_both_ways_of_saving_write_the_same_files(checkpoint, tmp_path):
    checkpoint.save_pretrained(tmp_path / "one")
    save_checkpoint(tmp_path / "two", checkpoint.model, checkpoint.recipe)
    for name in FILES:
        one, two = (tmp_path / folder / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_the_card_is_that_of_the_folder(checkpoint, tmp_path):
    checkpoint.save_pretrained(tmp_path)
    card = str(checkpoint.generate_model_card())
    assert (tmp_path / "README.md").read_text("utf-8") == card


def test_the_card_is_that_of_the_last_training(checkpoint, tmp_path):
    checkpoint.save_pretrained(tmp_path)
    checkpoint.recipe["subject"] = 7
    checkpoint.save_pretrained(tmp_path)
    assert "# Responses to images: things-eeg2, participant 7\n" in (
        tmp_path / "README.md"
    ).read_text("utf-8")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Replace the hub by a folder."""
    asked = []

    def create_repo(self, repo_id, **options):
        (tmp_path / "hub" / repo_id).mkdir(parents=True, exist_ok=True)
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)

    def snapshot_download(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision, set(allow_patterns)))
        return str(tmp_path / "hub" / repo_id)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(checkpoints, "snapshot_download", snapshot_download)
    return tmp_path / "hub", asked


def test_what_is_pushed_to_the_hub_is_what_is_loaded_from_it(checkpoint, hub):
    folder, asked = hub
    checkpoint.push_to_hub("someone/image-to-eeg")
    assert {path.name for path in (folder / "someone/image-to-eeg").iterdir()} == FILES
    again = Checkpoint.from_pretrained("someone/image-to-eeg", revision="v1")
    assert asked == [("someone/image-to-eeg", "v1", FILES)]
    assert again.recipe == checkpoint.recipe
    np.testing.assert_array_equal(answer(again.model), answer(checkpoint.model))


def test_a_name_that_is_neither_folder_nor_on_the_hub():
    with pytest.raises(FileNotFoundError, match="'no/such/folder' is neither a folder"):
        Checkpoint.from_pretrained("no/such/folder")


def test_a_linear_encoder_is_pushed_and_loaded_as_well(hub):
    rng = np.random.default_rng(0)
    features, responses = rng.standard_normal((20, 6)), rng.standard_normal((20, 16))
    options = {"n_components": 3, "alphas": [1.0], "block": 10, "seed": 0}
    encoder = FITS["ridge"](features, responses, **options)
    recipe = make_recipe(method="ridge", options={"pooling": "mean"}, architecture={})
    Checkpoint(encoder, recipe).push_to_hub("someone/ridge")
    again = Checkpoint.from_pretrained("someone/ridge")
    np.testing.assert_array_equal(
        again.model.predict(features), encoder.predict(features)
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(checkpoint, tmp_path, name):
    checkpoint.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {name}"):
        Checkpoint.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"method": "dit"', "config.json is not the recipe of a model"),
        ('{"scale": 1.0}', "is not the recipe of a model"),
        ("[1, 2]", "is not the recipe of a model"),
        ('{"method": "dti"}', "Did you mean 'dit'"),
    ],
)
def test_a_damaged_recipe(checkpoint, tmp_path, text, message):
    checkpoint.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)


def test_truncated_weights(checkpoint, tmp_path):
    checkpoint.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("change", [{"width": 16}, {"depth": 2}, {"widht": 8}])
def test_weights_of_another_network(checkpoint, tmp_path, change):
    checkpoint.save_pretrained(tmp_path)
    recipe = json.loads((tmp_path / "config.json").read_text())
    recipe["architecture"] |= change
    (tmp_path / "config.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="are not those of the dit .*widht|size|key"):
        load_checkpoint(tmp_path)


def card_of(recipe):
    card = checkpoints.model_card(recipe)
    assert ModelCard(str(card)).data.license == "mit"  # its header is valid YAML
    return card


def test_the_card_of_a_simulated_participant_warns():
    card = card_of(make_recipe())
    assert "**Simulated.**" in card.text
    assert "must never be used for a patient" in card.text
    assert "participant 1 (simulated)" in card.text
    assert "simulated" in card.data.tags


def test_the_card_of_a_recorded_participant_says_what_it_was_trained_on():
    recipe = make_recipe("paper")
    card = card_of(recipe)
    assert "imulated" not in card.text
    assert "For research only" in card.text
    budget = recipe["training"]
    assert f"{budget['steps']} optimizer steps of" in card.text
    assert f"{budget['batch_size']} examples" in card.text
    for name in ("ViT-L-14-quickgelu", "Qwen/Qwen2-VL-2B-Instruct", "things-eeg2"):
        assert name in card.text
    assert "2509.00787" in card.text and "generate(" in card.text


def test_the_card_of_a_linear_encoder_has_no_optimizer():
    recipe = make_recipe(method="pls")
    recipe["conditioning"] = {"image": False, "captioner": None, "network": "alexnet"}
    text = card_of(recipe).text
    assert "layers of `alexnet`" in text
    assert "optimizer" not in text and "CLIP `" not in text and "Captions" not in text
