import json
from dataclasses import dataclass
from functools import partial, partialmethod

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from paperlib import training
from paperlib.config import Machine, Training
from paperlib.coordinates import fit_coordinates
from paperlib.diffusion import DenoisingLoss, linear_alpha_bar, posterior_mean, sample
from paperlib.models.dit import DiT
from paperlib.training import Batches, Pairs, train, validation_loss

OPTIONS = Training(
    steps=30,
    batch_size=8,
    learning_rate=2e-3,
    warmup=5,
    ema_decay=0.9,
    precision="no",
    evaluate_every=10,
)
MACHINE = Machine(device="cpu", workers=0, save_every=10)
DIFFUSION = {"alpha_bar": linear_alpha_bar(50, 1e-3, 0.3), "prediction": "v"}


def make_network():
    torch.manual_seed(0)
    return DiT(
        ["A"] * 4 + ["B"] * 2,
        12,
        context_width=5,
        width=16,
        depth=1,
        heads=2,
        mlp_ratio=2.0,
        patch=(2, 4),
        row_embedding=True,
        open_gates=True,
    )


@pytest.fixture
def data():
    """Make images of four kinds, each with a response of its own, and some noise."""
    rng = np.random.default_rng(0)
    kinds = np.arange(40) % 4
    tokens = rng.standard_normal((4, 3, 5))[kinds]
    tokens = tokens + 0.1 * rng.standard_normal((40, 3, 5))
    signals = rng.standard_normal((4, 1, 6, 12))[kinds]
    signals = 2 * signals + 0.2 * rng.standard_normal((40, 1, 6, 12))
    return tokens.astype(np.float32), signals.astype(np.float32)


def coordinates_of(data, **options):
    return fit_coordinates(data[1], range(32), **options)


def denoising(data, **changes):
    fitted = coordinates_of(data)
    return DenoisingLoss(**DIFFUSION | changes, scale_input=True, coordinates=fitted)


def pairs(data, rows):
    tokens, signals = data
    fitted = coordinates_of(data)
    return Pairs(signals, rows, context=tokens.__getitem__, coordinates=fitted)


def changed(options, **changes):
    return options.model_copy(update=changes)


def run(data, folder, *, options=OPTIONS, machine=MACHINE, model=None, loss=None):
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a new notebook
    return train(
        model or make_network(),
        pairs(data, range(32)),
        pairs(data, range(32, 40)),
        loss=loss or denoising(data),
        options=options,
        machine=machine,
        seed=3,
        state_file=folder / "state.pt",
    )


def test_progress_can_be_switched_off(data, tmp_path, monkeypatch):
    """As TQDM_DISABLE does, which tqdm reads when it is imported."""
    monkeypatch.setattr(training, "tqdm", partial(training.tqdm, disable=True))
    _, curve = run(data, tmp_path)
    assert curve["step"].iloc[-1] == OPTIONS.steps


def losses(curve):
    return curve.drop(columns="seconds").to_numpy()


def assert_same_weights(one, other):
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


class StopsAfter(nn.Module):
    """A network that fails after some steps, as a killed process does."""

    def __init__(self, calls=10**6):
        super().__init__()
        self.network, self.calls = make_network(), calls

    def forward(self, *arguments):
        self.calls -= self.training
        if self.calls < 0:
            raise KeyboardInterrupt
        return self.network(*arguments)


@dataclass(frozen=True)
class Regression:
    """A loss without random numbers: micro-batches and processes cannot change it."""

    def __call__(self, model, y, context, generator):
        t = torch.ones(len(y), dtype=torch.long)
        return (model(torch.zeros_like(y), t, context) - y).square().mean()

    def to(self, device):
        return self


@pytest.mark.parametrize(
    ("options", "machine", "calls"),
    [({}, {}, 17), ({"evaluate_every": 15}, {"accumulate": 2}, 45)],
)
def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(
    options, machine, calls, data, tmp_path
):
    options, machine = changed(OPTIONS, **options), changed(MACHINE, **machine)
    common = {"options": options, "machine": machine}
    unbroken, curve = run(data, tmp_path / "unbroken", model=StopsAfter(), **common)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, model=StopsAfter(calls), **common)
    fresh = StopsAfter()
    for parameter in fresh.parameters():  # the restart must not depend on them
        nn.init.normal_(parameter)
    resumed, curve_again = run(data, tmp_path, model=fresh, **common)
    assert fresh.calls > 10**6 - 30 * machine.accumulate
    assert_same_weights(unbroken, resumed)
    np.testing.assert_array_equal(losses(curve), losses(curve_again))


def test_a_loss_that_is_not_finite_stops_and_the_last_state_stays(data, tmp_path):
    options, machine = (
        changed(OPTIONS, steps=4, evaluate_every=4),
        changed(MACHINE, save_every=2),
    )

    class Diverges(StopsAfter):
        def forward(self, *arguments):
            self.calls -= self.training
            factor = float("nan") if self.calls < 0 else 1.0
            return factor * self.network(*arguments)

    with pytest.raises(FloatingPointError, match="Step 4: a loss is not finite"):
        run(data, tmp_path, model=Diverges(2), options=options, machine=machine)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2


