"""Trained models as folders, on the hub (without a network), and their cards."""

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from paperlib import checkpoints
from paperlib.checkpoints import Checkpoint, Recipe
from paperlib.config import Methods, load_config
from paperlib.coordinates import fit_coordinates
from paperlib.methods import build_model
from paperlib.models.linear import fit_ridge

FILES = {"config.json", "model.safetensors", "README.md"}
OPTIONS = {"width": 8, "depth": 1, "heads": 2, "mlp_ratio": 1.0, "patch": [1, 4]}


def make_recipe(config="mini", **changes):
    """Return what notebook 04 writes, with a network as small as it can be."""
    cfg = load_config(config).of(dataset="things-eeg2", run="ours_v")
    return Recipe(
        **{
            **{"simulated": cfg.simulated, "dataset": "things-eeg2", "run": "ours_v"},
            **{"method": "dit", "options": OPTIONS, "subject": 1, "seed": 0},
            **{"conditioning": cfg.conditioning, "tokens": cfg.tokens},
            **{"diffusion": cfg.diffusion, "training": cfg.training},
            **{"n_tokens": 4, "context_width": 5, "ch_names": ["Fz", "Cz"]},
            **{"sfreq": 250.0, "times": [0.004 * i for i in range(8)]},
            "unit": "noise SD",
            **changes,
        }
    )


def make_checkpoint(**changes):
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((9, 1, 2, 8)).astype(np.float32)
    recipe = make_recipe(**changes)
    options = Methods.model_fields[recipe.method].annotation(**recipe.options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(
            recipe.method,
            options,
            ch_names=recipe.ch_names,
            n_tokens=4,
            context_width=5,
            coordinates=fit_coordinates(responses, range(9), mean=True, color=True),
            diffusion=recipe.diffusion,
        )
        if recipe.method == "dit":
            model.network.eval()
            for parameter in model.network.parameters():  # a new network answers zero
                parameter.data += 0.1 * torch.randn_like(parameter)
    return Checkpoint(model, recipe)


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
    return make_checkpoint()


def test_a_network_is_the_same_after_loading(checkpoint, tmp_path):
    checkpoint.save_pretrained(tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == FILES
    again = Checkpoint.from_pretrained(tmp_path / "one", device="cpu")
    assert not again.model.network.training
    assert again.recipe == checkpoint.recipe
    np.testing.assert_array_equal(answer(again), answer(checkpoint))


def test_the_card_is_that_of_the_folder(checkpoint, tmp_path):
    checkpoint.save_pretrained(tmp_path)
    card = str(checkpoint.generate_model_card())
    assert (tmp_path / "README.md").read_text("utf-8") == card


def test_the_card_is_that_of_the_last_training(checkpoint, tmp_path):
    checkpoint.save_pretrained(tmp_path)
    recipe = checkpoint.recipe.model_copy(update={"subject": 7})
    Checkpoint(checkpoint.model, recipe).save_pretrained(tmp_path)
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
    np.testing.assert_array_equal(answer(again), answer(checkpoint))


def test_a_name_that_is_neither_folder_nor_on_the_hub():
    with pytest.raises(FileNotFoundError, match="'no/such/folder' is neither a folder"):
        Checkpoint.from_pretrained("no/such/folder")


def test_a_linear_encoder_is_pushed_and_loaded_as_well(hub):
    rng = np.random.default_rng(0)
    features, responses = rng.standard_normal((20, 6)), rng.standard_normal((20, 16))
    checkpoint = make_checkpoint(method="ridge", options={"pooling": "mean"})
    fixed = {"n_components": 3, "alphas": [1.0], "block": 10, "seed": 0}
    checkpoint.model.encoder = fit_ridge(features, responses, **fixed)
    checkpoint.push_to_hub("someone/ridge")
    again = Checkpoint.from_pretrained("someone/ridge")
    np.testing.assert_array_equal(
        *(c.model.encoder.predict(features) for c in (again, checkpoint))
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(checkpoint, tmp_path, name):
    checkpoint.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {name}"):
        Checkpoint.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"method": "dit"', "config.json is not the recipe of a model"),
        ('{"run": "ours"}', "is not the recipe of a model"),
        ("[1, 2]", "is not the recipe of a model"),
        (b"\xff", "is not the recipe of a model"),
        ({"tokens": {}}, "tokens lack captioner"),
        ({"tokens": {"embedding": {}, "captioning": {}}}, "is not the recipe"),
    ],
)
def test_a_damaged_recipe(checkpoint, tmp_path, content, message):
    checkpoint.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        Checkpoint.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sfreq", -1.0), ("times", [0, 1]), ("times", []), ("subject", -1), ("seed", -1)],
)
def test_a_recipe_that_cannot_be(key, value):
    with pytest.raises(ValidationError, match=key):
        make_recipe(**{key: value})


@pytest.mark.parametrize("key", ["methd", "widht"])
def test_unknown_keys_of_a_recipe(checkpoint, tmp_path, key):
    checkpoint.save_pretrained(tmp_path)
    recipe = json.loads((tmp_path / "config.json").read_text())
    (recipe if key == "methd" else recipe["options"])[key] = 8
    (tmp_path / "config.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="Did you mean '(method|width)'"):
        Checkpoint.from_pretrained(tmp_path)


def test_truncated_weights(checkpoint, tmp_path):
    checkpoint.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        Checkpoint.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("coordinates.mean", lambda mean: mean[:, 1:], "not of 2 x 8"),
        ("coordinates.mean", lambda mean: mean * torch.nan, "must hold finite"),
        ("model.final.weight", torch.Tensor.int, "must hold finite.* torch.int32"),
        ("more.weight", lambda _: torch.zeros(3), "are not those of the dit"),
    ],
)
def test_changed_weights(checkpoint, tmp_path, key, change, message):
    checkpoint.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    tensors[key] = change(tensors.get(key, torch.zeros(2))).contiguous()
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=message):
        Checkpoint.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"width": 16}, {"depth": 2}])
def test_weights_of_another_network(checkpoint, tmp_path, change):
    checkpoint.save_pretrained(tmp_path)
    recipe = json.loads((tmp_path / "config.json").read_text())
    recipe["options"] |= change
    (tmp_path / "config.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="(?s)are not those of the dit .*(size|key)"):
        Checkpoint.from_pretrained(tmp_path)


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
    text = card_of(make_recipe(method="pls", conditioning=condition)).text
    assert "layers of `alexnet`" in text
    assert "optimizer" not in text and "CLIP `" not in text and "Captions" not in text
