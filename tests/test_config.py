from pathlib import Path

import pandas as pd
import pytest
import yaml

from paperlib.config import Config, Machine, load_config, merge
from paperlib.paths import ABLATION_TABLES, REGION_FIGURES, ROOT

BOMB = "a: &a [1]\n" + "\n".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("name", ["mini", "paper", "tests/small.yaml"])
def test_committed_configurations_are_valid_and_called_like_their_files(name):
    cfg = load_config(name)
    cfg.check_runs()
    assert cfg.name == name.removeprefix("tests/").removesuffix(".yaml")


@pytest.fixture
def file(tmp_path):
    """Write a configuration of one's own."""

    def write(content, name="mine"):
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / f"{name}.yaml").write_bytes(content)
        return tmp_path / f"{name}.yaml"

    return write


def test_a_copied_file_writes_to_folders_of_its_own(file):
    assert load_config(file((ROOT / "config/mini.yaml").read_bytes())).name == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("extends: mini\nname: mini\n", "remove 'name'"),
        ("extends: {path}\n", "extends itself"),
        ("extends: mini\nseed: 1\ntraining: {{}}\nseed: 2\n", "'seed' stands twice"),
        ("seed: 1\nruns: [1, 2\n", "cannot be read"),
        ("seed: 1 # é".encode("cp1252"), "mine.yaml is damaged.* Save it as UTF-8"),
        pytest.param("seed: 1 #" + 2**20 * "x", "more than 1 MiB", id="large"),
        ("extends: mimi\n", "There is no configuration 'mimi'.*Did you mean 'mini'"),
        ("extends: [mini]\n", "There is no configuration"),
        ("extends: 7\n", "There is no configuration"),
        ("extends: null\n", "There is no configuration"),
    ],
)
def test_files_that_are_no_configuration(file, tmp_path, content, message):
    if isinstance(content, str):
        content = content.format(path=tmp_path / "mine.yaml")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_config(file(content))


@pytest.mark.parametrize("name", ["published", "my config", "a+b", "-x", "x{y}"])
def test_results_get_folders_with_plain_names(file, name):
    with pytest.raises(ValueError, match="folders called .* rename it"):
        load_config(file("extends: mini\n", name))


def test_two_configurations_do_not_share_folders(file):
    with pytest.raises(ValueError, match="called like .*config/mini.yaml"):
        load_config(file("extends: mini\n", "mini"))


def test_results_made_with_overrides_have_a_name_of_their_own():
    names = [
        load_config("mini", text).name
        for text in ("", "seed: 1", "{seed: 1}", "seed: 2")
    ]
    assert names[0] == "mini"
    assert names[1] == names[2] != names[3]
    assert names[1].startswith("mini+")


def test_defaults_are_the_published_values():
    cfg = load_config("paper").of(dataset="things-meg", run="ours")
    assert (cfg.training.batch_size, cfg.training.learning_rate) == (4, 1e-4)
    assert cfg.model.patch == (4, 4) and cfg.model.width == 768
    assert cfg.diffusion.prediction == "epsilon" and not cfg.coordinates.mean


def test_values_of_data_set_and_run_come_in_this_order(file):
    content = """
    extends: mini
    datasets:
      things-meg:
        sampling: {steps: 7, samples: 3}
        methods: {dit: {depth: 3, heads: 2}}
        runs: {ours_v: {sampling: {samples: 5}}}
    runs: {ours_v: {sampling: {steps: 9, samples: 4}, model: {depth: 5}}}
    """
    cfg = load_config(file(content))
    assert cfg.of(dataset="things-meg").sampling.steps == 7
    both = cfg.of(dataset="things-meg", run="ours_v")
    assert (both.sampling.steps, both.sampling.samples) == (9, 5)
    assert (both.model.depth, both.model.heads) == (5, 2)
    assert cfg.of(dataset="things-meg").of(run="ours_v") == both
    assert cfg.sampling.steps == load_config("mini").sampling.steps