def test_no_state_of_a_loss_that_is_not_finite_is_saved(data, tmp_path):
    """The state is due before the next report."""
    options = changed(OPTIONS, evaluate_every=30)
    data[0][:] = np.nan
    with pytest.raises(FloatingPointError, match="Step 10"):
        run(data, tmp_path, options=options)
    assert not (tmp_path / "state.pt").exists()


def test_a_finished_run_is_not_run_again(data, tmp_path):
    first, curve = run(data, tmp_path, model=StopsAfter())
    network = StopsAfter()
    again, curve_again = run(data, tmp_path, model=network)
    assert network.calls == 10**6
    assert curve.equals(curve_again)
    assert_same_weights(first, again)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_validation_runs_in_the_precision_of_training(data, tmp_path, precision):
    seen = {True: set(), False: set()}
    model = make_network()
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    layer.register_forward_hook(
        lambda layer, _, output: seen[layer.training].add(output.dtype)
    )
    options = changed(OPTIONS, steps=2, evaluate_every=1, precision=precision)
    run(data, tmp_path, model=model, options=options)
    expected = {"no": torch.float32, "bf16": torch.bfloat16}[precision]
    assert seen == {True: {expected}, False: {expected}}


@pytest.mark.parametrize("what", ["options", "loss", "data"])
def test_a_state_of_other_options_or_data_is_not_continued(
    what, data, tmp_path, capsys
):
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, model=StopsAfter(17))
    network, changes = StopsAfter(), {}
    if what == "options":
        changes["options"] = changed(OPTIONS, learning_rate=1e-3)
    elif what == "loss":
        changes["loss"] = denoising(data, prediction="epsilon_skip")
    else:
        data[1][5] += 1.0
    run(data, tmp_path, model=network, **changes)
    assert "starting anew" in capsys.readouterr().out
    assert 10**6 - network.calls == OPTIONS.steps


def test_another_seed_or_speed_does_not_restart_a_training(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, model=StopsAfter(17))
    network = StopsAfter()
    options, machine = changed(OPTIONS, seeds=[3, 4]), changed(MACHINE, save_every=7)
    run(data, tmp_path, model=network, options=options, machine=machine)
    assert 10**6 - network.calls == 20


def test_seed_decides_everything(data, tmp_path):
    models = [run(data, tmp_path / folder)[0] for folder in "ab"]
    assert_same_weights(*models)


def test_average_is_not_the_last_weights(data, tmp_path):
    model = make_network()
    average, _ = run(data, tmp_path, model=model)
    both = zip(model.parameters(), average.parameters(), strict=True)
    assert not all(torch.equal(weight, mean) for weight, mean in both)
    assert not average.training


