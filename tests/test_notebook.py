import json

import pytest

from paperlib import notebook
from paperlib.notebook import open_notebook
from paperlib.paths import ROOT

DECLARED = {"config": str, "overrides": str, "dataset": str, "subject": int, "run": str}
VALUES = {
    "config": "mini",
    "overrides": "",
    "dataset": "things-meg",
    "subject": 3,
    "run": "ours_v",
}


def variables(**changes):
    """Return the globals of a notebook after its first cells."""
    imported = {"np": pytest, "open_notebook": open_notebook, "In": [""], "_": "x"}
    return {"__annotations__": DECLARED, **imported, **VALUES, **changes}


def test_data_set_and_run_are_in_place():
    nb = open_notebook("04_train", variables())
    assert (nb.cfg.dataset, nb.cfg.run) == ("things-meg", "ours_v")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subjct": 2}, "no parameter 'subjct'.*Did you mean 'subject'"),
        ({"subject": "two"}, "'subject' must be of type int; got 'two'"),
        ({"subject": True}, "'subject' must be of type int; got True"),
        ({"run": "our_v"}, "run must be one of .*Did you mean 'ours_v'"),
        ({"config": "mimi"}, "Did you mean 'mini'"),
    ],
)
def test_parameters_are_checked(changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_notebook("04_train", variables(**changes))


def test_a_cell_that_is_run_again_sees_later_variables():
    nb = open_notebook("04_train", variables())
    open_notebook("04_train", variables(nb=nb, times=[1, 2]))


def test_paths_have_the_keys_of_the_notebook():
    nb = open_notebook("04_train", variables())
    folder = ROOT / "results/mini/things-meg"
    assert nb.output("signals") == folder / "signals/sub-03"
    assert nb.output("signals", subject=1) == folder / "signals/sub-01"
    assert nb.output("record").name == "04_train_things-meg_ours_v_sub-03.json"
    with pytest.raises(ValueError, match=r"'tokens' .*needs a key.*\{tokens\}"):
        nb.input("tokens")


def test_results_with_overrides_read_what_the_configuration_made(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    nb = open_notebook("04_train", variables(overrides="seed: 3"))
    own, original = nb.output("signals"), tmp_path / "results/mini/things-meg/signals"
    assert own != original / "sub-03"
    assert nb.input("signals") == original / "sub-03"
    own.mkdir(parents=True)
    assert nb.input("signals") == own
    assert nb.input("data") == tmp_path / "data/mini"
    assert nb.output("data") == tmp_path / "data" / nb.cfg.name  # of notebook 00


@pytest.mark.parametrize("has_git", [True, False])
def test_the_record_tells_what_was_run(tmp_path, monkeypatch, capsys, has_git):
    if not has_git:
        monkeypatch.setenv("PATH", "")
    nb = open_notebook("04_train", variables())
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    nb.finish()
    record = json.loads(nb.output("record").read_text())
    assert record["parameters"] == VALUES
    assert record["packages"]["numpy"] and record["peak_memory_bytes"] > 0
    assert has_git or record["commit"] is None
    assert "04_train took" in capsys.readouterr().out
