"""Functions and modules with which training in MLX drops and mixes branches."""

from __future__ import annotations

from rescompile.codegen.channels_last import shared

#: By name; each follows those that it uses itself.
RANDOM_MERGES: dict[str, str] = {
    "drop_samples": '''
def drop_samples(x: mx.array, survival: float) -> mx.array:
    """Keep each sample of a batch with probability `survival`; set the others to zero."""
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    return mx.where(mx.random.bernoulli(survival, shape), x, 0)
''',
    **shared("mx.array", "mx", "mixed", "average_kept"),
    "shake": '''
def shake(branches: list[mx.array], training: bool, per_sample: bool) -> mx.array:
    """Compute the mean; in training a random one, and for gradients another."""
    x = mx.stack(branches)
    if not training:
        return mx.mean(x, axis=0)
    samples = x.shape[1] if per_sample else 1
    shape = (2, x.shape[0], samples) + (1,) * (x.ndim - 2)
    return mixed(x, -mx.log(1 - mx.random.uniform(shape=shape)))
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
        self.column = (mx.array([-1]),)  # in a tuple, an array is not a parameter

    def __call__(self, branches: list[mx.array]) -> mx.array:
        x = mx.stack(branches)
        if not self.training:
            return mx.mean(x, axis=0)
        column = self.column[0].reshape([-1] + [1] * (x.ndim - 2))
        draws = mx.random.uniform(shape=(x.shape[0], *column.shape))
        return average_kept(x, self.rate, draws, column)
''',
    "choose_columns": '''
def choose_columns(network: nn.Module, count: int, columns: int, share: float) -> None:
    """With probability `share`, choose one column that all merges keep in this step."""
    column = mx.random.randint(0, columns, [count])
    column = mx.where(mx.random.uniform(shape=[count]) < share, column, -1)
    for module in network.modules():
        if isinstance(module, DropPath):
            module.column = (column,)
''',
}
