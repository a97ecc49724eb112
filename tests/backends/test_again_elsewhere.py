"""`again` on values of another rank: targets with one module class per number of axes raise `Unavailable` and name both classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rescompile
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network
from rescompile.weights import draw

torch = pytest.importorskip("torch", reason="runs one of the targets: pip install torch")

from frameworks import FRAMEWORKS
from sources import agree, drawn
from spec_texts import elaborated

NETWORK = """
rescompile: 1
name: elsewhere
input: {input}
network:
- it: {step}
- global_avgpool
- flatten
{steps}
"""
INPUTS = ("[4, 8]", "[4, 5, 6]", "[4, 2, 5, 6]")
#: Steps that one PyTorch module computes for any number of axes.
ANY = (
    "{norm: {kind: group, groups: 2}}",
    "{affine: {per: channel}}",
    "prelu",
    "{prelu: {per: one}}",
    "tanh",
    "{dropout: 0.5}",
)
#: Steps with one module class per number of axes: for each of INPUTS, the class on the input and the class on the
#: vector after the pool.
EACH = {
    "norm": (("BatchNorm1d", "BatchNorm1d"), ("BatchNorm2d", "BatchNorm1d"), ("BatchNorm3d", "BatchNorm1d")),
    "{norm: {kind: layer}}": (("LayerNorm1d", "LayerNorm"), ("LayerNorm2d", "LayerNorm"), ("LayerNorm3d", "LayerNorm")),
}


def network(step: str, axes: int, steps: str, folder: Path) -> Network:
    return elaborated(NETWORK.format(input=INPUTS[axes], step=step, steps=steps), folder)


@pytest.mark.parametrize("axes", range(3))
@pytest.mark.parametrize("step", [*ANY, *EACH])
def test_again_on_a_vector(step: str, axes: int, tmp_path: Path) -> None:
    """A step that runs again on a vector computes what the interpreter computes, or is refused with the names of both
    module classes."""
    net = network(step, axes, "- {again: it}", tmp_path)
    first, second = EACH[step][axes] if step in EACH else ("", "")
    if first != second:
        with pytest.raises(Unavailable, match=f"^E0901: it runs again .*{second}'.*{first}'"):
            rescompile.build(net, "source")
        return
    x = np.random.default_rng(0).standard_normal((2, *net.input)).astype(np.float32)
    weights = draw(net, 0)
    module = rescompile.build(net, "torch", weights=weights).module
    with torch.no_grad():
        output = module.eval()(torch.from_numpy(x)).numpy()
    assert np.abs(output - interpret(net, weights, x)["logits"]).max() < 1e-5


#: The layers that Keras calls on values of one rank only.
KERAS = {
    "norm": "BatchNormalization",
    ANY[0]: "GroupNormalization",
    **dict.fromkeys(("prelu", "{prelu: {per: one}}"), "PReLU"),
}


@pytest.mark.parametrize("axes", range(3))
@pytest.mark.parametrize("step", [*ANY, *EACH])
def test_again_on_a_vector_in_keras(step: str, axes: int, tmp_path: Path) -> None:
    """The same in Keras, where some layers accept only the rank of their first input."""
    net = network(step, axes, "- {again: it}", tmp_path)
    if layer := KERAS.get(step):
        message = f"^E0901: it runs again .*'layers.{layer} with ndim=2', .*'layers.{layer} with ndim={axes + 3}'"
        with pytest.raises(Unavailable, match=message):
            rescompile.build(net, "keras")
        return
    weights, x = drawn(net, 0)
    models = FRAMEWORKS["keras"].models
    with models.in_double():
        agree(net, weights, x, models.evaluated(net, weights, x))


@pytest.mark.parametrize("pool", ["global_avgpool", "global_maxpool"])
def test_again_on_a_map_of_another_rank(pool: str, tmp_path: Path) -> None:
    """Pools have no tensors but one function per number of axes, so a pool cannot run again at another rank."""
    net = network(
        "tanh",
        1,
        f"- {{unflatten: {{rank: 2}}}}\n- pool: {pool}\n- flatten\n- {{unflatten: {{rank: 3}}}}\n- {{again: pool}}",
        tmp_path,
    )
    with pytest.raises(Unavailable, match="pool runs again"):
        rescompile.build(net, "source")
