import pytest
import yaml

from paperlib.config import (
    OF_SPEED,
    SECTIONS,
    deciding_settings,
    load_config,
    load_settings,
    merge,
    token_sources,
)
from paperlib.methods import METHODS
from paperlib.paths import IDENTITY, ROOT


@pytest.fixture
def edited(tmp_path):
    """Write a changed copy of the embedded configuration."""

    def write(change):
        settings = load_config("mini")
        change(settings)
        path = tmp_path / "edited.yaml"
        path.write_text(yaml.safe_dump(settings, allow_unicode=True))
        return str(path)

    return write


@pytest.mark.parametrize("name", ["mini", "paper", "tests/small.yaml"])
def test_committed_configurations_are_valid(name):
    settings = load_config(name)
    for entry in settings["datasets"].values():
        assert entry["training_subject"] in entry["subjects"]
    for row in settings["comparison"]:
        assert row["run"] in settings["runs"]


def test_mini_and_paper_have_the_same_keys():
    """A value of one that the other lacks would be a default hidden in code."""

    def keys(settings, place=()):
        for key, value in settings.items():
            yield (*place, key)
            if isinstance(value, dict) and key not in named:
                yield from keys(value, (*place, key))

    # entries with names of their own
    named = ("runs", "datasets", "networks", "captioners", "labels", "resources")
    mini, paper = (set(keys(load_config(name))) for name in ("mini", "paper"))
    assert {k for k in mini ^ paper if k[0] != "minithings"} == set()


def test_the_schema_knows_every_method_and_its_options():
    schema = yaml.safe_load((ROOT / "config/schema.yaml").read_text())["$defs"]
    assert set(schema["run"]["properties"]["method"]["enum"]) == set(METHODS)
    assert set(schema["methods"]["properties"]) == set(METHODS)
    checked = [
        case["if"]["properties"]["method"]["const"] for case in schema["run"]["allOf"]
    ]
    assert sorted(checked) == sorted(METHODS)


def test_unknown_key_names_the_nearest(edited):
    path = edited(lambda s: s["training"].update(learning_rte=1.0))
    with pytest.raises(ValueError, match="training: unknown key 'learning_rte'.*'lea"):
        load_config(path)


def test_every_problem_is_listed(edited):
    def change(settings):
        settings["trainig"] = {}
        settings["sampling"]["eta"] = 2

    with pytest.raises(ValueError) as error:
        load_config(edited(change))
    assert "Did you mean 'training'?" in str(error.value)
    assert "sampling.eta: 2 is greater than the maximum of 1" in str(error.value)


