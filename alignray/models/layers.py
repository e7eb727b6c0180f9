"""The layers that the families are made of, where torch has none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CODES = 5
_MEAN, _STD = (_CODES - 1) / 2, ((_CODES**2 - 1) / 12) ** 0.5  # of codes that are equally frequent


class Residual(nn.Module):
    """``x + block(x)``: one block of a residual network, widths unchanged."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width] → [..., width]``."""
        response: Tensor = self.block(x)
        return x + response


class CodeEmbedding(nn.Module):
    """A vector for each of the five codes of each feature, as if the codes were one-hot and a linear layer followed.

    A code arrives as the panel standardises it. A number between two codes gets what lies between their vectors, in
    proportion (the piecewise linear encoding of Gorishniy et al. 2022, arXiv:2203.05556, with a vector at each knot),
    so rounding does no harm and a feature that is no code is read as well; beyond the outer codes it counts as these.

    Args:
        num_features: d.
        size: e, the numbers of a vector.
    """

    def __init__(self, num_features: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_features, _CODES, size))

    def forward(self, features: Tensor) -> Tensor:
        """``[..., d] → [..., d·e]``."""
        codes = (features * _STD + _MEAN).clamp(0, _CODES - 1)
        knots = torch.arange(_CODES, dtype=codes.dtype, device=codes.device)
        shares = (1 - (codes.unsqueeze(-1) - knots).abs()).relu()  # [..., d, 5], one-hot at a code
        return torch.einsum("...dc,dce->...de", shares, self.weight).flatten(-2)


class AdaptedLinear(nn.Module):
    """k linear layers ``s_i ⊙ W(r_i ⊙ x) + b_i`` that share their weights W.

    This is BatchEnsemble's layer (Wen et al. 2020, arXiv:2002.06715), begun as TabM begins it: all adapters are 1 but
    those that tell the copies apart.

    Args:
        inputs: Numbers in.
        outputs: Numbers out.
        copies: k.
        first: Whether this layer tells the copies apart: its r are random signs.
    """

    def __init__(self, inputs: int, outputs: int, copies: int, *, first: bool) -> None:
        super().__init__()
        self.shared = nn.Linear(inputs, outputs, bias=False)
        signs = torch.randint(2, (copies, inputs)) * 2.0 - 1.0
        self.r = nn.Parameter(signs if first else torch.ones(copies, inputs))
        self.s = nn.Parameter(torch.ones(copies, outputs))
        self.bias = nn.Parameter(torch.empty(copies, outputs).uniform_(-(inputs**-0.5), inputs**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., k or 1, inputs] → [..., k, outputs]``."""
        response: Tensor = self.shared(x * self.r)
        return torch.addcmul(self.bias, response, self.s)


class MeanOfHeads(nn.Module):
    """The mean of k predictions, each by a linear head of its own.

    Args:
        inputs: Numbers in.
        copies: k.
    """

    def __init__(self, inputs: int, copies: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(copies, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(copies).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., k, inputs] → [..., 1]``."""
        return ((x * self.weight).sum(-1) + self.bias).mean(-1, keepdim=True)


class EraBlock(nn.Module):
    """A residual block whose rows see a summary of their era: ``x_i + act(W h_i + V pool(h))``, h the normalised x.

    The sum over rows in it is that of deep sets (Zaheer et al. 2017, arXiv:1703.06114); with attention, learned
    weightings of the rows take the mean's place, as in the pooling of the Set Transformer (Lee et al. 2019,
    arXiv:1810.00825). Either costs a multiple of the rows, not of their square.

    Args:
        width: Numbers in and out.
        heads: Learned weightings of the rows; 0 for their mean.
        norm: What normalises x.
        response: What follows the sum: the activation, and dropout if any.
    """

    def __init__(self, width: int, heads: int, *, norm: nn.Module, response: nn.Module) -> None:
        super().__init__()
        self.norm, self.response = norm, response
        self.own = nn.Linear(width, width)
        self.score = nn.Linear(width, heads) if heads else None
        self.context = nn.Linear(width * max(heads, 1), width, bias=False)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """``[..., n, width] → [..., n, width]``; rows that are not present ``[..., n]`` are seen by none."""
        h: Tensor = self.norm(x)
        scores = self.score(h) if self.score is not None else torch.zeros_like(h[..., :1])  # [..., n, heads]
        if present is not None:
            scores = scores.masked_fill(~present.unsqueeze(-1), torch.finfo(scores.dtype).min)
        summary = (scores.softmax(-2).mT @ h).flatten(-2).unsqueeze(-2)
        response: Tensor = self.response(self.own(h) + self.context(summary))
        return x + response


class EraSequential(nn.Sequential):
    """Layers one after another, those that look across the rows of an era told which are present."""

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """``[..., n, d] → [..., n, 1]``, with ``present [..., n]`` or None for all."""
        x = features
        for layer in self:
            x = layer(x, present) if isinstance(layer, EraBlock) else layer(x)
        return x
