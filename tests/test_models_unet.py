import pytest
import torch

from paperlib.models.unet import CONDITIONINGS, UNet

FULL = dict(context_width=768, widths=(128, 256, 512), layers=2, heads=8)
SIZES = [(63, 250), (271, 200)]


def small_unet(n_channels=6, n_times=10, **changes):
    torch.manual_seed(0)
    options = dict(context_width=6, widths=(32, 64), layers=1, heads=2, patch=(2, 2))
    regions = ["A", "B"] * (n_channels // 2) + ["A"] * (n_channels % 2)
    return UNet(regions, n_times, **(options | changes))


def awake(model):
    """Perturb what starts at zero, so that every path carries signal."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(3, 6, 10), torch.tensor([1, 500, 1000]), torch.randn(3, 7, 6)


@pytest.mark.parametrize(
    ("conditioning", "parameters"),
    [("cross", 101_297_665), ("concat", 101_625_857), ("add", 98_807_809)],
)
@pytest.mark.parametrize(("n_channels", "n_times"), SIZES)
def test_full_size_has_the_known_parameter_count(
    n_channels, n_times, conditioning, parameters
):
    with torch.device("meta"):
        model = UNet(["A"] * n_channels, n_times, conditioning=conditioning, **FULL)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize(("n_channels", "n_times"), SIZES)
@pytest.mark.parametrize("patch", [(4, 25), (8, 9), (271, 20)])
def test_signals_keep_their_shape(n_channels, n_times, conditioning, patch):
    model = small_unet(n_channels, n_times, patch=patch, conditioning=conditioning)
    y = torch.randn(1, n_channels, n_times)
    assert model(y, torch.tensor([3]), torch.randn(1, 7, 6)).shape == y.shape


def test_single_values_are_cells_by_default():
    model = UNet(["A"] * 5, 9, context_width=6, widths=(32, 32), layers=1, heads=2)
    assert model.network.conv_in.in_channels == 1
    y = torch.randn(2, 5, 9)
    assert model(y, torch.tensor([3, 4]), torch.randn(2, 7, 6)).shape == y.shape


def test_output_is_zero_at_initialization(batch):
    assert not small_unet()(*batch).any()


@pytest.mark.parametrize("patch", [(2, 2), (4, 3), (6, 1), (1, 1)])
def test_cells_hold_every_value_once_and_zeros_beside(batch, patch):
    model = small_unet(patch=patch)
    cells = model._to_cells(batch[0])
    assert cells.ne(0).sum() == batch[0].numel()
    torch.testing.assert_close(model._from_cells(cells), batch[0])


def test_cells_are_patches_of_a_plane_whose_rows_are_ordered_by_region(batch):
    plane = batch[0][:, [0, 2, 4, 1, 3, 5]]
    cells = small_unet()._to_cells(batch[0])
    patch = plane[:, 2:4, 4:6]  # second row, third column
    torch.testing.assert_close(cells[:, :, 1, 2], patch.flatten(1))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_condition_and_time_change_the_output(batch, conditioning):
    model = awake(small_unet(conditioning=conditioning))
    y, t, context = batch
    output = model(y, t, context)
    assert not torch.allclose(output, model(y, t, context.flip(0)))
    assert not torch.allclose(output, model(y, t.flip(0), context))


def test_cross_attention_sees_tokens_and_the_others_their_mean(batch):
    y, t, context = batch
    other = context.clone()
    other[:, 0] += 1
    other[:, 1] -= 1
    for conditioning in CONDITIONINGS:
        model = awake(small_unet(conditioning=conditioning))
        same = torch.allclose(model(y, t, other), model(y, t, context), atol=1e-5)
        assert same == (conditioning != "cross")


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_parameter_has_a_gradient_once_awake(batch, conditioning):
    model = awake(small_unet(conditioning=conditioning))
    (model(*batch) - batch[0]).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    still = [n for n, p in model.named_parameters() if not p.grad.abs().max() > 1e-9]
    # A bias of the keys shifts all scores alike: softmax cannot see it.
    assert [n for n in still if not n.endswith("to_k.bias")] == []


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_handful_of_pairs_is_learned_by_heart(batch, conditioning):
    """Inputs and times are alike: without the condition two thirds would be left."""
    wanted, _, context = batch
    y, t = torch.zeros(3, 6, 10), torch.full((3,), 1000)
    model = small_unet(conditioning=conditioning)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(60):
        loss = (model(y, t, context) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * wanted.square().mean()  # which the output 0 would leave


def test_unknown_conditioning():
    with pytest.raises(ValueError, match="conditioning must be one .*mean 'concat'"):
        small_unet(conditioning="concatenate")


@pytest.mark.parametrize(("widths", "heads"), [((32, 44), 2), ((32, 64), 5)])
def test_widths_that_cannot_be_split(widths, heads):
    with pytest.raises(ValueError, match=rf"{heads} heads and of the 8 groups"):
        small_unet(widths=widths, heads=heads)
