import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.models import alexnet

from paperlib.stimuli import cnn
from paperlib.stimuli.cnn import LAYERS, layer_outputs, load_cnn, write_layer_outputs
from paperlib.stimuli.features import LayerFeatures, layer_maps
from paperlib.stimuli.tokens import Tokens

# ImageNet classes that name what scikit-learn's two photographs show
PALACE, MONASTERY, DAISY = 698, 663, 985
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def lite0():
    return load_cnn("efficientnet-lite0", device="cpu")


@pytest.fixture(scope="module")
def classifier():
    return cnn._load_lite0()[0].eval()


@pytest.fixture(scope="module")
def random_alexnet():
    torch.manual_seed(0)
    return alexnet(weights=None).eval()


@pytest.fixture(scope="module")
def small_alexnet(random_alexnet, tmp_path_factory):
    """Load AlexNet from where torchvision keeps what it has downloaded."""
    folder = tmp_path_factory.mktemp("hub")
    save_alexnet(folder, random_alexnet.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "get_dir", lambda: str(folder))
        return load_cnn("alexnet", device="cpu")


def save_alexnet(folder, weights):
    path = folder / "checkpoints/alexnet-owt-7be5be79.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def photographs():
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture(scope="module")
def pixels(lite0, photographs):
    return torch.stack([lite0.preprocess(image) for image in photographs])


@torch.inference_mode()
def test_lite0_names_what_photographs_show(lite0, classifier, pixels):
    china, flower = classifier(pixels).topk(5).indices.tolist()
    assert (china[0], flower[0]) == (PALACE, DAISY)
    assert MONASTERY in china
    plain = lite0.preprocess(Image.new("RGB", (300, 400), (255, 0, 128)))
    assert plain.shape == (3, 224, 224)  # prepared as for its training
    expected = (np.array([255, 0, 128]) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(plain.mean(dim=(1, 2)), expected, atol=1e-5)


@pytest.mark.parametrize("change", [reversed, lambda tensors: list(tensors)[:-1]])
def test_weights_in_another_order_do_not_fit(classifier, monkeypatch, change):
    tensors = dict(change(classifier.state_dict().items()))
    monkeypatch.setattr(torch, "load", lambda path, weights_only: tensors)
    with pytest.raises(ValueError, match="efficientnet-lite0.* is damaged"):
        load_cnn("efficientnet-lite0", device="cpu")


def test_unknown_network_and_alexnet_without_weights(monkeypatch, tmp_path):
    def refuse(url, path, hash_prefix, *, progress):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    match = r"not at .*checkpoints/alex.*downloaded \(no network\).*alexnet-owt"
    with pytest.raises(FileNotFoundError, match=match):
        load_cnn("alexnet", device="cpu")
    with pytest.raises(ValueError, match="network must be one of.*mean 'alexnet'"):
        load_cnn("alex-net", device="cpu")


def test_damaged_alexnet(monkeypatch, tmp_path, random_alexnet):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = random_alexnet.state_dict()
    infinite = weights["features.0.weight"] / 0
    path = save_alexnet(tmp_path, weights | {"features.0.weight": infinite})
    with pytest.raises(ValueError, match="alexnet: the weights features.0.weight are"):
        load_cnn("alexnet", device="cpu")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=f"{path} is damaged.*Download it again"):
        load_cnn("alexnet", device="cpu")


@torch.inference_mode()
def test_layers_of_lite0_are_the_outputs_of_modules(lite0, photographs, pixels):
    """Independent reference: PyTorch's own hooks."""
    model, expected = cnn._load_lite0()[0].eval(), {}
    for layer in LAYERS["efficientnet-lite0"]:
        model.get_submodule(layer).register_forward_hook(
            lambda module, args, output, layer=layer: expected.update({layer: output})
        )
    model(pixels)
    for layer, maps in layer_outputs(lite0, photographs, grid=112).items():
        want = expected[layer].reshape(2, maps.shape[2], -1).mT
        np.testing.assert_allclose(maps, want, **CLOSE)
    channels = [32, 16, 24, 40, 80, 112, 192, 320]
    shapes = [*((2, 16, n) for n in channels), (2, 1, 1280)]
    outputs = layer_outputs(lite0, photographs, grid=4)
    assert [maps.shape for maps in outputs.values()] == shapes


@torch.inference_mode()
def test_layers_of_alexnet(random_alexnet, small_alexnet, photographs):
    """All 205 672 features that the publication of THINGS-EEG2 extracts."""
    outputs = layer_outputs(small_alexnet, photographs, grid=27)
    assert list(outputs) == list(LAYERS["alexnet"])
    widths = [maps[0].size for maps in outputs.values()]
    assert widths == [46656, 32448, 64896, 43264, 9216, 4096, 4096, 1000]
    assert sum(widths) == 205_672
    pooled = layer_outputs(small_alexnet, photographs, grid=6)
    assert sum(maps[0].size for maps in pooled.values()) == 50_664
    flat = torch.from_numpy(pooled["features.12"]).mT.flatten(1)
    expected = F.relu(random_alexnet.classifier[1](flat))
    np.testing.assert_allclose(pooled["classifier.2"][:, 0], expected, **CLOSE)
    coarse = layer_outputs(small_alexnet, photographs, grid=2)["features.12"]
    blocks = pooled["features.12"].reshape(2, 2, 3, 2, 3, 256).mean(axis=(2, 4))
    np.testing.assert_allclose(coarse, blocks.reshape(2, 4, 256), 1e-5, 1e-6)


def test_layers_come_back_from_disk(tmp_path, lite0, photographs):
    path, pictures = tmp_path / "features.npy", {}
    for i, size in enumerate([64, 80, 96, 112, 128]):
        pictures[f"image_{i}"] = photographs[i % 2].resize((size, size))
        pictures[f"image_{i}"].save(tmp_path / f"image_{i}.png")
    paths = [tmp_path / f"{name}.png" for name in pictures]
    images = pd.DataFrame({"image_id": list(pictures), "path": paths})
    write_layer_outputs(path, images, cnn=lite0, grid=2, batch_size=2)
    made, ids = Tokens(path).made_with, ["image_3", "image_0"]
    assert (made["network"], made["grid"]) == ("efficientnet-lite0", 2)
    read = LayerFeatures(Tokens(path), ids)
    expected = layer_outputs(lite0, [pictures[name] for name in ids], grid=2)
    assert list(read) == list(LAYERS["efficientnet-lite0"])
    half = {"rtol": 1e-3, "atol": 1e-3}
    for layer, maps in expected.items():
        assert read[layer].dtype == np.float32
        flat = maps.swapaxes(1, 2).reshape(2, -1)
        np.testing.assert_allclose(read[layer], flat, **half)
    maps = layer_maps(Tokens(path), ids, ["blocks.1", "blocks.3"])
    want = np.concatenate([expected["blocks.1"], expected["blocks.3"]], axis=-1)
    assert maps.shape == (2, 4, 24 + 80)
    np.testing.assert_allclose(maps, want, **half)
