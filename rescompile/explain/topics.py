"""The topic of a difference, determined by the attribute or op that differs and by its position in the network."""

from __future__ import annotations

from typing import Literal, TypeAlias

from rescompile.explain.stages import Role, Step
from rescompile.ir.network import Op, Parallel, Side
from rescompile.ir.ops import Act, AvgPool, Conv, Dropout, Kind, Linear, MaxPool, Norm, Scale
from rescompile.records import record

#: The topics in the order of the report, with their titles, which are used if the facts are equal or missing.
TITLES = {
    "input": "the input", "stem": "the stem", "stages": "the stages", "depth": "the number of blocks", "block": "the blocks",
    "width": "channels in blocks", "kernel": "kernels", "groups": "groups", "stride": "the position of strides",
    "downsampling": "feature map sizes", "dilation": "dilation", "padding": "padding", "shortcut": "shortcuts",
    "gate": "gates", "order": "norms and activations in blocks", "attention": "attention", "pooling": "pools in blocks",
    "between": "the layers between stages", "head": "the head", "classes": "the outputs", "side": "side branches",
    "norm": "the type of norm", "eps": "the eps of norms", "momentum": "the momentum of norms", "activation": "activations",
    "bias": "biases", "weights": "standardised weights", "scale-init": "the initial scale of norms", "init": "weight initialisation", "scale": "constant factors",
    "dropout": "dropout", "survival": "stochastic depth",
}  # fmt: skip
TOPICS = tuple(TITLES)
#: Topics that concern the whole network, or whose sentence contains the place.
NETWORK_WIDE = {
    "input", "stem", "stages", "depth", "downsampling", "head", "classes", "eps", "momentum", "activation", "bias", "init",
    "scale-init", "survival", "weights",
}  # fmt: skip
#: Attributes with the same topic everywhere in a network.
ANYWHERE: dict[tuple[type[Kind], str], str] = {
    (Norm, "eps"): "eps", (Norm, "momentum"): "momentum", (Norm, "kind"): "norm", (Norm, "scale_init"): "scale-init",
    (Conv, "bias"): "bias", (Conv, "bias_init"): "init", (Conv, "init"): "init", (Conv, "init_scale"): "init",
    (Conv, "weights"): "weights", (Conv, "eps"): "weights", (Conv, "gamma"): "weights", (Linear, "bias"): "bias",
    (Linear, "bias_init"): "init", (Linear, "init"): "init", (Linear, "init_scale"): "init", (Act, "kind"): "activation",
    (Act, "slope"): "activation", (Dropout, "rate"): "dropout", (Scale, "factor"): "scale",
}  # fmt: skip
#: Topics of attributes in the blocks of stages; for strides, the whole block decides.
IN_BLOCKS = {
    "channels": "width", "features": "width", "groups": "groups", "kernel": "kernel", "dilation": "dilation",
    "padding": "padding", "stride": "stride", "ceil": "padding", "count_pad": "padding", "size": "pooling",
}  # fmt: skip
#: Topics of an op that only one of two blocks has.
OPS: tuple[tuple[tuple[type[Kind], ...], str], ...] = (
    ((Norm, Act), "order"),
    ((Dropout,), "dropout"),
    ((Scale,), "scale"),
    ((MaxPool, AvgPool), "pooling"),
)


#: The role of a branch in its merge.
BranchRole: TypeAlias = Literal["main", "shortcut", "gate", "side"]


@record
class Where:
    """The position of a list as far as topics depend on it: the role of the segment and of the branch, the topic of strides in
    the block, and whether the block has another number of layers."""

    segment: Role
    branch: BranchRole = "main"
    stride: str = "stride"
    rebuilt: bool = False

    def attribute(self, kind: Kind, name: str, last: bool) -> str:
        """Return the topic of an attribute that differs."""
        anywhere = next((topic for (of, a), topic in ANYWHERE.items() if a == name and isinstance(kind, of)), None)
        if anywhere is not None:
            return anywhere
        if self.segment == "head":
            return "classes" if last and name in ("features", "channels") else "head"
        if self.segment == "stem":
            return "stem"
        if self.segment == "between":
            return "between"
        if self.rebuilt and self.branch == "main" and name in ("kernel", "channels", "features"):
            return "block"
        if name == "stride":
            return "shortcut" if self.branch == "shortcut" and self.stride == "stride" else self.stride
        return IN_BLOCKS.get(name, "block")

    def item(self, step: Step) -> str:
        """Return the topic of a step that only one of the two networks has."""
        if isinstance(step, Op) and isinstance(step.kind, Dropout):
            return "dropout"
        if isinstance(step, Side) or self.branch == "side":
            return "side"
        if self.segment in ("stem", "head", "between"):
            return self.segment
        if self.branch == "gate":
            return "gate"
        if self.branch == "shortcut":
            return "shortcut" if self.stride != "downsampling" else "downsampling"
        if isinstance(step, Parallel):
            return "attention" if step.merge == "mul" else "block"
        if not isinstance(step, Op):
            return "block"
        kind = next((topic for kinds, topic in OPS if isinstance(step.kind, kinds)), "block")
        return "block" if kind == "order" and self.rebuilt else kind
