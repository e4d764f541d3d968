import json
from copy import deepcopy
from dataclasses import replace
from functools import partialmethod

import numpy as np
import pytest
import torch
from accelerate import notebook_launcher
from accelerate.state import AcceleratorState
from accelerate.utils.other import get_free_port
from paperlib.sampling import sample_signals
from paperlib.training.__main__ import main, read_parameters
from paperlib.training.loop import State
from torch import nn

from paperlib.checkpoints import build_model, load_checkpoint, save_checkpoint
from paperlib.diffusion import linear_alpha_bar
from paperlib.training import (
    Batches,
    Objective,
    Pairs,
    TrainingSettings,
    loop,
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


def losses(curve):
    return [[v for k, v in row.items() if k != "seconds"] for row in curve]


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


@pytest.mark.parametrize(
    ("changes", "calls"),
    [({}, 17), ({"evaluate_every": 15, "accumulate": 2}, 45)],
)
def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(
    changes, calls, data, tmp_path
):
    settings = replace(SETTINGS, **changes)
    models = [
        StopsAfter(build_model(RECIPE), before) for before in (10**6, calls, 10**6)
    ]
    models[1].network.load_state_dict(models[0].network.state_dict())
    unbroken, curve = run(
        data, tmp_path / "unbroken", settings=settings, model=models[0]
    )
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, settings=settings, model=models[1])
    # the restart must not depend on its fresh weights
    resumed, curve_again = run(data, tmp_path, settings=settings, model=models[2])
    for name, weight in unbroken.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert losses(curve) == losses(curve_again)


def test_a_loss_that_is_not_finite_stops_and_the_last_state_stays(data, tmp_path):
    short = replace(SETTINGS, steps=4, save_every=2, evaluate_every=2)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, settings=short, model=StopsAfter(build_model(RECIPE), 3))
    state = (tmp_path / "state.safetensors").read_bytes()
    tokens, signals = data
    signals[:8] = np.nan
    model = StopsAfter(build_model(RECIPE), 10**6)
    with pytest.raises(FloatingPointError, match="Step 4: the training loss is nan"):
        run((tokens, signals), tmp_path, settings=short, model=model)
    assert (tmp_path / "state.safetensors").read_bytes() == state


def test_a_finished_run_is_not_run_again(data, tmp_path):
    first, curve = run(data, tmp_path)
    again, curve_again = run(data, tmp_path)
    assert curve == curve_again
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_validation_runs_in_the_precision_of_training(data, tmp_path, precision):
    seen = {True: set(), False: set()}
    model = build_model(RECIPE)
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    layer.register_forward_hook(
        lambda layer, _, output: seen[layer.training].add(output.dtype)
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    settings = replace(SETTINGS, steps=2, evaluate_every=1, precision=precision)
    run(data, tmp_path, model=model, settings=settings)
    AcceleratorState._reset_state(reset_partial_state=True)
    expected = {"no": torch.float32, "bf16": torch.bfloat16}[precision]
    assert seen == {True: {expected}, False: {expected}}


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
    together = sample_signals(
        model, RECIPE, context, np.arange(4), batch_size=12, **options
    )
    alone = sample_signals(
        loaded, recipe, context, np.arange(4), batch_size=1, **options
    )
    assert together.shape == (4, 3, 6, 12)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert not np.allclose(together[0], together[1])
    assert not np.allclose(together[:, 0], together[:, 1])


def test_samples_in_half_precision_are_close(data, tmp_path):
    tokens, _ = data
    model, _ = run(data, tmp_path)
    options = dict(steps=5, eta=0.0, bound=None, samples=2, seed=1, batch_size=8)
    whole, half = (
        sample_signals(
            model, RECIPE, tokens.__getitem__, np.arange(4), precision=p, **options
        )
        for p in ("no", "bf16")
    )
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.05 * np.abs(whole).max()


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
    generated = sample_signals(model, RECIPE, context, held_out, **options).mean(axis=1)
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


def test_micro_batches_give_the_curve_of_whole_ones(data, tmp_path):
    _, whole = run(data, tmp_path / "whole")
    _, parts = run(data, tmp_path / "parts", settings=replace(SETTINGS, accumulate=4))
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-5)


