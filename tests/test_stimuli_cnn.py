import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.models import AlexNet_Weights, alexnet

from paperlib.stimuli import cnn
from paperlib.stimuli.cnn import (
    LAYERS,
    Cnn,
    layer_outputs,
    load_cnn,
    write_layer_outputs,
)
from paperlib.stimuli.features import LayerFeatures
from paperlib.stimuli.tokens import Tokens

# ImageNet classes that name what scikit-learn's two photographs show
PALACE, MONASTERY, DAISY = 698, 663, 985


@pytest.fixture(scope="module")
def lite0():
    return load_cnn("efficientnet-lite0", device="cpu")


@pytest.fixture(scope="module")
def random_alexnet():
    torch.manual_seed(0)
    transform = AlexNet_Weights.IMAGENET1K_V1.transforms()
    return Cnn("alexnet", alexnet(weights=None).eval(), transform)


@pytest.fixture(scope="module")
def photographs():
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture
def images(tmp_path, photographs):
    rows = []
    for i, size in enumerate([64, 80, 96, 112, 128]):
        path = tmp_path / f"image_{i}.png"
        photographs[i % 2].resize((size, size)).save(path)
        rows.append({"image_id": path.stem, "path": path})
    return pd.DataFrame(rows)


def test_lite0_names_what_photographs_show(lite0, photographs):
    pixels = torch.stack([lite0.preprocess(image) for image in photographs])
    with torch.inference_mode():
        probabilities = lite0.model(pixels).softmax(dim=1)
    china, flower = probabilities.topk(5).indices.tolist()
    assert china[0] == PALACE
    assert MONASTERY in china
    assert flower[0] == DAISY


def test_lite0_prepares_pictures_as_for_its_training(lite0):
    gray = Image.new("RGB", (300, 400), (255, 0, 128))
    pixels = lite0.preprocess(gray)
    assert pixels.shape == (3, 224, 224)
    expected = (np.array([255, 0, 128]) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(pixels.mean(dim=(1, 2)), expected, atol=1e-5)


def test_weights_in_another_order_do_not_fit(lite0):
    state = lite0.model.state_dict()
    backwards = dict(reversed(state.items()))
    with pytest.raises(ValueError, match="296 tensors .* have other shapes"):
        cnn._rename(backwards, like=state)
    with pytest.raises(ValueError, match="must be 296 tensors .* got 295 tensors"):
        cnn._rename(dict(list(state.items())[:-1]), like=state)


def test_lite0_without_its_package(monkeypatch):
    monkeypatch.setattr(cnn, "_LITE0_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="Install requirements.txt"):
        load_cnn("efficientnet-lite0", device="cpu")


def test_alexnet_without_weights_or_network(monkeypatch, tmp_path):
    def refuse(url, path, hash_prefix, *, progress):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    match = r"not in .*checkpoints and cannot be downloaded \(no network\).*alexnet-owt"
    with pytest.raises(FileNotFoundError, match=match):
        load_cnn("alexnet", device="cpu")


def test_alexnet_weights_are_loaded(monkeypatch, tmp_path, random_alexnet):
    """From where torchvision keeps what it has downloaded."""
    path = tmp_path / "checkpoints/alexnet-owt-7be5be79.pth"
    path.parent.mkdir()
    torch.save(random_alexnet.model.state_dict(), path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    loaded = load_cnn("alexnet", device="cpu")
    assert not loaded.model.training
    for name, tensor in random_alexnet.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_unknown_network():
    with pytest.raises(ValueError, match="network must be one of.*mean 'alexnet'"):
        load_cnn("alex-net", device="cpu")


def test_layers_of_lite0(lite0, photographs):
    outputs = layer_outputs(lite0, photographs, grid=4)
    channels = [32, 16, 24, 40, 80, 112, 192, 320]
    assert [output.shape[1] for output in outputs.values()] == [
        *(16 * n for n in channels),
        1280,
    ]
    with torch.inference_mode():
        pixels = torch.stack([lite0.preprocess(image) for image in photographs])
        logits = lite0.model.classifier(outputs["global_pool"])
        torch.testing.assert_close(logits, lite0.model(pixels))


def test_layers_of_alexnet(random_alexnet, photographs):
    """All 205 672 features that the publication of THINGS-EEG2 extracts."""
    outputs = layer_outputs(random_alexnet, photographs, grid=27)
    assert list(outputs) == list(LAYERS["alexnet"])
    widths = [output.shape[1] for output in outputs.values()]
    assert widths == [46656, 32448, 64896, 43264, 9216, 4096, 4096, 1000]
    assert sum(widths) == 205_672
    pooled = layer_outputs(random_alexnet, photographs, grid=6)
    assert sum(output.shape[1] for output in pooled.values()) == 50_664
    model, maps = random_alexnet.model, pooled["features.12"].unflatten(1, (256, 6, 6))
    with torch.inference_mode():
        expected = F.relu(model.classifier[1](maps.flatten(1)))
    torch.testing.assert_close(pooled["classifier.2"], expected)


def test_maps_are_averaged_to_the_grid(random_alexnet, photographs):
    fine = layer_outputs(random_alexnet, photographs, grid=6)["features.12"]
    coarse = layer_outputs(random_alexnet, photographs, grid=2)["features.12"]
    blocks = fine.reshape(2, 256, 2, 3, 2, 3).mean(dim=(3, 5))
    torch.testing.assert_close(coarse, blocks.flatten(1))


def test_network_is_left_without_hooks(random_alexnet, photographs):
    layer_outputs(random_alexnet, photographs, grid=1)
    assert not any(m._forward_hooks for m in random_alexnet.model.modules())


def test_layers_come_back_from_disk(tmp_path, lite0, images):
    path = tmp_path / "features.npy"
    write_layer_outputs(path, images, cnn=lite0, grid=2, batch_size=2)
    ids = ["image_3", "image_0"]
    read = LayerFeatures(Tokens(path), ids)
    pictures = [Image.open(tmp_path / f"{name}.png") for name in ids]
    expected = layer_outputs(lite0, pictures, grid=2)
    assert list(read) == list(LAYERS["efficientnet-lite0"])
    assert len(read) == 9
    for layer in read:
        assert read[layer].dtype == np.float32
        np.testing.assert_allclose(read[layer], expected[layer], rtol=1e-3, atol=1e-3)
    settings = json.loads(path.with_suffix(".json").read_text())["settings"]
    assert settings["network"] == "efficientnet-lite0"
    assert settings["grid"] == 2


def test_layer_that_was_not_written(tmp_path, lite0, images):
    path = tmp_path / "features.npy"
    write_layer_outputs(path, images, cnn=lite0, grid=1, batch_size=5)
    read = LayerFeatures(Tokens(path), ["image_0"])
    assert "blocks.9" not in read
    with pytest.raises(KeyError, match="no layer 'blocks.9'; it has bn1, blocks.0"):
        read["blocks.9"]
