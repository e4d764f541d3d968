import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paperlib.models.dit import DiT, timestep_code

REGIONS = ["A"] * 5 + ["B"] * 3


def small_dit(**changes):
    torch.manual_seed(0)
    options = dict(regions=REGIONS, n_times=10, patch=(2, 4), context_width=6)
    size = dict(width=16, depth=2, heads=2, mlp_ratio=2.0)
    return DiT(**(options | size | changes))


def awake(model):
    """Perturb what starts at zero, so that every path carries signal."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(3, 8, 10), torch.tensor([1, 500, 1000]), torch.randn(3, 7, 6)


def full_size_dit(regions, n_times):
    names = [str(i) for i, count in enumerate(regions) for _ in range(count)]
    with torch.device("meta"):
        return DiT(
            names,
            n_times,
            context_width=768,
            width=768,
            depth=12,
            heads=12,
            mlp_ratio=4.0,
            patch=(4, 4),
        )


@pytest.mark.parametrize(
    ("n_channels", "n_times", "regions", "parameters"),
    [
        (63, 250, (22, 14, 10, 14, 3), 157_935_376),
        (271, 200, (67, 52, 45, 39, 68), 157_925_392),
    ],
)
def test_full_size_has_the_known_parameter_count(
    n_channels, n_times, regions, parameters
):
    assert sum(regions) == n_channels
    model = full_size_dit(regions, n_times)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_full_size_takes_the_flops_of_the_closed_form():
    """Keys and values of the condition cost 3 % of a step; they are computed once."""
    model = full_size_dit((22, 14, 10, 14, 3), 250)
    n, length, d = 1134, 257 + 77, 768
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH):
        y, t = torch.empty(1, 63, 250), torch.ones(1, dtype=torch.long)
        with FlopCounterMode(display=False) as once:
            context = model.encode_context(torch.empty(1, length, d))
        with FlopCounterMode(display=False) as step:
            model(y, t, context)
    tokens = n * (4 * d + 2 * n + 2 * d + 2 * length + 8 * d)  # self, cross, MLP
    outside = 2 * n * 16 + 256 + d + 2 * d  # patches, timestep, last modulation
    assert once.get_total_flops() == 2 * 12 * length * 2 * d * d
    assert step.get_total_flops() == 2 * d * (12 * (tokens + 6 * d) + outside)


def test_output_is_zero_at_initialization(batch):
    assert not small_dit()(*batch).any()


@pytest.mark.parametrize("cross_modulation", [False, True])
def test_blocks_are_the_identity_at_initialization(cross_modulation):
    model = small_dit(cross_modulation=cross_modulation)
    x, time = torch.randn(2, 12, 16), torch.randn(2, 16)
    keys_values = model.encode_context(torch.randn(2, 7, 6))
    for block, pair in zip(model.blocks, keys_values, strict=True):
        torch.testing.assert_close(block(x, time, pair), x)


@pytest.mark.parametrize("cross_modulation", [False, True])
def test_open_gates_show_the_condition_to_the_last_layer_at_once(
    batch, cross_modulation
):
    """The output is still zero, and its first gradient depends on the image."""
    y, t, context = batch
    gradients = []
    for tokens in (context, context.flip(0)):
        model = small_dit(cross_modulation=cross_modulation, open_gates=True)
        output = model(y, t, tokens)
        assert not output.any()
        (output - y).square().mean().backward()
        gradients.append(model.unembed_patch.weight.grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("cross_modulation", [False, True])
def test_every_parameter_learns_after_the_first_steps(batch, cross_modulation):
    model = small_dit(cross_modulation=cross_modulation, row_embedding=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        (model(*batch) - batch[0]).square().mean().backward()
        optimizer.step()
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    # A bias of the keys shifts all scores alike: softmax cannot see it.
    assert [n for n in still if not n.endswith("key.bias")] == []


def test_keys_and_values_computed_beforehand_change_nothing(batch):
    model = awake(small_dit())
    y, t, context = batch
    torch.testing.assert_close(
        model(y, t, model.encode_context(context)), model(y, t, context)
    )


@pytest.mark.parametrize("cross_modulation", [False, True])
def test_samples_of_an_image_share_its_keys_and_values(batch, cross_modulation):
    model = awake(small_dit(cross_modulation=cross_modulation))
    context = batch[2]
    y, t = torch.randn(6, 8, 10), torch.randint(1, 1001, (6,))
    torch.testing.assert_close(
        model(y, t, model.encode_context(context)),
        model(y, t, context.repeat_interleave(2, dim=0)),
    )


def test_images_must_share_the_signals_evenly(batch):
    y, t, context = batch
    with pytest.raises(ValueError, match="3 signals .* 2 images"):
        small_dit()(y, t, context[:2])


def test_condition_and_time_change_the_output(batch):
    model = awake(small_dit())
    y, t, context = batch
    output = model(y, t, context)
    assert not torch.allclose(output, model(y, t, context.flip(0)))
    assert not torch.allclose(output, model(y, t.flip(0), context))


@pytest.mark.parametrize("padding", ["region", "global"])
@pytest.mark.parametrize("width", [4, 5])  # the last of a row is padded, or is not
def test_patches_are_cut_from_a_grid(batch, padding, width):
    options = {"patch": (2, width), "padding": padding, "regions": list("ABABBAAA")}
    model, y = small_dit(**options), batch[0]
    layout = model.layout
    grid = torch.zeros(len(y), 2 * layout.n_rows, width * layout.n_columns)
    grid[:, list(layout.channel_rows), : layout.n_times] = y
    rows = grid.split(2, dim=1)
    cut = [patch.flatten(1) for row in rows for patch in row.split(width, dim=2)]
    torch.testing.assert_close(model._to_patches(y), torch.stack(cut, dim=1))


def test_signals_of_another_shape_are_refused(batch):
    y, t, context = batch
    with pytest.raises(RuntimeError):
        small_dit()(y.mT, t, context)


def test_padding_cannot_be_seen(batch):
    """A channel's value enters once; the pad beside it stays zero."""
    model = awake(small_dit())
    y = batch[0]
    patches = model._to_patches(y)
    assert patches.ne(0).sum() == y.numel()
    torch.testing.assert_close(model._from_patches(patches), y)


def test_without_row_embedding_rows_of_a_region_are_exchangeable(batch):
    y, t, context = batch
    # Region A has rows of channels (0, 1) and (2, 3); the third is half padding.
    swap = torch.tensor([2, 3, 0, 1, 4, 5, 6, 7])
    model = awake(small_dit())
    torch.testing.assert_close(
        model(y[:, swap], t, context), model(y, t, context)[:, swap]
    )
    model = awake(small_dit(row_embedding=True))
    assert not torch.allclose(
        model(y[:, swap], t, context), model(y, t, context)[:, swap]
    )


def test_a_model_without_position_codes_runs(batch):
    model = awake(small_dit(region_embedding=False, temporal_embedding=False))
    assert model(*batch).shape == batch[0].shape


def test_timestep_codes_differ():
    codes = timestep_code(torch.arange(1, 1001))
    assert codes.shape == (1000, 256)
    assert torch.pdist(codes).min() > 0.1