def test_overrides_replace_the_values_of_runs_and_data_sets_too():
    text = "{training: {steps: 5, seeds: [7]}, coordinates: {whitening: 0.1}}"
    cfg = load_config("mini", text)
    for run in ("ours_v", "ours_plus_cnn"):
        chosen = cfg.of(dataset="things-meg").of(run=run)
        assert (chosen.training.steps, chosen.seeds) == (5, [7])
        assert chosen.coordinates.whitening == 0.1


def test_a_run_has_what_its_base_has_on_a_data_set():
    cfg = load_config("mini")
    meg = [cfg.of(dataset="things-meg", run=run) for run in ("ours_v", "no_text")]
    assert meg[0].coordinates == meg[1].coordinates
    assert (
        meg[0].coordinates != cfg.of(dataset="things-eeg2", run="no_text").coordinates
    )


def test_a_run_inherits_what_it_does_not_replace():
    cfg = load_config("mini")
    full, short, ablated = (
        cfg.of(dataset="things-eeg2", run=run)
        for run in ("ours_v", "ours_v_short", "no_region")
    )
    assert short.sampling == full.sampling.model_copy(update={"samples": 1})
    assert ablated.model == full.model.model_copy(update={"region_embedding": False})
    for section in ("conditioning", "coordinates", "diffusion", "training", "sampling"):
        assert getattr(ablated, section) == getattr(short, section)


@pytest.mark.parametrize("config", ["mini", "paper"])
def test_full_models_of_the_ablations_have_published_values(config):
    cfg = load_config(config)
    for tables in (
        *ABLATION_TABLES.values(),
        *[{"regions": f} for f in REGION_FIGURES.values()],
    ):
        for group, name in tables.items():
            published = pd.read_csv(ROOT / f"tables/published/{name}.csv")
            runs = published["runs"].dropna().str.split().explode()
            assert getattr(cfg.ablations, group)[-1] in set(runs)


def test_samples_come_from_the_first_training_where_a_mean_can_do_without_them():
    seeds = "training: {seeds: [3, 4]}"
    chosen = load_config("mini", f"runs: {{ours_v: {{{seeds}}}, ours: {{{seeds}}}}}")
    sampled = [
        chosen.of(dataset="things-eeg2", run=run).sampled_seeds
        for run in ("ours_v", "ours")
    ]
    assert sampled == [[3], [3, 4]]