def train_in_one_of_two_processes(data, folder, settings):
    torch.set_num_threads(1)
    _, curve = run(data, folder, settings=settings)
    assert AcceleratorState().num_processes == 2
    if AcceleratorState().is_main_process:
        (folder / "curve.json").write_text(json.dumps(curve))


def test_two_processes_give_the_curve_of_one(data, tmp_path):
    _, one = run(data, tmp_path / "one")
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a new notebook
    settings = replace(SETTINGS, accumulate=2)
    work = (data, tmp_path, settings)
    port = str(get_free_port())
    notebook_launcher(
        train_in_one_of_two_processes, work, num_processes=2, use_port=port
    )
    two = json.loads((tmp_path / "curve.json").read_text())
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)


def test_a_batch_is_shared_evenly(data, tmp_path):
    with pytest.raises(ValueError, match="batch_size 8 must be a multiple of 3"):
        run(data, tmp_path, settings=replace(SETTINGS, accumulate=3))


def test_workers_read_the_same_batches(data, tmp_path):
    settings = replace(SETTINGS, steps=10, workers=2)
    _, curve = run(data, tmp_path / "two", settings=settings)
    _, alone = run(data, tmp_path / "none", settings=replace(settings, workers=0))
    assert losses(curve) == losses(alone)


def test_checkpointing_keeps_the_gradient(data):
    y0, context = pairs(data, range(8)).__getitems__(range(8))
    gradients = []
    for is_on in (False, True):
        torch.manual_seed(0)
        model = build_model(RECIPE).train()
        nn.init.normal_(model.unembed_patch.weight)  # zero lets no gradient through
        model.checkpointing = is_on
        loss = objective().loss(model, y0, context, step=1, share=slice(None))
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(g.abs().sum() > 0 for g in gradients[0][-2:])
    for kept, computed_again in zip(*gradients, strict=True):
        assert torch.equal(kept, computed_again)


def test_a_compiled_network_has_the_curve_and_names_of_a_plain_one(
    data, tmp_path, monkeypatch
):
    eager = partialmethod(nn.Module.compile, backend="eager")  # needs no C++ compiler
    monkeypatch.setattr(nn.Module, "compile", eager)
    settings = replace(SETTINGS, steps=10)
    compiled = replace(settings, compile=True)
    torch.manual_seed(0)
    network = build_model(RECIPE)
    model, curve = run(data, tmp_path / "compiled", settings=compiled, model=network)
    _, plain = run(data, tmp_path / "plain", settings=settings)
    np.testing.assert_allclose(losses(curve), losses(plain), rtol=1e-5)
    assert network._compiled_call_impl is not None
    assert list(network.state_dict()) == list(model.state_dict())
    assert list(network.state_dict()) == list(build_model(RECIPE).state_dict())


def test_the_scale_of_half_precision_gradients_survives_a_restart(tmp_path):
    states = []
    for _ in range(2):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.AdamW(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
        states.append(State(model, deepcopy(model), optimizer, scaler))
    stopped, restarted = states
    for factor in (1.0, 1.0, float("inf"), 1.0):  # an overflow halves the scale
        loss = stopped.model(torch.ones(1, 2)).sum() * factor
        stopped.scaler.scale(loss).backward()
        stopped.scaler.step(stopped.optimizer)
        stopped.scaler.update()
        stopped.optimizer.zero_grad()
    stopped.save(tmp_path / "state.safetensors", {})
    restarted.load(tmp_path / "state.safetensors", {})
    assert stopped.scaler.state_dict()["scale"] == 2.0**39
    assert restarted.scaler.state_dict() == stopped.scaler.state_dict()


def test_tensorboard_must_be_installed_if_it_is_wanted(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "is_tensorboard_available", lambda: False)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        run(data, tmp_path, settings=replace(SETTINGS, tensorboard=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{config: mini, subjct: 2}", "unknown key 'subjct'.*Did you mean 'subject'"),
        ("{config: mini, dataset: a, run: b, subject: one}", "subject must be of type"),
        ("{config: mini, dataset: a, run: b}", "missing.*'subject'"),
        ("mini", "must map config, dataset"),
    ],
)
def test_mistakes_in_the_file_of_a_run(text, message, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_parameters(path)
    assert main([str(path)]) == 1
    assert str(path) in capsys.readouterr().err
