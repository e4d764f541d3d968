"""Trained models as folders, on the hub (without a network), and their cards."""

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file
from tiny_checkpoint import DIT, make_checkpoint, make_recipe

from paperlib import checkpoints
from paperlib.checkpoints import Checkpoint
from paperlib.coordinates import fit_coordinates

FILES = {"config.json", "model.safetensors", "README.md"}


def answer(checkpoint):
    rng = np.random.default_rng(0)
    y, context = (
        torch.from_numpy(rng.standard_normal(shape)).float()
        for shape in ((3, 2, 8), (3, 4, 5))
    )
    with torch.inference_mode():
        x = checkpoint.model.network(y, torch.tensor([1, 20, 900]), context)
    return checkpoint.model.coordinates.back(x).numpy()


@pytest.fixture
def checkpoint():
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((9, 1, 2, 8)).astype(np.float32)
    fitted = fit_coordinates(responses, range(9), mean=True, color=True)
    return make_checkpoint(make_recipe(), fitted)


@pytest.fixture
def saved(checkpoint, tmp_path):
    """Return the folder of a checkpoint, which a test may damage."""
    checkpoint.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def change_recipe(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_is_the_same_after_loading(checkpoint, saved):
    assert {path.name for path in saved.iterdir()} == FILES
    again = Checkpoint.from_pretrained(saved, device="cpu")
    assert not again.model.network.training
    assert again.recipe == checkpoint.recipe
    np.testing.assert_array_equal(answer(again), answer(checkpoint))


def test_the_card_is_that_of_the_last_training(checkpoint, saved):
    recipe = checkpoint.recipe.model_copy(update={"subject": 7})
    later = Checkpoint(checkpoint.model, recipe)
    later.save_pretrained(saved)
    card = (saved / "README.md").read_text("utf-8")
    assert card == str(later.generate_model_card())
    assert "# Responses to images: things-eeg2, participant 7\n" in card


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
    np.testing.assert_array_equal(answer(again), answer(checkpoint))


def test_a_name_that_is_neither_folder_nor_on_the_hub():
    with pytest.raises(FileNotFoundError, match="'no/such/folder' is neither a folder"):
        Checkpoint.from_pretrained("no/such/folder")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing. Run notebook 04"):
        Checkpoint.from_pretrained(saved)


@pytest.mark.parametrize(
    "content", [b'{"method": "dit"', b'{"run": "a"}', b"[1]", b"\xff"]
)
def test_a_damaged_recipe(saved, content):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(
        ValueError, match="config.json is damaged.*the recipe of a model"
    ):
        Checkpoint.from_pretrained(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sfreq": -1.0}, "sfreq"),
        ({"times": [0, 1]}, "times must ascend"),
        ({"times": []}, "times"),
        ({"subject": -1}, "subject"),
        ({"seed": -1}, "seed"),
        ({"captioning": {}}, "conditioning.captioner must be one of None; got 'qwen"),
        ({"conditioning": {"network": "vgg"}}, "conditioning.network must be one of"),
        ({"embedding": {"networks": {"alexnet": {"grid": 0}}}}, "alexnet.*greater"),
        ({"methd": 8}, "Did you mean 'method'"),
        ({"diffusion": {"timesteps": 1000}}, "some of its values are missing"),
        ({"options": {"widht": 8}}, "Did you mean 'width'"),
        ({"options": DIT | {"width": 16}}, "are not those of the dit .*size"),
        ({"options": DIT | {"depth": 2}}, "are not those of the dit .*key"),
    ],
)
def test_a_recipe_that_cannot_be(saved, changes, message):
    change_recipe(saved, **changes)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        Checkpoint.from_pretrained(saved)


def test_truncated_weights(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        Checkpoint.from_pretrained(saved)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("coordinates.mean", lambda mean: mean[:, 1:], "not of 2 x 8"),
        ("coordinates.mean", lambda mean: mean * torch.nan, "must hold finite"),
        ("coordinates.axes", lambda axes: axes[None], "not of 2 x 8"),
        ("coordinates.factors", lambda factors: factors[0], "not of 2 x 8"),
        ("model.final.weight", torch.Tensor.int, "int32 must hold finite"),
        ("more.weight", lambda _: torch.zeros(3), "are not those of the dit"),
    ],
)
def test_changed_weights(saved, key, change, message):
    tensors = load_file(saved / "model.safetensors")
    tensors[key] = change(tensors.get(key, torch.zeros(2))).contiguous()
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        Checkpoint.from_pretrained(saved)


def card_of(recipe):
    card = Checkpoint(None, recipe).generate_model_card()
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
    budget = recipe.training
    assert f"{budget.steps} optimizer steps of" in card.text
    assert f"{budget.batch_size} examples" in card.text
    for name in ("ViT-L-14-quickgelu", "Qwen/Qwen2-VL-2B-Instruct", "things-eeg2"):
        assert name in card.text
    assert "2509.00787" in card.text and "generate(" in card.text


def test_the_card_of_a_linear_encoder_has_no_optimizer():
    condition = {"image": False, "captioner": None, "network": "alexnet"}
    recipe = make_recipe("paper", method="pls", conditioning=condition)
    text = card_of(recipe).text
    assert "layers of `alexnet`" in text
    assert "optimizer" not in text and "CLIP `" not in text and "Captions" not in text
