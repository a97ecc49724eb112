"""What a difference is about: its topic, by the attribute or the op that differs and the place where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from rescompile.explain.stages import Role, Step
from rescompile.ir.network import Op, Parallel, Side
from rescompile.ir.ops import Act, AvgPool, Conv, Dropout, Kind, Linear, MaxPool, Norm, Scale

#: The topics in the order in which they are told, with what they are called where their facts agree, or where they have none.
TITLES = {
    "input": "the input", "stem": "the stem", "stages": "the stages", "depth": "the number of blocks", "block": "the blocks",
    "width": "channels in blocks", "kernel": "kernels", "groups": "groups", "stride": "the place of strides",
    "downsampling": "the sizes of maps", "dilation": "dilation", "padding": "padding", "shortcut": "shortcuts",
    "gate": "gates", "order": "norms and activations in blocks", "attention": "factors on maps", "pooling": "pools in blocks",
    "between": "what stands between the stages", "head": "the head", "classes": "the outputs", "side": "side branches",
    "norm": "the kind of norm", "eps": "the eps of norms", "momentum": "the momentum of norms", "activation": "activations",
    "bias": "biases", "scale-init": "the initial scale of norms", "init": "how weights are drawn", "scale": "constant factors",
    "dropout": "dropout", "survival": "survival in training",
}  # fmt: skip
TOPICS = tuple(TITLES)
#: Topics that are of the whole network, or name their place themselves.
NETWORK_WIDE = {
    "input", "stem", "stages", "depth", "downsampling", "head", "classes", "eps", "momentum", "activation", "bias", "init",
    "scale-init", "survival",
}  # fmt: skip
#: Attributes whose change is the same topic wherever it stands: of any op, or of one kind.
ANYWHERE: dict[tuple[type[Kind], str], str] = {
    (Norm, "eps"): "eps", (Norm, "momentum"): "momentum", (Norm, "kind"): "norm", (Norm, "scale_init"): "scale-init",
    (Conv, "bias"): "bias", (Conv, "bias_init"): "init", (Conv, "init"): "init", (Linear, "bias"): "bias",
    (Linear, "bias_init"): "init", (Linear, "init"): "init", (Act, "kind"): "activation", (Act, "slope"): "activation",
    (Dropout, "rate"): "dropout", (Scale, "factor"): "scale",
}  # fmt: skip
#: Attributes in the blocks of stages, by name; those of strides are decided by the whole block.
IN_BLOCKS = {
    "channels": "width", "features": "width", "groups": "groups", "kernel": "kernel", "dilation": "dilation",
    "padding": "padding", "stride": "stride", "ceil": "padding", "count_pad": "padding", "size": "pooling",
}  # fmt: skip
#: What is only in one of two blocks, by the kind of op.
OPS: tuple[tuple[tuple[type[Kind], ...], str], ...] = (
    ((Norm, Act), "order"),
    ((Dropout,), "dropout"),
    ((Scale,), "scale"),
    ((MaxPool, AvgPool), "pooling"),
)


#: What a branch is in its merge.
BranchRole: TypeAlias = Literal["main", "shortcut", "gate", "side"]


@dataclass(frozen=True, slots=True)
class Where:
    """Where a list stands, as far as topics depend on it: the role of the segment and of the branch, and what the
    block around does as a whole."""

    segment: Role
    branch: BranchRole = "main"
    stride: str = "stride"
    rebuilt: bool = False

    def attribute(self, kind: Kind, name: str, last: bool) -> str:
        """The topic of an attribute that differs."""
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
        """The topic of something that only one has."""
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
        kind = next((topic for kinds, topic in OPS if isinstance(step.kind, kinds)), "block")
        return "block" if kind == "order" and self.rebuilt else kind