def test_numbers_must_be_numbers(edited):
    """YAML reads 1e-4 as text; the schema must not let it pass."""
    path = edited(lambda s: s["training"].update(learning_rate="1e-4"))
    with pytest.raises(ValueError, match="training.learning_rate: '1e-4' is not of"):
        load_config(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "datasets: {things-eeg2: {preprocessing: {concepts: zero_shot}}}",
            "datasets.things-eeg2.preprocessing: unknown key 'concepts'",
        ),
        (
            "datasets: {things-meg: {preprocessing: {hfreq: 40}}}",
            "things-meg.preprocessing: unknown key 'hfreq'. Did you mean 'h_freq'",
        ),
        (
            "datasets: {things-meg: {preprocessing: {source: raw}}}",
            r"things-meg.preprocessing.source: 'raw' is not one of \['epochs', 'raw_c",
        ),
        (
            "captioning: {captioners: {blip: {kind: qwen2-vl, modl: x}}}",
            "captioning.captioners.blip: unknown key 'modl'. Did you mean 'model'",
        ),
        (
            "captioning: {captioners: {blip: {model: x, revision: null}}}",
            "captioners.blip: 'kind' is a required property$",
        ),
        (
            "captioning: {captioners: {blip: {kind: qwen-vl}}}",
            "captioners.blip.kind: 'qwen-vl' .*Did you mean 'qwen2-vl'",
        ),
        (
            "captioning: {captioners: {blip: {kind: file, file: a.json, pixels: 4}}}",
            "captioners.blip: unknown key 'pixels'",
        ),
        (
            "captioning: {captioners: {blip: {kind: minigpt4, vison: a/b}}}",
            "captioners.blip: unknown key 'vison'. Did you mean 'vision'",
        ),
        (
            "captioning: {captioners: {blip: {kind: minigpt4, vision: a/b}}}",
            "captioners.blip: 'projection' is a required property",
        ),
        ("embedding: {normalise_by_cls: true}", "Did you mean 'normalize_by_cls'"),
    ],
)
def test_sections_of_the_recordings_and_stimuli(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config("mini", overrides)


def test_a_name_among_the_keys_that_nothing_has():
    networks = "embedding: {networks: {alexnt: {grid: 1, batch_size: 1}}}"
    with pytest.raises(ValueError, match="embedding.networks: 'alexnt' .*'alexnet'"):
        load_config("mini", networks)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("training: {1: 2}", "training: unknown key '1'"),
        (
            "training: {steps: 2026-01-31}",
            "steps: '2026-01-31' is not of type",
        ),
        ("training: {learning_rate: .nan}", "learning_rate: null is not of type"),
    ],
)
def test_what_yaml_has_and_json_has_not(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config("mini", overrides)


def test_syntax_errors_name_file_and_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: mini\nruns: [1, 2\n")
    with pytest.raises(yaml.YAMLError, match='broken.yaml", line 2'):
        load_config(str(path))


def test_encoders_need_steps_enough_for_a_warm_up(edited):
    path = edited(lambda s: s["minithings"]["clip"].update(steps=19))
    with pytest.raises(ValueError, match="clip.steps: 19 is less than the minimum of"):
        load_config(path)
    weak = "minithings: {captioner: {snapshots: {weak: 19}}}"
    with pytest.raises(ValueError, match="snapshots.weak: 19 is less than the minimum"):
        load_config("mini", weak)


def test_unknown_keys_of_the_embedded_world_are_errors(edited):
    path = edited(lambda s: s["minithings"]["things-meg"].update(subject=[1]))
    with pytest.raises(ValueError, match="unknown key 'subject'.*'subjects'"):
        load_config(path)


def test_unknown_configuration():
    with pytest.raises(FileNotFoundError, match="Did you mean 'mini'"):
        load_config("mimi")


def test_overrides_replace_single_values():
    before = load_config("mini")
    after = load_config("mini", "sampling: {steps: 7}")
    assert after["sampling"] == before["sampling"] | {"steps": 7}
    assert after["training"] == before["training"]


@pytest.mark.parametrize("overrides", ["steps", "[1, 2]"])
def test_overrides_must_be_a_mapping(overrides):
    with pytest.raises(ValueError, match="overrides must be YAML of the form"):
        load_config("mini", overrides)


def test_overrides_are_validated():
    with pytest.raises(ValueError, match="Did you mean 'steps'"):
        load_config("mini", "sampling: {step: 7}")


def test_a_run_replaces_part_of_the_sections():
    plain = load_settings("04_train", "mini", dataset="things-eeg2", run="ours_v")
    ours = load_settings("04_train", "mini", dataset="things-eeg2", run="ours")
    plus = load_settings("04_train", "mini", dataset="things-eeg2", run="ours_plus")
    assert plain["diffusion"]["prediction"] == "v"
    changed = {"prediction": "epsilon", "beta_end": 0.02}
    assert ours["diffusion"] == plain["diffusion"] | changed
    assert plus["model"] == plain["model"] | {"row_embedding": True}
    assert plain["model"]["method"] == "dit"


def test_options_of_a_run_must_be_those_of_its_method(edited):
    path = edited(lambda s: s["runs"]["ours_plus"].update(model={"layer": "top"}))
    with pytest.raises(ValueError, match="runs.ours_plus.model: unknown key 'layer'"):
        load_config(path)


def test_a_notebook_gets_its_sections_only():
    settings = load_settings("05_sample", "mini", dataset="things-eeg2", run="ours")
    assert "training" not in settings
    assert settings["notebook"] == "05_sample"


def test_a_notebook_about_all_data_sets_gets_their_subjects():
    settings = load_settings("08_clip_score", "mini")
    assert settings["dataset_subjects"] == {"things-eeg2": [1, 2], "things-meg": [1, 2]}
    assert "datasets" not in settings


def test_rows_of_the_comparison_must_be_runs(edited):
    path = edited(lambda s: s["comparison"][0].update(run="our_plus"))
    with pytest.raises(ValueError, match="comparison.run .*Did you mean 'ours_plus'"):
        load_config(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": {"ours": {"label": "Ours+"}}}, "two are called 'Ours\\+'"),
        ({"evaluation": {"reference": "our_plus"}}, "Did you mean 'ours_plus'"),
        (
            {"runs": {"guclu": {"conditioning": {"network": "vgg"}}}},
            "runs.guclu.conditioning.network must be one of .*efficientnet-lite0",
        ),
        ({"ablations": {"regions": ["ours_v", "no_frontal"]}}, "lack a region each"),
        ({"ablations": {"regions": ["ours_v", "ours_plus"]}}, "lack a region each"),
        (
            {"datasets": {"things-meg": {"training_subject": 3}}},
            "things-meg.training_subject must be one of 1, 2; got 3",
        ),
        (
            {"clip_score": {"captioners": ["qwen2-v"]}},
            "clip_score.captioners must be one of .*Did you mean 'qwen2-vl'",
        ),
    ],
)
def test_names_must_be_those_of_something(change, message):
    with pytest.raises(ValueError, match=message):
        load_config("mini", yaml.safe_dump(change))


def test_an_embedded_world_is_called_simulated():
    with pytest.raises(ValueError, match="simulated: true was expected"):
        load_config("mini", "simulated: false")


def test_unknown_run():
    with pytest.raises(ValueError, match="run must be one of .*Did you mean 'ours_v'"):
        load_settings("04_train", "mini", dataset="things-eeg2", run="our_v")


def test_merge_changes_neither_argument():
    base, changes = {"a": {"b": 1}}, {"a": {"c": [2]}}
    merged = merge(base, changes)
    merged["a"]["c"].append(3)
    assert (base, changes) == ({"a": {"b": 1}}, {"a": {"c": [2]}})


def test_every_notebook_has_sections_and_identity():
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert notebooks == set(SECTIONS) == set(IDENTITY)


def test_token_sources():
    def sources(image, captioner, network):
        return token_sources(
            {"image": image, "captioner": captioner, "network": network}
        )

    assert sources(True, None, None) == ["image"]
    assert sources(False, "a", None) == ["a"]
    assert sources(True, "a", "b") == ["image", "a", "b"]


def test_ablations_name_runs_captioners_and_regions_that_exist(edited):
    def change(group, value):
        def edit(settings):
            settings["ablations"][group] = value

        return edit

    with pytest.raises(ValueError, match="Did you mean 'no_text'"):
        load_config(edited(change("components", ["no_txt", "ours_v"])))
    with pytest.raises(ValueError, match="ablations.subjects must be one of 1, 2"):
        load_config("mini", "datasets: {things-meg: {ablations: {subjects: [3]}}}")
    with pytest.raises(ValueError, match="Did you mean 'Occipital'"):
        load_config("mini", "runs: {no_occipital: {channels: {without: Ocipital}}}")
    with pytest.raises(ValueError, match="Did you mean 'qwen2-vl-eighth'"):
        captioner = "{conditioning: {captioner: qwen2-vl-eigth}}"
        load_config("mini", f"runs: {{captions_eighth: {captioner}}}")


def test_a_run_without_a_region_sees_the_other_channels_only():
    changed = load_settings("04_train", "mini", dataset="things-meg", run="no_parietal")
    assert changed["channels"] == {"without": "Parietal"}
    plain = load_settings("04_train", "mini", dataset="things-meg", run="ours_v")
    assert plain["channels"] == {"without": None}
    assert changed | {"channels": plain["channels"]} == plain


def test_a_training_knows_how_its_own_tokens_are_made_and_no_others():
    keys = {"dataset": "things-eeg2", "run": "captions_eighth"}
    tokens = load_settings("04_train", "mini", **keys)["tokens"]
    assert tokens["captioning"]["captioner"]["model"].endswith("qwen2-vl-eighth")
    assert tokens["embedding"]["network"] is None
    for other, is_same in (("qwen2-vl-quarter", True), ("qwen2-vl-eighth", False)):
        change = f"captioning: {{captioners: {{{other}: {{pixels: 64}}}}}}"
        changed = load_settings("04_train", "mini", change, **keys)
        assert (changed["tokens"] == tokens) == is_same
    cnn = load_settings("04_train", "mini", dataset="things-eeg2", run="guclu")
    assert cnn["tokens"]["captioning"] is None
    assert list(cnn["tokens"]["embedding"]) == ["network"]
    networks = load_config("mini")["embedding"]["networks"]
    assert cnn["tokens"]["embedding"]["network"] == networks["efficientnet-lite0"]


def test_a_notebook_of_one_data_set_needs_its_name():
    with pytest.raises(
        ValueError, match="reads preprocessing of .* one of things-eeg2"
    ):
        load_settings("01_preprocess", "mini")


def deciding(config):
    keys = {"dataset": "things-eeg2", "run": "ours_v"}
    return {name: deciding_settings(name, config, **keys) for name in SECTIONS}


@pytest.fixture(scope="module")
def decided():
    return deciding("mini")


@pytest.fixture
def rerun(decided, edited):
    """Name the notebooks of which a change alters what they make."""

    def compare(change):
        after = deciding(edited(lambda s: s.update(merge(s, change))))
        return {name for name in SECTIONS if after[name] != decided[name]}

    return compare


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cpu"},
        {"resources": {"04_train": {"memory": 5}}},
        {"datasets": {"things-eeg2": {"resources": {"04_train": {"threads": 3}}}}},
        {"runs": {"guclu": {"resources": {"04_train": {"threads": 3}}}}},
        {"training": {"workers": 3, "compile": True}},
        {"datasets": {"things-eeg2": {"training": {"save_every": 7}}}},
        {"runs": {"ours_v": {"training": {"workers": 3}}}},
        {"captioning": {"batch_size": 3}},
        {"embedding": {"batch_size": 3}},
        {"embedding": {"networks": {"efficientnet-lite0": {"batch_size": 3}}}},
        {"clip_score": {"batch_size": 3}},
        {"sampling": {"batch_size": 3}},
        {"runs": {"ours_v": {"sampling": {"batch_size": 3}}}},
    ],
    ids=str,
)
def test_where_and_how_fast_decides_nothing(rerun, change):
    assert merge(load_config("mini"), change) != load_config("mini")
    assert not rerun(change)