def test_properties_need_a_data_set_and_a_run():
    with pytest.raises(ValueError, match="Name the dataset, one of things-eeg2"):
        _ = load_config("mini").subjects
    with pytest.raises(ValueError, match="Name the run, one of ours"):
        _ = load_config("mini").of(dataset="things-eeg2").label


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("trainig: {}", "unknown key 'trainig'. Did you mean 'training'"),
        ("training: {learning_rte: 1}", "training: unknown key 'learning_rte'.*'learn"),
        ("training: {1: 2}", "training: unknown key 1"),
        ("training: {steps: 4.5}", "training.steps: .*integer.*got '4.5'"),
        ("training: {steps: 2026-01-31}", "training.steps: .*integer"),
        ("training: {learning_rate: .nan}", "learning_rate: .*finite"),
        ("sampling: {eta: 2}", "sampling.eta: .*less than or equal to 1; got '2'"),
        ("sampling: {eta: 1, solver: euler}", "sampling: eta 1 adds noise at every"),
        ("sampling: {precision: fp8}", "precision: .*'bf16'; got 'fp8'"),
        ("methods: {dit: {width: 62}}", "methods.dit: width .62. must be a multiple"),
        ("methods: {unet: {widths: [32, 63]}}", "widths must be multiples of heads"),
        ("methods: {synbrain: {widths: [32]}}", "synbrain.widths: .*at least 2 items"),
        ("datasets: {things-mg: {}}", "things-mg"),
        ("embedding: {networks: {alexnt: {grid: 1}}}", "alexnt.*Did you mean 'alexnet"),
        (
            "runs: {ours: {label: Ours+}}",
            r"labels of their own; two are called 'Ours\+'",
        ),
        ("name: x", "remove 'name'"),
        ("datasets: {things-eeg2: null, things-meg: null}", "datasets: .*at least 1"),
        ("runs: {ours_v: null}", "runs.ours_v_short.extends must be one of.*'ours_v'"),
        ("training: {seeds: [4294967296]}", "training.seeds.0: .*less than 4294967296"),
        ("runs: {ours: {label: a|b}}", "runs.ours.label: .*pattern"),
        ("runs: {ours: {label: 5$ or $6}}", "runs.ours.label: .*pattern"),
        ("clip_score: {labels: {qwen2-vl: ''}}", "labels.qwen2-vl: .*pattern"),
        ("runs: {ours: {method: dti}}", "runs.ours.method: .*Did you mean 'dit'"),
        ("evaluation: {reference: our_plus}", "Did you mean 'ours_plus'"),
        (
            "comparison: [{run: ours_v, samples: one, seeds: ensemble}]",
            "only posterior means are averaged",
        ),
        ("comparison: [{run: our_plus}]", "comparison.run .*Did you mean 'ours_plus'"),
        ("ablations: {components: [no_txt, ours_v]}", "Did you mean 'no_text'"),
        ("ablations: {regions: [ours_v, no_frontal]}", "lack a region each"),
        ("ablations: {regions: [ours_v, ours_plus]}", "lack a region each"),
        ("clip_score: {captioners: [qwen2-v]}", "captioners .*Did you mean 'qwen2-vl'"),
        ("clip_score: {encoders: [{name: A}, {name: A}]}", "two are called 'A'"),
        ("simulated: false", "simulated must be true"),
        ("data_root: $NO_SUCH_VARIABLE/x", "environment variable is not set"),
        ("data_root: ~no_such_user/x", "data_root: must be a path"),
        ("data_root: 'data/{dataset}'", "data_root: must be a path"),
        ("data_root: ''", "data_root: must be a path"),
        ("data_root: null", "data_root: must be a path; got 'None'"),
        ("topographies: {windows: [[0.3, 0.1]]}", "windows.0: must begin before"),
        ("diffusion: {beta_end: 2}", "beta_end: .*less than 1"),
        ("sampling: {steps: 5000}", "steps .5000. must not exceed .*timesteps .1000"),
        ("runs: {ours: {extends: ours_v}}", "extends itself, through ours.*, ours"),
        ("runs: {no_text: {extends: our_v}}", "extends must be one of.*'ours_v'"),
        ("{seed: -1, sampling: {eta: 2}}", "(?s)seed: .*sampling.eta: "),
        ("training: {steps: 1:30}", "steps: .*got '1:30'"),
        ("data_root: ${EMPTY}/a", "not set, or empty"),
        ("steps", "overrides must be YAML of the form"),
        ("[1, 2]", "overrides must be YAML of the form"),
        pytest.param("[" * 100_000, "nested too deeply, or too large", id="nested"),
        pytest.param(BOMB, "nested too deeply, or too large", id="anchors"),
    ],
)
def test_problems_are_listed_with_their_place(monkeypatch, overrides, message):
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(ValueError, match=message):
        load_config("mini", overrides)


@pytest.mark.parametrize(
    ("dataset", "entry", "message"),
    [
        ("eeg2", "preprocessing: {concepts: all}", "eeg2.*unknown key 'concepts'"),
        ("eeg2", "preprocessing: {channels: [Oz, Oz]}", "'Oz' is listed twice"),
        ("eeg2", "preprocessing: {keep_from: 3}", "keep_from .3 s. must lie between"),
        ("meg", "preprocessing: {hfreq: 40}", "key 'hfreq'. Did you mean 'h_freq'"),
        ("meg", "preprocessing: {l_freq: 101}", "l_freq .101 Hz. must lie below h_"),
        ("meg", "preprocessing: {source: raw}", "got 'raw'. Did you mean 'raw_ctf'"),
        ("meg", "subjects: [1, 1]", "1 is listed twice"),
        ("meg", "training_subject: 3", "training_subject must be one of 1, 2; got 3"),
    ],
)
def test_problems_of_a_data_set(dataset, entry, message):
    with pytest.raises(ValueError, match=message):
        load_config("mini", f"datasets: {{things-{dataset}: {{{entry}}}}}")


