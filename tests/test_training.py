from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from paperlib.checkpoints import build_model, load_checkpoint, save_checkpoint
from paperlib.diffusion import linear_alpha_bar
from paperlib.generation import generate
from paperlib.training import (
    Batches,
    Objective,
    Pairs,
    TrainingSettings,
    train,
)

SETTINGS = TrainingSettings(
    steps=30,
    batch_size=8,
    learning_rate=2e-3,
    weight_decay=1e-5,
    warmup=5,
    clip_norm=1.0,
    ema_decay=0.9,
    precision="no",
    workers=0,
    evaluate_every=10,
    save_every=10,
)
RECIPE = {
    "method": "dit",
    "architecture": dict(
        regions=["A"] * 4 + ["B"] * 2,
        n_times=12,
        context_width=5,
        width=16,
        depth=1,
        heads=2,
        mlp_ratio=2.0,
        patch=(2, 4),
        row_embedding=True,
    ),
    "diffusion": dict(timesteps=50, beta_start=1e-3, beta_end=0.3, prediction="v"),
    "scale": 2.0,
    "ch_names": list("abcdef"),
    "times": [0.004 * i for i in range(12)],
}


@pytest.fixture
def data():
    """Make images of four kinds, each with a response of its own, and some noise."""
    rng = np.random.default_rng(0)
    kinds = np.arange(40) % 4
    tokens = rng.standard_normal((4, 3, 5))[kinds] + 0.1 * rng.standard_normal(
        (40, 3, 5)
    )
    signals = rng.standard_normal((4, 1, 6, 12))[kinds]
    signals = 2 * signals + 0.2 * rng.standard_normal((40, 1, 6, 12))
    return tokens.astype(np.float32), signals.astype(np.float32)


def pairs(data, rows):
    tokens, signals = data
    return Pairs(signals, rows, context=tokens.__getitem__, scale=2.0)


def objective(batch_size=8, prediction="v"):
    alpha_bar = linear_alpha_bar(50, 1e-3, 0.3)
    return Objective(alpha_bar, prediction, seed=3, batch_size=batch_size)


def run(data, folder, *, settings=SETTINGS, identity=None, model=None):
    torch.manual_seed(0)
    return train(
        model or build_model(RECIPE),
        pairs(data, range(32)),
        pairs(data, range(32, 40)),
        objective=objective(),
        settings=settings,
        state_file=folder / "state.safetensors",
        identity=identity or {"data": "same"},
        device="cpu",
    )


class StopsAfter(nn.Module):
    """A network that fails after some steps, as a killed process does."""

    def __init__(self, network, calls):
        super().__init__()
        self.network, self.calls = network, calls

    def forward(self, *arguments):
        self.calls -= self.training
        if self.calls < 0:
            raise KeyboardInterrupt
        return self.network(*arguments)


def test_loss_at_initialization_is_the_variance_of_the_noise(data):
    y0, context = pairs(data, range(40)).__getitems__(range(40))
    loss = objective(batch_size=40, prediction="epsilon").loss(
        build_model(RECIPE), y0, context, step=1, share=slice(None)
    )
    # 40 x 72 values of variance 1: standard error 0.026
    assert loss.item() == pytest.approx(1, abs=0.08)


def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(data, tmp_path):
    torch.manual_seed(0)
    unbroken, curve = run(
        data, tmp_path / "unbroken", model=StopsAfter(build_model(RECIPE), 10**6)
    )
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, model=StopsAfter(build_model(RECIPE), 17))
    torch.manual_seed(99)  # the restart must not depend on fresh weights
    resumed, curve_again = run(
        data, tmp_path, model=StopsAfter(build_model(RECIPE), 10**6)
    )
    for name, weight in unbroken.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    strip = [
        {k: v for k, v in row.items() if k != "seconds"} for row in curve + curve_again
    ]
    assert strip[:3] == strip[3:]


def test_a_finished_run_is_not_run_again(data, tmp_path):
    first, curve = run(data, tmp_path)
    again, curve_again = run(data, tmp_path)
    assert curve == curve_again
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_state_of_other_settings_is_not_continued(data, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, model=StopsAfter(build_model(RECIPE), 17))
    network = StopsAfter(build_model(RECIPE), 10**6)
    run(data, tmp_path, identity={"data": "other"}, model=network)
    assert "starting anew" in capsys.readouterr().out
    assert 10**6 - network.calls == SETTINGS.steps


