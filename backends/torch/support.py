"""Functions and modules that a file requires and PyTorch lacks."""

from __future__ import annotations

from rescompile.codegen.axis_texts import at_axes

#: Modules whose text depends on the number of axes of the map, by name; those for two axes are listed first.
_BY_AXES: dict[str, str] = {
    "PadChannels$d": '''
class PadChannels$d(nn.Module):
    """Zero-pad the channels to a total of `channels`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, ($none, 0, self.channels - x.shape[1]))
''',
    "StandardisedConv${n}d": '''
class StandardisedConv${n}d(nn.Conv${n}d):
    """Convolve with weights of mean 0 and variance 1 in each output channel."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | $tuple,
        stride: int | $tuple = 1,
        padding: int | $tuple = 0,
        dilation: int | $tuple = 1,
        groups: int = 1,
        bias: bool = True,
        eps: float = 1e-05,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
        )
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, [1, $inner], correction=0, keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(variance + self.eps)
        return F.conv${n}d(
            x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
''',
    "ScaledConv${n}d": '''
class ScaledConv${n}d(nn.Conv${n}d):
    """Convolve with weights of mean 0 and variance 1 over fan-in, times a learned gain."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | $tuple,
        stride: int | $tuple = 1,
        padding: int | $tuple = 0,
        dilation: int | $tuple = 1,
        groups: int = 1,
        bias: bool = True,
        eps: float = 1e-05,
        gamma: float = 1.0,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
        )
        self.gain = nn.Parameter(torch.full((out_channels, 1, $ones), 1.0))
        self.scale = gamma / math.sqrt(self.weight[0].numel())
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, [1, $inner], correction=0, keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(variance + self.eps)
        weight = weight * (self.gain * self.scale)
        return F.conv${n}d(
            x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
''',
    "LayerNorm${n}d": '''
class LayerNorm${n}d(nn.LayerNorm):
    """Normalise the channels of each position of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, $inner, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, $back)
''',
}


#: Words of these texts by the number of axes: the axes of a map, the order that moves channels from the last place, and padding
#: of no axis.
_WORDS = {
    1: {"inner": "2", "back": "2, 1", "none": "0, 0"},
    2: {"inner": "2, 3", "back": "3, 1, 2", "none": "0, 0, 0, 0"},
    3: {"inner": "2, 3, 4", "back": "4, 1, 2, 3", "none": "0, 0, 0, 0, 0, 0"},
}