@pytest.mark.parametrize(
    ("captioner", "message"),
    [
        ("blip: {kind: qwen2-vl, modl: x}", "blip.* key 'modl'. Did you mean 'model'"),
        ("blip: {kind: qwen-vl}", "blip: .*'qwen-vl'"),
        ("image: {kind: file, file: a.jsonl}", "cannot be called 'image'"),
    ],
)
def test_problems_of_a_captioner(captioner, message):
    with pytest.raises(ValueError, match=message):
        load_config("mini", f"captioning: {{captioners: {{{captioner}}}}}")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("{channels: {without: Ocipital}}", "channels.without: .*mean 'Occipital'"),
        ("{conditioning: {network: vgg}}", "conditioning.network must be one of None"),
        ("{conditioning: {captioner: qwen}}", "conditioning.captioner must be one of"),
        ("{model: {layer: top}}", "methods.dit: unknown key 'layer'"),
        ("{training: {step: 7}}", "training: unknown key 'step'. Did you mean 'steps'"),
    ],
)
def test_problems_of_a_run_name_it(run, message):
    cfg = load_config("mini", f"runs: {{no_text: {run}}}")
    with pytest.raises(ValueError, match=f"no_text of things-eeg2.*\n.*{message}"):
        cfg.check_runs()


def test_numbers_that_yaml_reads_as_text_are_numbers():
    cfg = load_config("mini", "training: {learning_rate: 1e-4, steps: 40.0}")
    assert (cfg.training.learning_rate, cfg.training.steps) == (1e-4, 40)


def test_plain_words_and_numbers_are_those_of_yaml_1_2():
    cfg = load_config("mini", "{training: {precision: no}, sampling: {steps: 010}}")
    assert (cfg.training.precision, cfg.sampling.steps) == ("no", 10)


def test_places_take_environment_variables(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    captioner = "{captioners: {other: {kind: file, file: ~/a.jsonl}}}"
    embedding = "{model: 'local-dir:${SCRATCH}/b'}"
    places = f"data_root: $SCRATCH/a\ncaptioning: {captioner}\nembedding: {embedding}"
    cfg = load_config("mini", places)
    assert str(cfg.data_root) == "/scratch/me/a"
    assert cfg.captioning.captioners["other"].file == str(Path.home() / "a.jsonl")
    assert cfg.embedding.model == "local-dir:/scratch/me/b"
    at_home = load_config("mini", "embedding: {model: 'local-dir:~/b'}")
    assert at_home.embedding.model == f"local-dir:{Path.home()}/b"


def test_null_removes_an_entry():
    removed = (
        "{datasets: {things-meg: null}, runs: {row: null},"
        " ablations: {components: [no_text, ours_v]}}"
    )
    cfg = load_config("mini", removed)
    assert list(cfg.datasets) == ["things-eeg2"] and "row" not in cfg.runs


def test_values_of_the_machine_stand_in_a_section_of_their_own():
    sections = {
        name
        for name, field in Config.model_fields.items()
        if field.annotation is Machine
    }
    assert sections == {"machine"}
    changed = load_config("mini", "machine: {workers: 3, device: cpu}")
    before, after = (
        c.model_dump(exclude={"machine", "name"})
        for c in (load_config("mini"), changed)
    )
    assert before == after


@pytest.mark.parametrize(
    ("run", "names"),
    [("ours_v", ["image", "qwen2-vl"]), ("guclu", ["efficientnet-lite0"])],
)
def test_token_files_of_a_run(run, names):
    assert load_config("mini").of(run=run).token_sources == names


def test_merge_changes_neither_argument():
    base, changes = {"a": {"b": 1}}, {"a": {"c": [2]}}
    merged = merge(base, changes)
    merged["a"]["c"].append(3)
    assert (base, changes) == ({"a": {"b": 1}}, {"a": {"c": [2]}})


def test_a_dumped_configuration_is_plain_yaml():
    values = load_config("mini").model_dump(mode="json")
    assert yaml.safe_load(yaml.safe_dump(values)) == values
