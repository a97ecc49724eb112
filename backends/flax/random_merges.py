"""Functions and modules with which training in Flax drops and mixes branches."""

from __future__ import annotations

from rescompile.codegen.channels_last import shared

#: By name; each follows those that it uses itself.
RANDOM_MERGES: dict[str, str] = {
    "survive": '''
def survive(
    block: nnx.Module,
    survival: float,
    kept: Callable[..., jax.Array],
    dropped: Callable[..., jax.Array],
    *values: jax.Array,
) -> jax.Array:
    """Call `kept`; in training only with probability `survival`, else `dropped`."""
    if block.deterministic:
        return kept(block, *values)
    coin = jax.random.bernoulli(block.rngs(), survival)
    return nnx.cond(coin, kept, dropped, block, *values)
''',
    "drop_samples": '''
def drop_samples(x: jax.Array, survival: float, key: jax.Array) -> jax.Array:
    """Keep each sample of a batch with probability `survival`; set the others to zero."""
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    return jnp.where(jax.random.bernoulli(key, survival, shape), x, 0)
''',
    **shared("jax.Array", "jnp", "mixed", "average_kept"),
    "shake": '''
def shake(branches: list[jax.Array], block: nnx.Module, per_sample: bool) -> jax.Array:
    """Compute the mean; in training a random one, and for gradients another."""
    x = jnp.stack(branches)
    if block.deterministic:
        return jnp.mean(x, axis=0)
    samples = x.shape[1] if per_sample else 1
    shape = (2, x.shape[0], samples) + (1,) * (x.ndim - 2)
    return mixed(x, jax.random.exponential(block.rngs(), shape))
''',
    "DropPath": '''
class DropPath(nnx.Module):
    """Average branches; in training, those that drop-path keeps.

    With probability `share`, all merges keep the branch of one of `columns` alone: they
    have the same `key`. Else, each drops each of its branches with probability `rate`, but
    not all.
    """

    def __init__(
        self,
        rate: float,
        columns: int,
        share: float,
        per_sample: bool,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.rate = rate
        self.columns = columns
        self.share = share
        self.per_sample = per_sample
        self.deterministic = False  # set by train() and eval()
        self.rngs = rngs.dropout.fork()
        self.key = nnx.RngKey(rngs.dropout(), tag="column")

    def __call__(self, branches: list[jax.Array]) -> jax.Array:
        x = jnp.stack(branches)
        if self.deterministic:
            return jnp.mean(x, axis=0)
        shape = (x.shape[1] if self.per_sample else 1,)
        which, whether = jax.random.split(self.key[...])
        column = jax.random.randint(which, shape, 0, self.columns)
        column = jnp.where(jax.random.uniform(whether, shape) < self.share, column, -1)
        column = column.reshape(shape + (1,) * (x.ndim - 2))
        draws = jax.random.uniform(self.rngs(), (x.shape[0], *column.shape))
        return average_kept(x, self.rate, draws, column)
''',
    "choose_columns": '''
def choose_columns(network: nnx.Module, key: jax.Array) -> None:
    """Give all merges one key, so that they keep the same column in this step."""
    for _, module in nnx.iter_modules(network):
        if isinstance(module, DropPath):  # its key is several ones in a scan
            module.key[...] = jnp.broadcast_to(key, module.key.shape)
''',
}