#: By name.
SUPPORT: dict[str, str] = {
    "drop_samples": '''
def drop_samples(x: Tensor, survival: float) -> Tensor:
    """Keep each sample of a batch with probability `survival`; set the others to zero."""
    kept = torch.rand([x.shape[0]] + [1] * (x.dim() - 1), device=x.device) < survival
    return x * kept
''',
    "shake": '''
def shake(branches: list[Tensor], training: bool, per_sample: bool) -> Tensor:
    """Compute the mean; in training a random one, and for gradients another."""
    x = torch.stack(branches)
    if not training:
        return x.mean(0)
    samples = x.shape[1] if per_sample else 1
    draws = torch.rand([2, x.shape[0], samples] + [1] * (x.dim() - 2), device=x.device)
    draws = -torch.log(1 - draws)  # shares of all sizes are then equally likely
    forward, backward = (draws / draws.sum(1, keepdim=True)).to(x.dtype).unbind(0)
    return (backward * x + (forward - backward) * x.detach()).sum(0)
''',
    "DropPath": '''
class DropPath(nn.Module):
    """Average branches; in training, those that drop-path keeps.

    `column` has for each draw the number of the one branch that all merges keep, or -1
    where each merge drops each of its branches with probability `rate`, but not all.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.column = torch.tensor([-1], device="cpu")

    def forward(self, branches: list[Tensor]) -> Tensor:
        x = torch.stack(branches)
        if not self.training:
            return x.mean(0)
        column = self.column.to(x.device).view([1, -1] + [1] * (x.dim() - 2))
        numbers = torch.arange(x.shape[0], device=x.device).view([-1] + [1] * (x.dim() - 1))
        chosen = numbers == column
        draws = torch.rand(chosen.shape, device=x.device)
        kept = (draws >= self.rate) | (draws == draws.amax(0, keepdim=True))
        kept = torch.where(chosen.any(0, keepdim=True), chosen, kept).to(x.dtype)
        return (x * kept).sum(0) / kept.sum(0)
''',
    "choose_columns": '''
def choose_columns(
    network: nn.Module, x: Tensor, columns: int, share: float, per_sample: bool
) -> None:
    """With probability `share`, choose one column that all merges keep in this step."""
    count = x.shape[0] if per_sample else 1
    column = torch.randint(columns, [count], device=x.device)
    column = torch.where(torch.rand([count], device=x.device) < share, column, -1)
    for module in network.modules():
        if isinstance(module, DropPath):
            module.column = column
''',
    "recomputed": '''
@torch.jit.unused
def recomputed(
    owner: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Call a method of `owner` without storing its activations; backward calls it again."""
    norms = [
        (module, module.momentum, module.num_batches_tracked)
        for module in owner.modules()
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
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
    "Scale": '''
class Scale(nn.Module):
    """Multiply the input by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor
''',
    "Part": '''
class Part(nn.Module):
    """Take the `number`-th of `of` equal ranges of the channels."""

    def __init__(self, number: int, of: int) -> None:
        super().__init__()
        self.number = number
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        return x.chunk(self.of, 1)[self.number]
''',
    "Subsample": '''
class Subsample(nn.Module):
    """Keep every `height`-th row and every `width`-th column."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.height, :: self.width]
''',
    "Subsample1d": '''
class Subsample1d(nn.Module):
    """Keep every `length`-th position."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.length]
''',
    "Subsample3d": '''
class Subsample3d(nn.Module):
    """Keep every `depth`-th slice, every `height`-th row and every `width`-th column."""

    def __init__(self, depth: int, height: int, width: int) -> None:
        super().__init__()
        self.depth = depth
        self.height = height
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.depth, :: self.height, :: self.width]
''',
    **at_axes(_BY_AXES, _WORDS),
    "Affine": '''
class Affine(nn.Module):
    """Multiply channels by learned factors and add learned offsets; one value serves all channels."""

    def __init__(
        self,
        channels: int,
        scale: bool = True,
        shift: bool = True,
        scale_init: float = 1.0,
    ) -> None:
        super().__init__()
        factors = torch.full((channels,), scale_init)
        self.weight = nn.Parameter(factors) if scale else None
        self.bias = nn.Parameter(torch.zeros(channels)) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        shape = [-1] + [1] * (x.dim() - 2)
        if self.weight is not None:
            x = x * self.weight.view(shape)
        if self.bias is not None:
            x = x + self.bias.view(shape)
        return x
''',
    "WeightedSum": '''
class WeightedSum(nn.Module):
    """Add equal ranges of the channels, each multiplied by a learned share."""

    def __init__(self, ranges: int, softmax: bool = False, eps: float = 1e-05) -> None:
        super().__init__()
        self.softmax, self.eps = softmax, eps
        self.weight = nn.Parameter(torch.full((ranges,), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.softmax(self.weight, 0) if self.softmax else F.relu(self.weight)
        if not self.softmax:
            shares = shares / (shares.sum() + self.eps)
        parts = torch.unflatten(x, 1, (len(shares), -1))
        return (parts * shares.view([-1] + [1] * (x.dim() - 1))).sum(1)
''',
    "RangeSoftmax": '''
class RangeSoftmax(nn.Module):
    """Softmax over equal ranges of the channels, channel by channel."""

    def __init__(self, ranges: int) -> None:
        super().__init__()
        self.ranges = ranges

    def forward(self, x: Tensor) -> Tensor:
        y = torch.softmax(torch.unflatten(x, 1, (self.ranges, -1)), 1)
        return torch.flatten(y, 1, 2)
''',
    "ChannelMean": '''
class ChannelMean(nn.Module):
    """Take the mean over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.mean(x, 1, keepdim=True)
''',
    "ChannelMax": '''
class ChannelMax(nn.Module):
    """Take the maximum over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.amax(x, 1, keepdim=True)
''',
}
