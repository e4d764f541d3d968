from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from meg_participant import EXCERPT, image_numbers, trial_table, write_epochs
from meg_participant import write_trial_table as write_table

from paperlib.config import load_settings
from paperlib.paths import locate
from paperlib.recordings import sources
from paperlib.recordings.signals import load_signals
from paperlib.recordings.sources import source_files, write_signals

SUBJECT = 1


@pytest.fixture
def where(tmp_path):
    def locate_below(dataset):
        settings = {"notebook": "01_preprocess", "name": "t", "data_root": tmp_path}
        found = locate(settings, dataset=dataset, subject=SUBJECT)
        return lambda alias: tmp_path / "new" if alias == "signals" else found(alias)

    return locate_below


def preprocessing(dataset, **changes):
    settings = load_settings("01_preprocess", "paper", dataset=dataset)
    return settings["preprocessing"] | changes


@pytest.mark.filterwarnings("ignore:.*holds 3 sensors:UserWarning")
def test_epochs_of_a_participant(where, tmp_path):
    trials = trial_table(pd.read_csv(EXCERPT), np.random.default_rng(0))
    here, options = where("things-meg"), preprocessing("things-meg")
    folder = tmp_path / "things-meg"
    write_table(folder, trials)
    path = folder / "derivatives/preprocessed/preprocessed_P1-epo.fif"
    numbers = image_numbers(trials)
    write_epochs(path, numbers)
    part = path.with_name("preprocessed_P1-epo-1.fif")
    part.touch()
    table = folder / "sourcedata/sample_attributes_P1.csv"
    assert source_files(options, here, subject=SUBJECT) == [table, path, part]
    counts, covariances = write_signals(options, here, subject=SUBJECT)
    assert load_signals(here("signals")).training.shape == (36, 1, 3, 20)
    assert counts["kept"].sum() == 36 + 168 and covariances is None


def test_options_reach_the_raw_runs(where, monkeypatch):
    asked = {}

    def remember(folder, signals_folder, **options):
        asked.update(options, folder=folder)
        return pd.DataFrame()

    monkeypatch.setattr(sources, "preprocess_runs", remember)
    monkeypatch.setattr(sources, "list_images", lambda folder: folder)
    options = preprocessing("things-meg", source="raw_ctf", concepts="zero_shot")
    write_signals(options, where("things-meg"), subject=SUBJECT)
    assert asked["folder"] == asked["images"] == where("things-meg")("raw")
    assert (asked["subject"], asked["concepts"]) == (1, "zero_shot")
    assert asked["processing"].h_freq == 100 and asked["processing"].sfreq == 200


def test_files_of_raw_runs(where, tmp_path):
    options = preprocessing("things-meg", source="raw_ctf")
    meg = tmp_path / "things-meg/sub-BIGMEG1/ses-01/meg"
    run = meg / "sub-BIGMEG1_ses-01_task-main_run-01_meg.ds"
    run.mkdir(parents=True)
    _, *files = source_files(options, where("things-meg"), subject=SUBJECT)
    assert files == [run, meg / "sub-BIGMEG1_ses-01_task-main_run-01_events.tsv"]


@pytest.mark.parametrize(
    ("source", "n_files", "last"),
    [
        ("raw", 8, "raw_data/sub-01/ses-04/raw_eeg_test.npy"),
        ("published", 2, "preprocessed_data/sub-01/preprocessed_eeg_test.npy"),
    ],
)
def test_files_of_eeg(where, tmp_path, source, n_files, last):
    options = preprocessing("things-eeg2", source=source)
    files = source_files(options, where("things-eeg2"), subject=SUBJECT)
    assert len(files) == n_files
    assert files[-1] == Path(tmp_path, "things-eeg2", last)


def test_unknown_source(where):
    options = preprocessing("things-meg", source="epoch")
    for function in (write_signals, source_files):
        with pytest.raises(ValueError, match="source must be.*Did you mean 'epochs'"):
            function(options, where("things-meg"), subject=SUBJECT)
