"""Checks of each target on a random case against the interpreter: ONNX Runtime, PyTorch, generated source, and programs
in numpy."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from random import Random
from typing import Any

import numpy as np
import torch
from cases import Array, Case, Fault
from elaboration_facts import difference
from lines import leaves
from program_interpreter import Greedy, Modules, Plain, Stress, run
from random_document import BIG
from torch import nn

import rescompile
from rescompile import backend
from rescompile.analysis.cost import cost
from rescompile.codegen import lowering
from rescompile.codegen.planner import plan_classes
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.elaboration.expect import unmet
from rescompile.ir.network import LOGITS, Network, parameters
from rescompile.passes.drop import droppable

torch.set_num_threads(1)
DIALECTS = {"plain": Plain(), "stress": Stress(), "modules": Modules(), "greedy": Greedy()}
FORMS: tuple[dict[str, Any], ...] = ({}, {"fold_batchnorm": True})
OPSETS = range(13, 27)


def elaboration(case: Case) -> None:
    """Check that the network equals the second reading of its document, and that the `expect` section holds."""
    if wrong := difference(case.drawn.reading, case.network):
        raise Fault("elaboration", wrong)
    if problems := unmet(case.spec, case.network):
        raise Fault("elaboration", str(problems[0].message))


def canonical(case: Case) -> None:
    """Check that the canonical text elaborates to the same text and the same network."""
    path = case.folder / "canonical.yaml"
    path.write_text(case.network.text, encoding="utf-8")
    again = rescompile.elaborate(rescompile.load(path))
    if (again.text, again.sha256) != (case.network.text, case.network.sha256):
        raise Fault("canonical", "another text")
    if again.root != case.network.root or again.outputs != case.network.outputs:
        raise Fault("canonical", "another tree")


def finite(case: Case) -> None:
    """Check that the interpreter's outputs are finite, and that each input gives the same outputs alone as in a batch."""
    from rescompile.ir.interpreter import interpret

    if not all(np.isfinite(value).all() for value in case.reference.exact.values()):
        raise Fault("interpreter", "values that are not finite")
    alone = [interpret(case.network, case.weights, row[None]) for row in case.x]
    case.hold("interpreter", {key: np.concatenate([each[key] for each in alone]) for key in alone[0]}, double=True)


