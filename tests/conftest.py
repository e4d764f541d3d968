import json
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side

from hub_server import serving_hub  # noqa: E402

import paperlib  # noqa: E402, F401  makes torchvision work before any test imports it


def pytest_collection_modifyitems(items):
    """Start with the longest: the pipeline runs beside the other tests."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)


@pytest.fixture
def theme():
    """Set the theme of all figures, and close those of the test."""
    from matplotlib import pyplot

    from paperlib.reporting.figures import set_theme

    set_theme()
    yield
    pyplot.close("all")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serve a model with two shards; the client's cache is empty."""
    from huggingface_hub import constants

    with serving_hub("owner/name") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        address = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        places = {"vision_model.a": "1.safetensors", "language.b": "2.safetensors"}
        index = json.dumps({"weight_map": places}).encode()
        hub["config.json"], hub["model.safetensors.index.json"] = b"{}", index
        hub["1.safetensors"], hub["2.safetensors"] = b"vision", b"language"
        yield hub