def test_names_of_values_of_speed_mean_nothing_else():
    """They are left out of every section, not of training alone."""
    schema = yaml.safe_load((ROOT / "config/schema.yaml").read_text())

    def places(entry, place=""):
        for key, value in entry.items():
            if key in (*OF_SPEED, "device") and place.endswith("properties"):
                yield place, key
            if isinstance(value, dict):
                yield from places(value, f"{place}.{key}")

    found = set(places(schema))
    training = {(".$defs.training.properties", name) for name in OF_SPEED}
    assert found == training | {(".properties", "device")}


@pytest.mark.parametrize(
    ("run", "shown"),
    [
        ("no_text", {"07_ablations"}),
        ("guclu", {"06_evaluate"}),
        ("ours_v", {"06_evaluate", "07_ablations"}),
    ],
)
def test_a_label_concerns_only_what_shows_the_run(rerun, run, shown):
    found = rerun({"runs": {run: {"label": "another"}}})
    assert found - {"10_schematics"} == shown


def test_a_value_that_decides_reruns_its_notebooks(rerun):
    assert rerun({"training": {"weight_decay": 0.5}}) == {"04_train"}
    assert rerun({"training": {"batch_size": 3}}) == {"04_train"}
    assert rerun({"minithings": {"clip": {"batch_size": 3}}}) == {"00_minithings"}


@pytest.mark.parametrize(
    ("notebook", "of", "change"),
    [
        (
            "02_caption",
            {"captioner": "qwen2-vl-quarter"},
            {"captioning": {"captioners": {"qwen2-vl-quarter": {"pixels": 4096}}}},
        ),
        (
            "03_embed",
            {"tokens": "efficientnet-lite0"},
            {"embedding": {"networks": {"efficientnet-lite0": {"grid": 3}}}},
        ),
    ],
)
def test_captioners_and_networks_rerun_only_themselves(edited, notebook, of, change):
    config = edited(lambda settings: settings.update(merge(settings, change)))
    (kind,) = of
    for name, is_same in ((of[kind], False), ("qwen2-vl", True), ("image", True)):
        keys = {"dataset": "things-eeg2", kind: name}
        before = deciding_settings(notebook, "mini", **keys)
        assert (deciding_settings(notebook, config, **keys) == before) == is_same
