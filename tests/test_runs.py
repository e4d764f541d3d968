from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock, Timeout

from paperlib import runs
from paperlib.config import load_settings
from paperlib.runs import discard_states, make_recipe, train_run

KEYS = {"dataset": "things-eeg2", "run": "ours_v", "subject": 1, "seed": 0}
DATA = SimpleNamespace(
    ch_names=["F3", "C3", "P3", "Oz"],
    condition=SimpleNamespace(width=8, n_tokens=3),
    scale=2.0,
    signals=SimpleNamespace(times=np.arange(125) / 250, sfreq=250.0, unit="noise SD"),
)


def recipe(overrides=""):
    entries = {name: KEYS[name] for name in ("dataset", "run")}
    settings = load_settings("04_train", "mini", overrides, **entries)
    return make_recipe(settings, DATA, KEYS)


@pytest.mark.parametrize(
    ("option", "is_same"),
    [("workers: 3", True), ("save_every: 7", True), ("batch_size: 4", False)],
)
def test_a_recipe_holds_what_decides_the_result(option, is_same):
    """A stopped training goes on under the same recipe, and only then."""
    assert (recipe(f"training: {{{option}}}") == recipe()) == is_same


def test_states_are_discarded_and_nothing_else(tmp_path):
    for name in ("state.safetensors", "mapper.safetensors", "curve.csv"):
        (tmp_path / name).touch()
    discard_states(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]


def test_a_run_is_trained_once_at_a_time(tmp_path, monkeypatch):
    settings = {"training": {"processes": 1}, "device": "cpu"}
    data = SimpleNamespace(inputs=[])
    where = lambda alias: tmp_path  # noqa: E731
    with (
        FileLock(tmp_path / "run.lock"),
        pytest.raises(RuntimeError, match="being trained already"),
    ):
        train_run(recipe(), data, settings=settings, where=where)

    def train(*work):
        with pytest.raises(Timeout):
            FileLock(tmp_path / "run.lock").acquire(timeout=0)
        (tmp_path / "curve.csv").write_text("step\n7\n")

    monkeypatch.setattr(runs, "_fit_and_keep", train)
    curve = train_run(recipe(), data, settings=settings, where=where)
    assert list(curve["step"]) == [7]
    with FileLock(tmp_path / "run.lock", timeout=0):
        pass
