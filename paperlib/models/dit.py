"""The diffusion transformer with cross-attention (paper, sections 3.2.1 to 3.2.4).

What the paper leaves open, and what is done here:

- The timestep enters through adaLN-Zero: each block scales, shifts and gates its
  self-attention and its MLP (6 vectors a block; with ``cross_modulation`` 9).
- Cross-attention is pre-norm and ungated; its output projection starts at zero.
- Every block is the identity at initialization and the network's output is zero. With
  ``open_gates`` only the last layer starts at zero: the gates start at 1 and
  cross-attention at Xavier's weights, so that already in the first step the last layer
  sees features of the image. Where the image explains a small part of the signal, a
  network of closed gates stays on the saddle where it begins.
- Position codes start at unit variance, the size of a patch's embedding: smaller ones
  drown in the noise of the patch and take far longer to be told apart.
- Padding never leaves the network: signals of shape (B, C, T) go in and come out. The
  padded entries of the grid are zeros on the way in and are dropped on the way out,
  so the loss cannot see them.
- Keys and values of the condition depend on neither noise nor timestep. They are
  computed once by :meth:`DiT.encode_context` and used at every sampling step; all
  samples of an image attend to one copy of them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paperlib.models.layout import PatchLayout, patch_layout

FREQUENCIES = 256  # width of the sinusoidal code of a timestep

KeysValues = list[tuple[Tensor, Tensor]]


class DiT(nn.Module):
    """Predict noise (or velocity) of a signal, given timestep and condition tokens.

    Parameters
    ----------
    regions : sequence of str
        Brain region of each channel.
    n_times : int
        Time points of a signal.
    context_width : int
        Width of the condition tokens (768 for CLIP ViT-L/14).
    width, depth, heads, mlp_ratio
        Size of the transformer; the paper's 768, 12, 12, 4.0.
    patch : sequence of int
        Channels and time points of a patch; the paper's (4, 4).
    padding : {"region", "global"}
        See :func:`paperlib.models.layout.patch_layout`.
    region_embedding, temporal_embedding : bool
        Learned position codes of section 3.2.4.
    row_embedding : bool
        A code for each row of patches. Without it the rows of one region are
        exchangeable: permuting them in the input permutes the output.
    cross_modulation : bool
        Modulate and gate cross-attention by the timestep as well.
    open_gates : bool
        Start with open gates instead of as the identity.

    Attributes
    ----------
    checkpointing : bool
        While training, compute the blocks' activations again for the gradient instead
        of keeping them: less memory, more time, the same gradient.
    """

    def __init__(
        self,
        regions: list[str],
        n_times: int,
        *,
        context_width: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        patch: tuple[int, int],
        padding: str = "region",
        region_embedding: bool = True,
        temporal_embedding: bool = True,
        row_embedding: bool = False,
        cross_modulation: bool = False,
        open_gates: bool = False,
    ):
        super().__init__()
        self.checkpointing = False
        self.layout = patch_layout(regions, n_times, patch=patch, padding=padding)
        patch_size = math.prod(self.layout.patch)
        self.embed_patch = nn.Linear(patch_size, width)
        self.position = Position(
            self.layout,
            width,
            region=region_embedding,
            temporal=temporal_embedding,
            row=row_embedding,
        )
        self.embed_time = nn.Sequential(
            nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, context_width, cross_modulation)
            for _ in range(depth)
        )
        self.modulate_output = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.unembed_patch = nn.Linear(width, patch_size)
        pieces = torch.tensor(self.layout.pieces)
        self.register_buffer("pieces", pieces, persistent=False)
        self._initialize(open_gates)

    def forward(self, y: Tensor, t: Tensor, context: Tensor | KeysValues) -> Tensor:
        """Apply the network.

        Parameters
        ----------
        y : Tensor of shape (B, C, T)
            Noisy signals.
        t : Tensor of shape (B,)
            Timesteps, 1 ... the number of diffusion steps.
        context : Tensor of shape (N, L, context_width), or its keys and values
            Condition tokens, or what :meth:`encode_context` made of them. Each of N
            images conditions B / N signals in a row.

        Returns
        -------
        Tensor of shape (B, C, T)

        Raises
        ------
        ValueError
            If B is not a multiple of N.
        """
        if isinstance(context, Tensor):
            context = self.encode_context(context)
        _check_shares(len(y), len(context[0][0]))
        x = self.embed_patch(self._to_patches(y)) + self.position()  # B N D
        time = self.embed_time(timestep_code(t))  # B D
        for block, keys_values in zip(self.blocks, context, strict=True):
            if self.checkpointing and self.training:
                x = checkpoint(block, x, time, keys_values, use_reentrant=False)
            else:
                x = block(x, time, keys_values)
        shift, scale = self.modulate_output(time).unsqueeze(1).chunk(2, dim=-1)
        x = self.unembed_patch(modulate(x, shift, scale))  # B N ph*pw
        return self._from_patches(x)

    def encode_context(self, context: Tensor) -> KeysValues:
        """Return keys and values of the condition for every block.

        Parameters
        ----------
        context : Tensor of shape (B, L, context_width)

        Returns
        -------
        list of (Tensor, Tensor), each of shape (B, heads, L, width / heads)
        """
        return [block.cross_attention.keys_values(context) for block in self.blocks]

    def _to_patches(self, y: Tensor) -> Tensor:
        columns, (height, width) = self.layout.n_columns, self.layout.patch
        if padding := columns * width - self.layout.n_times:
            y = F.pad(y, (0, padding))
        pieces = y.unflatten(2, (columns, width)).flatten(1, 2)  # B C*columns pw
        x = y.new_zeros(len(y), self.layout.n_patches * height, width)
        x.index_copy_(1, self.pieces, pieces)  # B N*ph pw
        return x.unflatten(1, (-1, height)).flatten(2)  # B N ph*pw

    def _from_patches(self, x: Tensor) -> Tensor:
        pieces = x.unflatten(2, self.layout.patch).flatten(1, 2)  # B N*ph pw
        y = pieces.index_select(1, self.pieces)  # B C*columns pw
        y = y.unflatten(1, (-1, self.layout.n_columns)).flatten(2)  # B C T'
        return y[..., : self.layout.n_times]  # B C T

    def _initialize(self, open_gates: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for index in (0, 2):  # small, so that timesteps start out alike
            nn.init.normal_(self.embed_time[index].weight, std=0.02)
        for block in self.blocks:
            block.start_open() if open_gates else block.start_as_identity()
        for layer in (self.modulate_output[1], self.unembed_patch):
            nn.init.zeros_(layer.weight)  # the output is zero at first


class Position(nn.Module):
    """Sum of the learned position codes (paper, section 3.2.4)."""

    def __init__(
        self,
        layout: PatchLayout,
        width: int,
        *,
        region: bool,
        temporal: bool,
        row: bool,
    ):
        super().__init__()
        row_index = torch.arange(layout.n_rows).repeat_interleave(layout.n_columns)
        columns = torch.arange(layout.n_columns).repeat(layout.n_rows)
        regions = torch.tensor(layout.row_regions)[row_index]
        wanted = {
            "region": (region, layout.n_regions, regions),
            "temporal": (temporal, layout.n_columns, columns),
            "row": (row, layout.n_rows, row_index),
        }
        self.width = width
        self.tables = nn.ParameterDict()
        for name, (is_used, size, index) in wanted.items():
            if is_used:
                self.tables[name] = nn.Parameter(torch.randn(size, width))
                self.register_buffer(f"{name}_index", index, persistent=False)

    def forward(self) -> Tensor | float:
        """Return codes of shape (N, D), or 0 without any table."""
        return sum(
            table[getattr(self, f"{name}_index")] for name, table in self.tables.items()
        )


class Block(nn.Module):
    """Self-attention, cross-attention to the condition, MLP."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        context_width: int,
        cross_modulation: bool,
    ):
        super().__init__()
        self.self_attention = Attention(width, heads, context_width=width)
        self.cross_attention = Attention(width, heads, context_width=context_width)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(hidden, width),
        )
        self.vectors = 9 if cross_modulation else 6
        self.modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(width, self.vectors * width)
        )

    def forward(self, x: Tensor, time: Tensor, context: tuple[Tensor, Tensor]):
        """Transform tokens ``x`` (B, N, D) at times (B, D)."""
        vectors = self.modulation(time).unsqueeze(1).chunk(self.vectors, dim=-1)
        shift, scale, gate = vectors[:3]
        h = modulate(x, shift, scale)
        x = x + gate * self.self_attention(h, self.self_attention.keys_values(h))
        if self.vectors == 9:
            shift, scale, gate = vectors[6:]
            x = x + gate * self.cross_attention(modulate(x, shift, scale), context)
        else:
            x = x + self.cross_attention(normalize(x), context)
        shift, scale, gate = vectors[3:6]
        return x + gate * self.mlp(modulate(x, shift, scale))

    def start_as_identity(self) -> None:
        """Zero what a block adds; a gated cross-attention is closed by its gate."""
        nn.init.zeros_(self.modulation[1].weight)
        if self.vectors == 6:
            nn.init.zeros_(self.cross_attention.output.weight)

    def start_open(self) -> None:
        """Set the gates to 1 at every timestep."""
        nn.init.zeros_(self.modulation[1].weight)
        vectors = self.modulation[1].bias.data.chunk(self.vectors)
        for gate in vectors[2::3]:
            gate.fill_(1.0)


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be computed beforehand."""

    def __init__(self, width: int, heads: int, *, context_width: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.output = nn.Linear(width, width)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Project ``context`` (B, L, D) to keys and values (B, heads, L, D / heads)."""
        return self._split(self.key(context)), self._split(self.value(context))

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        """Attend from ``x`` (B, N, D) to keys and values of B or fewer contexts.

        Queries do not see each other: those of all samples that share a context form
        one long sequence, and its keys and values need no copy for each sample.
        """
        keys, values = keys_values
        queries = self.query(x).reshape(len(keys), -1, x.shape[-1])  # B/K K*N D
        attended = F.scaled_dot_product_attention(
            self._split(queries), keys, values
        )  # B/K H K*N D/H
        return self.output(attended.transpose(1, 2).reshape(x.shape))  # B N D

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B H L D/H


def timestep_code(t: Tensor) -> Tensor:
    """Encode timesteps (B,) as cosines and sines (B, 256), wavelengths up to 10 000."""
    half = FREQUENCIES // 2
    exponent = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def normalize(x: Tensor) -> Tensor:
    """Layer normalization without learned parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalize, then scale and shift."""
    return normalize(x) * (1 + scale) + shift


def _check_shares(n_signals: int, n_contexts: int) -> None:
    if n_signals % n_contexts:
        raise ValueError(
            f"{n_signals} signals cannot be shared out evenly among the tokens of "
            f"{n_contexts} images. Give tokens for each signal, or as many signals "
            "for every image."
        )