def onnx(case: Case) -> None:
    """Check the ONNX file in ONNX Runtime, folded or not: with one batch, and with batches of one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    for form in FORMS:
        check = f"onnx {' '.join(form)}".strip()
        network, weights = case.passed(form)
        emitted = backend.load("onnx")
        given = backend.checked(emitted, "onnx", {"opset": OPSETS[case.seed % len(OPSETS)]})
        data = emitted.emit(network, weights, **given).to_bytes()
        try:
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            names = [value.name for value in session.get_outputs()]
            runs = [session.run(names, {"input": x}) for x in (case.x, *np.split(case.x, len(case.x)))]
        except Exception as error:
            raise Fault(check, f"does not run: {str(error)[:300]}") from error
        case.hold(check, dict(zip(names, runs[0], strict=True)))
        joined = (np.concatenate(rows) for rows in zip(*runs[1:], strict=True))
        case.hold(f"{check}, one by one", dict(zip(names, joined, strict=True)))
        if not form:
            _initializers(case, data)


def _initializers(case: Case, data: bytes) -> None:
    """Check that the file contains exactly the tensors that evaluation reads."""
    import onnx as library

    held = {tensor.name: tuple(tensor.dims) for tensor in library.load_from_string(data).graph.initializer}
    read = {f"{leaf.name}.{name}" for leaf in leaves(case.drawn.reading.line, True) for name, _ in leaf.made.tensors}
    for name, parameter in parameters(case.network):
        wanted = parameter.shape if name in read and parameter.dtype != "int64" else None
        if held.get(name) != wanted:
            raise Fault("initializers", f"{name}: {held.get(name)} instead of {wanted}")


def executed(text: str) -> nn.Module:
    """Return the module of generated source, on the meta device."""
    home = types.ModuleType("generated")
    exec(compile(text, "generated.py", "exec"), home.__dict__)
    factory = [value for value in vars(home).values() if isinstance(value, types.FunctionType)][-1]
    with torch.device("meta"):
        module: nn.Module = factory()
    return module


def evaluated(module: nn.Module, x: Array) -> dict[str, Array]:
    """Return the outputs of a module in evaluation mode by name."""
    with torch.no_grad():
        found = module.eval()(torch.from_numpy(x))
    named = found if isinstance(found, dict) else {LOGITS: found}
    return {name: value.numpy() for name, value in named.items()}


#: Whether source is flat, and its passes: one of these per seed, since each takes long.
STYLES: tuple[tuple[bool, Mapping[str, Any]], ...] = ((False, FORMS[1]), (True, FORMS[0]), (True, FORMS[1]))


#: Part of the error for a step that runs again on an input with another number of axes than its module supports.
REFUSED = "runs again on an input of"


def source(case: Case) -> bool:
    """Check the PyTorch module in float32 and float64; then, depending on the seed, the folded module or the flat
    source of one of them. Returns whether the target supports the network."""
    writer, maker = backend.load("source"), backend.load("torch")
    for flat, form in ((False, FORMS[0]), STYLES[case.seed % 3]):
        network, weights = case.passed(form)
        check = " ".join(("flat" if flat else "torch", *form))
        try:
            module = executed(writer.source(network, "flat")) if flat else maker.make(network, weights)
        except Exception as error:
            if isinstance(error, Unavailable) and REFUSED in str(error):
                return False
            raise Fault(check, f"no module: {error!r}") from error
        if flat:
            state = {name: torch.from_numpy(np.array(weights[name])) for name in module.state_dict()}
            module.load_state_dict(state, strict=True, assign=True)
        module_agrees(case, network, module, check, folded=bool(form))
    return True


def module_agrees(case: Case, network: Network, module: nn.Module, check: str, folded: bool) -> None:
    """Check that a module has the tensors of the network, and its outputs in float32 and float64."""
    keys = [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
    if keys != [(name, parameter.shape) for name, parameter in parameters(network)]:
        raise Fault(check, "another state_dict")
    if not folded and sum(p.numel() for p in module.parameters()) != cost(network).parameters:
        raise Fault("cost", f"{cost(network).parameters} parameters, the module has another number")
    try:
        case.hold(f"{check} fp32", evaluated(module, case.x))
        outputs = evaluated(module.double(), case.x.astype(np.float64))
    except RuntimeError as error:
        raise Fault(check, f"does not run: {error!r}") from error
    case.hold(f"{check} fp64", outputs, double=not folded)  # folded weights are rounded to float32


def programs(case: Case) -> None:
    """Check the lowered program, run by numpy in four dialects, one of which stresses the lowering."""
    weights = case.doubles
    names, x = [name for name, _ in parameters(case.network)], case.x.astype(np.float64)
    for at, (name, dialect) in enumerate(DIALECTS.items()):
        flat = (case.seed + at) % 2 == 0
        check = f"program {name}{' flat' if flat else ''}"
        try:
            plan = plan_classes(case.network, dialect.reserved, unrolled=flat)
            found, made = run(lowering.lower(plan, dialect, "flat" if flat else "classes"), weights, x)
        except Exception as error:
            raise Fault(check, repr(error)) from error
        if made != names:
            raise Fault(check, "other tensors")
        case.hold(check, found, double=True)


def programs_after_passes(case: Case) -> bool:
    """Check the programs of the network after a pass that changes its nodes, such as a lesion or another form of its grouped
    convolutions. Returns whether the pass changes anything."""
    random, blocks = Random(f"passes {case.seed}"), droppable(case.network)
    passes: list[dict[str, Any]] = [{"form": "a"}, {"form": "b"}, {"join_groups": 32}, {"fuse_branches": True}]
    if blocks:
        passes += [{"drop": ",".join(random.sample(blocks, random.randint(1, min(2, len(blocks)))))} for _ in range(4)]
        passes += [{"swap": ",".join(random.sample(blocks, 2))} for _ in range(4) if len(blocks) > 1]
    for chosen in random.sample(passes, len(passes)):
        try:
            after = case.after(chosen)
        except UsageError:
            continue
        if after.network.root != case.network.root:
            try:
                programs(after)
            except Fault as error:
                raise Fault(f"{error.check} after {chosen}", str(error)) from error
            return True
    return False


#: The targets whose files take maps with channels last: one of them per seed, since each takes long.
CHANNELS_LAST = ("flax", "keras", "mlx")


def channels_last(case: Case) -> bool:
    """Check the file of Flax, Keras or MLX in float64."""
    if case.seed % 3 or case.seed >= BIG:
        return False
    target = CHANNELS_LAST[case.seed // 3 % 3]
    models = import_module(f"{target}_models")
    try:
        models.source_file.check(case.network)
    except Unavailable:
        return False
    run = partial(models.evaluated, case.network)
    with models.in_double():
        try:
            found = run(case.doubles, case.x.astype(np.float64))
        except Unavailable:
            return False
        except Exception as error:
            raise Fault(target, f"does not run: {error!r}") from error
        case.hold(target, found, double=True, run=run)
    return True


TARGETS = (elaboration, canonical, finite, onnx, source, programs, programs_after_passes, channels_last)