def test_an_epoch_shows_every_pair_once():
    batches = Batches(size=12, batch_size=5, steps=range(12), seed=1)
    seen = [index for batch in batches for index in batch]
    epochs = [seen[i : i + 12] for i in range(0, 60, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_restart_reads_the_batches_that_are_left():
    whole = list(Batches(size=12, batch_size=5, steps=range(9), seed=1))
    left = list(Batches(size=12, batch_size=5, steps=range(4, 9), seed=1))
    assert left == whole[4:]


def test_single_trials_are_pairs_of_their_own(data):
    tokens, _ = data
    signals = np.arange(40 * 3 * 6 * 12, dtype=np.float32).reshape(40, 3, 6, 12)
    fitted = fit_coordinates(signals, [5, 7])
    trials = Pairs(signals, [5, 7], context=tokens.__getitem__, coordinates=fitted)
    assert len(trials) == 6
    y, context = trials.__getitems__([0, 4])
    expected = signals[[5, 7], [0, 1]]
    np.testing.assert_allclose(fitted.back(y), expected, rtol=1e-5)
    np.testing.assert_array_equal(context, tokens[[5, 7]])


def test_batches_hold_every_pair_once_in_order(data):
    whole = pairs(data, range(10)).__getitems__(range(10))
    batches = list(pairs(data, range(10)).batches(4))
    assert [len(signals) for signals, _ in batches] == [4, 4, 2]
    for part, parts in zip(whole, zip(*batches, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), part)


def test_validation_loss_weighs_images_alike_and_repeats_its_draws(data):
    model, loss = make_network(), Regression()
    parts, whole = (
        validation_loss(model, pairs(data, range(10)), loss, size) for size in (4, 10)
    )
    assert parts == pytest.approx(whole, rel=1e-5)
    first, second = (
        validation_loss(model, pairs(data, range(10)), denoising(data), 4)
        for _ in range(2)
    )
    assert first == second


def test_conditions_are_learned(data, tmp_path):
    """Both losses fall, and generated signals belong to the kind of their image."""
    tokens, signals = data
    options = changed(OPTIONS, steps=250, evaluate_every=50, learning_rate=5e-3)
    model, curve = run(data, tmp_path, options=options)
    assert list(curve["step"]) == [50, 100, 150, 200, 250]
    for name in ("training_loss", "validation_loss"):
        assert curve[name].iloc[-1] < 0.8 * curve[name].iloc[0]
    kinds = np.stack([signals[kind:32:4].mean(axis=(0, 1)) for kind in range(4)])
    common = {**DIFFUSION, "scale_input": True, "coordinates": coordinates_of(data)}
    context = lambda rows: tokens[32 + rows]  # noqa: E731
    samples = sample(model, context, 8, steps=10, samples=4, **common).mean(axis=1)
    for generated in (samples, posterior_mean(model, context, 8, **common)):
        alike = np.corrcoef(generated.reshape(8, -1), kinds.reshape(4, -1))[:8, 8:]
        np.testing.assert_array_equal(alike.argmax(axis=1), np.arange(32, 40) % 4)


def test_samples_in_half_precision_are_close(data, tmp_path):
    tokens, _ = data
    model, _ = run(data, tmp_path)
    common = {**DIFFUSION, "scale_input": True, "coordinates": coordinates_of(data)}
    whole, half = (
        sample(model, tokens.__getitem__, 4, steps=5, precision=p, **common)
        for p in ("no", "bf16")
    )
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.05 * np.abs(whole).max()


def test_micro_batches_give_the_curve_of_whole_ones(data, tmp_path):
    loss = Regression()
    _, whole = run(data, tmp_path / "whole", loss=loss)
    machine = changed(MACHINE, accumulate=4)
    _, parts = run(data, tmp_path / "parts", machine=machine, loss=loss)
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-5)


def test_two_processes_give_the_curve_of_one(data, tmp_path):
    loss = Regression()
    _, one = run(data, tmp_path / "one", loss=loss)
    machine = changed(MACHINE, accumulate=2, processes=2)
    average, two = run(data, tmp_path / "two", machine=machine, loss=loss)
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    assert validation_loss(
        average, pairs(data, range(32, 40)), loss, 8
    ) == pytest.approx(two["validation_loss"].iloc[-1], rel=1e-5)


def test_more_processes_than_gpus(data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    machine = changed(MACHINE, processes=2, device="auto")
    with pytest.raises(ValueError, match="this process sees 1 GPUs"):
        run(data, tmp_path, machine=machine)


def test_a_batch_is_shared_evenly(data, tmp_path):
    with pytest.raises(ValueError, match="batch_size 8 must be a multiple of 3"):
        run(data, tmp_path, machine=changed(MACHINE, accumulate=3))


def test_workers_read_the_same_batches(data, tmp_path):
    options = changed(OPTIONS, steps=10)
    curves = [
        run(data, tmp_path / str(n), options=options, machine=machine)[1]
        for n in (0, 2)
        for machine in [changed(MACHINE, workers=n)]
    ]
    np.testing.assert_array_equal(*map(losses, curves))


def test_checkpointing_keeps_the_gradient(data):
    y0, context = pairs(data, range(8)).__getitems__(range(8))
    loss, gradients = denoising(data), []
    for is_on in (False, True):
        model = make_network().train()
        nn.init.constant_(model.unembed_patch.weight, 0.1)  # zero stops gradients
        model.checkpointing = is_on
        loss(model, y0, context, torch.Generator().manual_seed(0)).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(g.abs().sum() > 0 for g in gradients[0][-2:])
    for kept, computed_again in zip(*gradients, strict=True):
        assert torch.equal(kept, computed_again)


def test_a_compiled_network_has_the_curve_and_names_of_a_plain_one(
    data, tmp_path, monkeypatch
):
    eager = partialmethod(nn.Module.compile, backend="eager")  # needs no C++ compiler
    monkeypatch.setattr(nn.Module, "compile", eager)
    options, network = changed(OPTIONS, steps=10), make_network()
    machine = changed(MACHINE, compile=True)
    model, curve = run(
        data, tmp_path / "compiled", options=options, machine=machine, model=network
    )
    _, plain = run(data, tmp_path / "plain", options=options)
    np.testing.assert_allclose(losses(curve), losses(plain), rtol=1e-5)
    assert network._compiled_call_impl is not None
    assert list(network.state_dict()) == list(model.state_dict())
    assert list(network.state_dict()) == list(make_network().state_dict())


def test_the_state_holds_nothing_but_tensors_and_plain_values(data, tmp_path):
    run(data, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == OPTIONS.steps
    assert json.dumps(state["curve"])


def test_tensorboard_must_be_installed_if_it_is_wanted(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "is_tensorboard_available", lambda: False)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        run(data, tmp_path, machine=changed(MACHINE, tensorboard=True))
