"""The first version's noise predictor: a U-Net with cross-attention.

The first version of the paper (2025) denoises signals with a U-Net that attends to CLIP
image tokens, and compares cross-attention with concatenation and with addition of the
image's embedding. Of its network no more than that is public. Here it is the
conditional U-Net of diffusers on the plane of channels and times; what was left open:

- Channels are ordered by brain region, so that neighboring rows are neighbors.
- Attention works on every level but the first, whose resolution is the signal's.
- With ``add`` and ``concat`` the mean token is projected to the width of the timestep's
  code and added to it or set beside it; every residual block sees the result. What
  attends to the tokens otherwise attends to the signal's own features then.
- The output starts at zero, as the transformer's does.
- The plane is padded with zeros to whole patches, and what was padded is dropped from
  the output, so the loss cannot see it. Levels of odd size need no further padding.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paperlib.models.layout import patch_layout
from paperlib.validation import check_option

CONDITIONINGS = ("cross", "concat", "add")


class UNet(nn.Module):
    """Predict noise (or velocity) of a signal, given timestep and condition tokens.

    With the widths 128, 256, 512, two layers a level, 8 heads, patches of one value and
    tokens of width 768 it has 101,297,665 parameters with cross-attention, 101,625,857
    with concatenation and 98,807,809 with addition, whatever the size of the signals.

    ``widths`` are the features of each level, ``layers`` its residual blocks; each
    level halves the resolution. A ``patch`` of channels and time points is the input
    of one cell: (1, 1) treats the signal as an image, (number of channels, 1) as a time
    series. Normalization works on groups of 4 features or more: on single ones it would
    undo the timestep's code, which is added to whole features.
    """

    def __init__(
        self,
        regions: Sequence[str],
        n_times: int,
        *,
        context_width: int,
        widths: Sequence[int],
        layers: int,
        heads: int,
        patch: Sequence[int] = (1, 1),
        conditioning: str = "cross",
    ):
        super().__init__()
        check_option("conditioning", conditioning, CONDITIONINGS)
        groups = min(32, widths[0] // 4)
        if any(width % groups or width % heads for width in widths):
            raise ValueError(
                f"Each of widths must be a multiple of the {heads} heads and of the "
                f"{groups} groups of normalized features; got {list(widths)}."
            )
        self.conditioning = conditioning
        self.layout = patch_layout(regions, n_times, patch=patch, padding="global")
        features, deeper = math.prod(self.layout.patch), len(widths) - 1
        if conditioning == "cross":
            entrance = {"cross_attention_dim": context_width}
        else:
            entrance = {
                "cross_attention_dim": tuple(widths),  # of the signal's own features
                "class_embed_type": "simple_projection",
                "projection_class_embeddings_input_dim": context_width,
                "class_embeddings_concat": conditioning == "concat",
            }
        from diffusers import UNet2DConditionModel  # takes seconds to import

        self.network = UNet2DConditionModel(
            in_channels=features,
            out_channels=features,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            norm_num_groups=groups,
            attention_head_dim=heads,  # the number of heads, despite its name
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * deeper,
            up_block_types=("CrossAttnUpBlock2D",) * deeper + ("UpBlock2D",),
            **entrance,
        )
        nn.init.zeros_(self.network.conv_out.weight)
        nn.init.zeros_(self.network.conv_out.bias)
        rows = torch.tensor(self.layout.channel_rows)
        self.register_buffer("channel_rows", rows, persistent=False)

    def forward(self, y: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return the noise or velocity of signals (B, C, T) at timesteps (B,)."""
        x = self._to_cells(y)  # B ph*pw rows columns
        if self.conditioning == "cross":
            x = self.network(x, t, context).sample
        else:
            x = self.network(x, t, None, class_labels=context.mean(dim=1)).sample
        return self._from_cells(x)

    def _to_cells(self, y: Tensor) -> Tensor:
        rows, columns = self.layout.n_rows, self.layout.n_columns
        height, width = self.layout.patch
        plane = y.new_zeros(len(y), rows * height, columns * width)  # B C' T'
        plane[:, self.channel_rows, : self.layout.n_times] = y
        cells = plane.view(-1, rows, height, columns, width)
        return cells.permute(0, 2, 4, 1, 3).flatten(1, 2)  # B ph*pw rows columns

    def _from_cells(self, x: Tensor) -> Tensor:
        height, width = self.layout.patch
        plane = x.unflatten(1, (height, width)).permute(0, 3, 1, 4, 2)
        plane = plane.flatten(3, 4).flatten(1, 2)  # B C' T'
        return plane[:, self.channel_rows, : self.layout.n_times]  # B C T
