"""Networks of torchvision and timm to compare with, built without pretrained weights, so that nothing is downloaded."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from rescompile.bench import torch_modules, torchvision_operators
from rescompile.diagnostics.errors import Unavailable, UsageError, nearest, one_of
from rescompile.ir.ops import Shape
from rescompile.runtimes.ort_session import brief


def make(text: str, shape: Shape, seed: int) -> Any:
    """Return the module that `torchvision:resnet50` names, in evaluation mode, with seeded weights and calibrated norms.

    Raises what `constructor` raises, and UsageError if the network does not take this input.
    """
    build = constructor(text)
    torch = torch_modules.library()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        module = build().eval()
        try:
            torch_modules.calibrate(module, shape, seed)
        except Exception as error:  # third-party code
            listed = "x".join(map(str, shape))
            raise UsageError.of("E0802", f"{text} does not accept an input of {listed}: {brief(error)[:200]}") from None
    return module


def constructor(text: str) -> Callable[[], Any]:
    """Return the constructor of the network that `torchvision:resnet50` names. Raises Unavailable if the library is
    missing, and UsageError if it has no such network."""
    library, name = parse(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _LIBRARIES[library](name, text)


def parse(text: str) -> tuple[str, str]:
    """Return the library and the name in `torchvision:resnet50`. Raises UsageError for another form."""
    library, colon, name = text.partition(":")
    if not colon or not name or library not in _LIBRARIES:
        help = (
            nearest(library, _LIBRARIES)
            if colon and name
            else f"write {one_of(f'{known}:NAME' for known in _LIBRARIES)}"
        )
        raise UsageError.of("E0802", f"--compare {text}: peers must come from {one_of(_LIBRARIES)}", help=help)
    return library, name


def _torchvision(name: str, text: str) -> Callable[[], Any]:
    models = _imported("torchvision.models", text)
    if name not in models.list_models(module=models):
        raise _unknown(text, models.list_models(module=models))
    return partial(models.get_model, name, weights=None)


def _timm(name: str, text: str) -> Callable[[], Any]:
    timm = _imported("timm", text)
    if not timm.is_model(name):
        raise _unknown(text, timm.list_models())
    return partial(timm.create_model, name, pretrained=False)


def _imported(module: str, text: str) -> Any:
    """Return a library of networks, even if torchvision's operators cannot be loaded. Raises Unavailable if it is missing."""
    package = module.partition(".")[0]
    try:
        try:
            return import_module(module)
        except RuntimeError as error:
            if "torchvision::nms does not exist" not in str(error):
                raise
        for name in [name for name in sys.modules if name.partition(".")[0] in _LIBRARIES]:
            del sys.modules[name]
        torchvision_operators.declare()
        return import_module(module)
    except (ImportError, RuntimeError) as error:
        message = f"{text} needs {package}, which cannot be loaded: {error}"
        raise Unavailable.of("E0902", message, help=f"pip install {package}") from None


def _unknown(text: str, known: Any) -> UsageError:
    library, name = text.split(":", 1)
    return UsageError.of("E0801", f"{library} has no network '{name}'", help=nearest(name, known))


_LIBRARIES: Mapping[str, Callable[[str, str], Callable[[], Any]]] = {"torchvision": _torchvision, "timm": _timm}
