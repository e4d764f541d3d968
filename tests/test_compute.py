import pytest
import torch

from paperlib.compute import (
    BANDWIDTH,
    CORE_HOURS,
    PEAK,
    UTILIZATION,
    Cost,
    count_operations,
    estimate_cost,
    list_assumptions,
)
from paperlib.config import load_config, merge
from paperlib.models.dit import FREQUENCIES, DiT

EEG = {"dataset": "things-eeg2"}


def dit_operations(n, *, context, context_width, width, depth, patch_size):
    """Add up two operations for each weight and token, and the two attentions."""
    block = 2 * n * (2 + 2 + 2 + 8) * width**2  # q and o, k and v, q and o, MLP
    block += 2 * context * 2 * context_width * width  # k and v of the condition
    block += 4 * n * n * width + 4 * n * context * width
    block += 2 * 6 * width**2  # modulation
    ends = 2 * n * 2 * patch_size * width + 2 * 2 * width**2  # patches, modulation
    return depth * block + ends + 2 * (FREQUENCIES * width + width**2)


@pytest.fixture
def paper():
    return load_config("paper")


def shorten(settings, **changes):
    """Make networks so small that counting takes no time."""
    small = {"methods": {"dit": {"depth": 1}, "synbrain": {"depth": 1}}}
    return merge(merge(settings, small), changes)


def test_operations_of_the_transformer_are_those_of_the_formula():
    sizes = {"width": 32, "depth": 3, "patch": (2, 5)}
    with torch.device("meta"):
        model = DiT(
            ["Frontal"] * 4 + ["Central"] * 2,
            20,
            context_width=24,
            heads=4,
            mlp_ratio=4.0,
            **sizes,
        )
        y, t, tokens = torch.empty(1, 6, 20), torch.ones(1), torch.empty(1, 7, 24)
    expected = dit_operations(
        3 * 4, context=7, context_width=24, width=32, depth=3, patch_size=10
    )
    assert count_operations(lambda: model(y, t, tokens)) == expected


def test_the_full_model_takes_what_the_formula_says(paper):
    expected = dit_operations(
        1134, context=334, context_width=768, width=768, depth=12, patch_size=16
    )
    training = paper["training"]
    seconds = 3 * expected * training["steps"] * training["batch_size"]
    seconds /= PEAK["bf16"] * UTILIZATION["dit"]
    cost = estimate_cost("04_train", paper, EEG | {"run": "ours"})
    assert cost.gpu_hours == pytest.approx(seconds / 3600) and cost.core_hours == 0


def test_hours_grow_with_steps_and_samples(paper):
    run = EEG | {"run": "ours"}
    once = shorten(paper)
    twice = shorten(
        paper,
        training={"steps": 2 * paper["training"]["steps"]},
        sampling={"samples": 2 * paper["sampling"]["samples"]},
    )
    for notebook in ("04_train", "05_sample"):
        one, two = (
            estimate_cost(notebook, settings, run).gpu_hours
            for settings in (once, twice)
        )
        assert two == pytest.approx(2 * one)


def test_fewer_channels_take_less(paper):
    hours = [
        estimate_cost("04_train", shorten(paper), EEG | {"run": run}).gpu_hours
        for run in ("no_frontal", "no_occipital", "ours")
    ]
    assert hours == sorted(hours) and hours[0] < hours[1] < hours[2]


def test_synbrain_answers_once_for_each_image(paper):
    run = EEG | {"run": "synbrain"}
    more = shorten(paper, sampling={"samples": 64, "steps": 500})
    assert estimate_cost("05_sample", more, run) == estimate_cost(
        "05_sample", shorten(paper), run
    )


@pytest.mark.parametrize("run", ["guclu", "yamins", "gifford", "clip_ridge"])
def test_linear_encoders_use_cores_as_the_resources_say(paper, run):
    cost = estimate_cost("04_train", paper, EEG | {"run": run})
    assert cost == Cost(core_hours=CORE_HOURS["04_train"])
    granted = paper["runs"][run]["resources"]
    assert granted["04_train"]["gpu"] == granted["05_sample"]["gpu"] == 0


def test_captions_written_elsewhere_take_nothing(paper):
    hours = [
        estimate_cost("02_caption", paper, EEG | {"captioner": name}).gpu_hours
        for name in ("visualglm", "qwen2-vl", "minigpt4")
    ]
    assert hours[0] == 0 and hours[1] < hours[2]


def test_assumptions_name_peak_and_utilization():
    said = " ".join(list_assumptions())
    assert "989 TFLOP/s" in said and "dit 30%" in said
    assert f"{BANDWIDTH / 1e12:.1f} TB/s" in said
