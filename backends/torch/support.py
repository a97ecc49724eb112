"""Functions and modules that a file needs and PyTorch lacks."""

from __future__ import annotations

from rescompile.codegen.program import Recomputed, Thinned
from rescompile.ir import ops

#: By the type of the statement or op that needs them.
SUPPORT: dict[type[object], str] = {
    Thinned: '''
def drop_samples(x: Tensor, survival: float) -> Tensor:
    """Keep each sample of a batch with probability `survival`; set the others to zero."""
    kept = torch.rand([x.shape[0]] + [1] * (x.dim() - 1), device=x.device) < survival
    return x * kept
''',
    Recomputed: '''
@torch.jit.unused
def recomputed(
    owner: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Call a method of `owner` without storing its activations; backward calls it again."""
    norms = [
        (module, module.momentum, module.num_batches_tracked)
        for module in owner.modules()
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    ]

    @contextmanager
    def again() -> Iterator[None]:
        for norm, _, _ in norms:  # update running statistics only once per batch
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, momentum, count in norms:
                norm.momentum, norm.num_batches_tracked = momentum, count

    y: Tensor = checkpoint(
        function, x, use_reentrant=False, context_fn=lambda: (nullcontext(), again())
    )
    return y
''',
    ops.Scale: '''
class Scale(nn.Module):
    """Multiply the input by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor
''',
    ops.Subsample: '''
class Subsample(nn.Module):
    """Keep every `height`-th row and every `width`-th column."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.height, :: self.width]
''',
    ops.PadChannels: '''
class PadChannels(nn.Module):
    """Zero-pad the channels to a total of `channels`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))
''',
}