def test_seed_decides_everything(data, tmp_path):
    models = [run(data, tmp_path / folder)[0] for folder in "ab"]
    for first, second in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(first, second)


def test_average_is_not_the_last_weights(data, tmp_path):
    model = build_model(RECIPE)
    average, _ = run(data, tmp_path, model=model)
    weights = [p.detach() for p in model.parameters()]
    assert not all(
        torch.equal(w, a) for w, a in zip(weights, average.parameters(), strict=True)
    )


def test_an_epoch_shows_every_pair_once():
    batches = Batches(size=12, batch_size=5, steps=range(12), seed=1, share=slice(None))
    seen = [index for batch in batches for index in batch]
    epochs = [seen[i : i + 12] for i in range(0, 60, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_processes_share_the_batches_of_one():
    whole = Batches(size=12, batch_size=6, steps=range(7), seed=1, share=slice(None))
    shares = [
        Batches(size=12, batch_size=6, steps=range(7), seed=1, share=part)
        for part in (slice(0, 3), slice(3, 6))
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert batch == sum(parts, [])


def test_a_restart_reads_the_batches_that_are_left():
    options = dict(size=12, batch_size=5, seed=1, share=slice(None))
    whole = list(Batches(steps=range(9), **options))
    assert list(Batches(steps=range(4, 9), **options)) == whole[4:]


def test_single_trials_are_pairs_of_their_own(data):
    tokens, _ = data
    signals = np.arange(40 * 3 * 6 * 12, dtype=np.float32).reshape(40, 3, 6, 12)
    trials = Pairs(signals, [5, 7], context=tokens.__getitem__, scale=1.0)
    assert len(trials) == 6
    y, context = trials.__getitems__([0, 4])
    np.testing.assert_array_equal(y, signals[[5, 7], [0, 1]])
    np.testing.assert_array_equal(context, tokens[[5, 7]])


def test_checkpoint_round_trip(data, tmp_path):
    model, _ = run(data, tmp_path)
    save_checkpoint(tmp_path / "checkpoint", model, RECIPE)
    loaded, recipe = load_checkpoint(tmp_path / "checkpoint", device="cpu")
    tokens, _ = data
    options = dict(steps=5, eta=1.0, bound=None, samples=3, seed=1)
    context = lambda rows: tokens[rows]  # noqa: E731
    together = generate(model, RECIPE, context, np.arange(4), batch_size=12, **options)
    alone = generate(loaded, recipe, context, np.arange(4), batch_size=1, **options)
    assert together.shape == (4, 3, 6, 12)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert not np.allclose(together[0], together[1])
    assert not np.allclose(together[:, 0], together[:, 1])


def test_conditions_are_learned(data, tmp_path):
    """Both losses fall, and generated signals belong to the kind of their image."""
    tokens, signals = data
    settings = replace(SETTINGS, steps=250, evaluate_every=50, learning_rate=5e-3)
    model, curve = run(data, tmp_path, settings=settings)
    assert [row["step"] for row in curve] == [50, 100, 150, 200, 250]
    assert curve[-1]["training_loss"] < 0.8 * curve[0]["training_loss"]
    assert curve[-1]["validation_loss"] < 0.8 * curve[0]["validation_loss"]
    held_out = np.arange(32, 40)
    options = dict(steps=10, eta=0.0, bound=None, samples=4, seed=0, batch_size=64)
    context = tokens.__getitem__
    generated = generate(model, RECIPE, context, held_out, **options).mean(axis=1)
    kinds = np.stack([signals[kind:32:4].mean(axis=(0, 1)) for kind in range(4)])
    similarity = np.corrcoef(generated.reshape(8, -1), kinds.reshape(4, -1))[:8, 8:]
    np.testing.assert_array_equal(similarity.argmax(axis=1), held_out % 4)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run notebook 04"):
        load_checkpoint(tmp_path)


def test_unknown_method():
    with pytest.raises(ValueError, match="Did you mean 'dit'"):
        build_model({"method": "dti", "architecture": {}})


def test_batches_hold_every_pair_once_in_order(data):
    whole = pairs(data, range(10)).__getitems__(range(10))
    batches = list(pairs(data, range(10)).batches(4, "cpu"))
    assert [len(signals) for signals, _ in batches] == [4, 4, 2]
    for part, parts in zip(whole, zip(*batches, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), part)
