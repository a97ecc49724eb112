"""Valid names: of steps, the reserved words, and the attributes of torch modules that no step may shadow."""

from __future__ import annotations

import keyword
import re
from collections.abc import Container
from itertools import chain, count

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+")
TEMPLATE = re.compile(r"(?:[A-Za-z0-9_]|\{[^{}]*\})+")
BRACES = re.compile(r"\{([^{}]*)\}")

#: Words with a meaning in steps and rows; no parameter and no op attribute may have such a name.
COMBINATORS = ("residual", "parallel", "side", "if")
RESERVED = frozenset({*COMBINATORS, "block", "name", "depth", "members", "when", "then", "else"})
#: What makes a use of a block of a mapping that has a name; without a name only `block` does.
ROW_KEYS = ("block", "depth", "members")
#: Steps that keep a value under a name and go on with it, and that run a step of that name again. The first release did not have
#: them, so they are not reserved: a step or block of that name stays one.
VALUES = ("keep", "use")
REFERENCES = (*VALUES, "again")
#: Names that the elaborator gives to expressions.
BUILTINS = frozenset({"in_channels", "out_channels", "index", "copy"})
#: Names of the size of a feature map. Unlike the others, a parameter or let may have one, and then hides it. The depth of a map of
#: three axes has no name in expressions, where `depth` is the number of copies of a block.
SIZES = ("height", "width", "length")
#: Where the names that are not always defined are defined.
WHERE_KNOWN = {
    **{name: f"'{name}' is only defined where the map is: in rows, defaults and blocks" for name in SIZES},
    "index": "'index' is only defined where 'depth' repeats a block",
    "depth": "'depth' is only defined where 'depth' repeats a block",
    "out_channels": "'out_channels' is only defined in the shortcut and the gate of a residual",
    "copy": "'copy' is only defined in the branch of a parallel with 'copies'",
}

#: Truth as YAML 1.1 and other languages write it, which is a name here.
OTHER_TRUTHS = {"yes": "true", "on": "true", "no": "false", "off": "false"}

#: Every attribute of torch.nn.Module and torch.nn.Sequential: a submodule of such a name would break the module. A test
#: compares this list with `dir(nn.Module)`, since the core may not import torch.
MODULE_ATTRIBUTES = frozenset(
    {
        "T_destination", "add_module", "append", "apply", "bfloat16", "buffers", "call_super_init", "children", "compile",
        "cpu", "cuda", "double", "dump_patches", "eval", "extend", "extra_repr", "float", "forward", "get_buffer",
        "get_extra_state", "get_parameter", "get_submodule", "half", "insert", "ipu", "load_state_dict", "modules", "mtia",
        "named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "pop",
        "register_backward_hook", "register_buffer", "register_forward_hook", "register_forward_pre_hook",
        "register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook", "register_module", "register_parameter", "register_state_dict_post_hook",
        "register_state_dict_pre_hook", "requires_grad_", "set_extra_state", "set_submodule", "share_memory", "state_dict",
        "to", "to_empty", "train", "training", "type", "xpu", "zero_grad",
    }
)  # fmt: skip


def refusal(name: str) -> str | None:
    """Why `name` cannot name a step, or None if it can."""
    if len(name) > 64:
        return "a name has at most 64 characters"
    if not NAME.fullmatch(name):
        return "use a-z, A-Z, 0-9 and _, and do not start with a digit unless the whole name is a number"
    if keyword.iskeyword(name):
        return "it is a Python keyword, so it cannot be an attribute"
    if name.startswith("_"):
        return "names that start with _ are reserved for torch modules"
    if name in MODULE_ATTRIBUTES:
        return "it would shadow an attribute of torch modules"
    return None


def free(wanted: str, taken: Container[str]) -> str:
    """Return a name that is not taken: the wanted one, or that and a number from 2 on."""
    return next(name for name in chain([wanted], (f"{wanted}{n}" for n in count(2))) if name not in taken)
