"""Generated source as a Python module, and the comparison of its outputs with the interpreter."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import facts
import numpy as np
import torch
from differential import Wrong, random_weights
from numpy.typing import NDArray
from torch import Tensor, nn

from rescompile import backend
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, parameters

Array = NDArray[Any]

#: The largest error of a float64 module against the float64 interpreter, relative to the RMS of the output. A deep network
#: without shortcuts can amplify rounding far more; the bound then grows as a change of the input in the last place does.
BOUND = 1e-9
EPSILON = 1e-15

# So that numbers can be compared bit for bit; small networks are no faster with more threads.
torch.set_num_threads(1)

_backend: Any = backend.load("source")


def source(network: Network, style: str = "classes") -> str:
    """Return the text that the target `source` writes."""
    text: str = _backend.source(network, style)
    return text


def executed(text: str) -> types.ModuleType:
    """Return the file as an executed Python module."""
    home = types.ModuleType("generated")
    exec(compile(text, "generated.py", "exec"), home.__dict__)
    return home


def factory(home: types.ModuleType) -> Callable[[], nn.Module]:
    """Return the function that builds the network: the last one of the file."""
    made: Callable[[], nn.Module] = [v for v in vars(home).values() if isinstance(v, types.FunctionType)][-1]
    return made


def empty(text: str) -> nn.Module:
    """Return the network of a file without weights, on the meta device."""
    with torch.device("meta"):
        return factory(executed(text))()


def filled(text: str, weights: Mapping[str, Array], dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return the network of a file with these weights, in training mode."""
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    module = empty(text)
    module.load_state_dict(tensors, strict=True, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_()
    return module.to(dtype)


def named(result: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of a module by name: a network with one output returns it alone."""
    return result if isinstance(result, dict) else {"logits": result}


def shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Return the keys and shapes of a `state_dict`, in its order."""
    return [(name, tuple(value.shape)) for name, value in module.state_dict().items()]


def tensors_of(network: Network) -> list[tuple[str, tuple[int, ...]]]:
    """Return the names and shapes of the network's parameters, in their order."""
    return [(name, parameter.shape) for name, parameter in parameters(network)]


def compare(network: Network, weights: Mapping[str, Array], x: Array, style: str = "classes") -> None:
    """Compare the executed source with the interpreter, both in float64. Raises Wrong."""
    try:
        text = source(network, style)
        module = empty(text)
    except Exception as error:
        raise Wrong("build", f"no source: {error!r}") from error
    if shapes(module) != tensors_of(network):
        different = set(shapes(module)) ^ set(tensors_of(network))
        raise Wrong("names", f"the state_dict is another: {sorted(different)[:4] or 'in its order'}")
    try:
        module = filled(text, weights).eval()
        with torch.no_grad():
            found = {name: value.numpy() for name, value in named(module(torch.from_numpy(x))).items()}
    except Exception as error:
        raise Wrong("run", f"does not run: {error}") from error
    agree(network, {name: value.numpy() for name, value in module.state_dict().items()}, x, found)


def agree(network: Network, own: Mapping[str, Array], x: Array, found: Mapping[str, Array]) -> None:
    """Compare outputs in float64 with the interpreter. Raises Wrong."""
    exact = interpret(network, own, x)
    if found.keys() != exact.keys():
        raise Wrong("shapes", f"outputs {sorted(found)} instead of {sorted(exact)}")
    for name, value in exact.items():
        if found[name].shape != value.shape:
            raise Wrong("shapes", f"{name}: {found[name].shape} instead of {value.shape}")
        off = apart(found[name], value)
        if off > BOUND and off <= 1e-6:
            off /= max(1.0, apart(interpret(network, own, np.nextafter(x, np.inf))[name], value) / EPSILON)
        if not off <= BOUND:
            raise Wrong("numbers", f"{name}: off by {off:.2g}")


def apart(found: Array, exact: Array) -> float:
    """Return the largest difference, relative to the RMS of the exact output."""
    return float(np.abs(found - exact).max() / (np.sqrt(np.mean(exact**2)) or 1.0))


def drawn(network: Network, seed: int, batch: int = 3) -> tuple[dict[str, Array], Array]:
    """Return random weights under which every bug shows, and an input in float64."""
    x = np.random.default_rng([seed, 2]).standard_normal((batch, *network.input))
    return random_weights(network, x, seed), x


@cache
def text_of(name: str) -> str:
    """Return the source of a network of the zoo."""
    return source(facts.network(name))


# --- the text as a tree -----------------------------------------------------------------------------------------------


class _OutOfPlace(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "inplace"]
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        assert isinstance(node.target, ast.Name)
        return ast.Assign([node.target], ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value))


def out_of_place(text: str) -> str:
    """Return the same file, except that nothing is overwritten in place."""
    return ast.unparse(ast.fix_missing_locations(_OutOfPlace().visit(ast.parse(text))))


class _Blank(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name, value in ast.iter_fields(node):
            if isinstance(value, str):
                setattr(node, name, "")
        return node


def skeleton(text: str) -> str:
    """Return the structure of a file, without any name or string."""
    return ast.dump(_Blank().visit(ast.parse(text)))


def words(text: str) -> Iterator[str]:
    """Yield every name that a file uses: of variables, attributes, classes, functions, arguments and modules."""
    for node in ast.walk(ast.parse(text)):
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(word := getattr(node, field, None), str):
                yield word
