"""What is said of a network, fact by fact: each row reads one thing off its anatomy and puts it into words.

The words are comparable: two networks agree in a fact if they are told in the same words. A row of `FACTS` also has the
sentence that tells a difference. A topic without a row, or whose words agree, is told by its edits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from rescompile.explain.stages import (
    Segment,
    Step,
    Steps,
    Structure,
    has_shortcut,
    kinds,
    main_path,
    merges,
    steps,
    stride,
)
from rescompile.explain.words import act, item, listed, shown, size, times
from rescompile.ir.network import Op, Parallel
from rescompile.ir.ops import (
    Act,
    AvgPool,
    Conv,
    Dropout,
    Kind,
    Linear,
    MaxPool,
    Norm,
    Subsample,
)

K = TypeVar("K", bound=Kind)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing said of a network. `sentence` tells a difference; its fields are the subject's words and the reference's."""

    topic: str
    sentence: str
    read: Callable[[Structure], str]

    def difference(self, subject: Structure, reference: Structure) -> str | None:
        """The difference in words, or None where both are told alike."""
        new, old = self.read(subject), self.read(reference)
        return None if new == old else self.sentence.format(new, old)


def of_kind(network: Structure, kind: type[K]) -> list[K]:
    """The ops of one kind, in order."""
    return [each for each in kinds(network.whole) if isinstance(each, kind)]


def skips(network: Structure) -> list[Parallel]:
    """The merges with a shortcut, in order."""
    return [merge for merge in merges(network.whole) if has_shortcut(merge)]


def values(things: Iterable[str]) -> str:
    """Values with how many have each, the most frequent first; a value that all have stands alone."""
    found = Counter(things)
    if len(found) < 2:
        return next(iter(found), "none")
    return ", ".join(f"{value} ({times(count)})" for value, count in found.most_common())


def by_stage(read: Callable[[Steps], str]) -> Callable[[Structure], str]:
    """A value of the blocks of each stage: the last one's, and the first one's where that is another. One that all stages have
    stands alone."""

    def of(stage: Segment) -> str:
        first, last = read(stage.units[0]), read(stage.units[-1])
        return last if first == last else f"{first} then {last}"

    def read_stages(network: Structure) -> str:
        found = [of(stage) for stage in network.stages]
        return found[0] if len(set(found)) == 1 else ", ".join(found) or "no stages"

    return read_stages


def layers(inside: Steps) -> list[Conv | Linear]:
    """The layers on the main path of a block: through branches, not shortcuts; of a concatenation the longest branch."""
    found: list[Conv | Linear] = []
    for step in inside:
        if isinstance(step, Op) and isinstance(step.kind, Conv | Linear):
            found.append(step.kind)
        elif isinstance(step, Parallel):
            found += layers(longest(step))
    return found


def longest(merge: Parallel) -> Steps:
    """The branch on the main path: beside a shortcut the first, of others the one with the most layers."""
    branches = [steps(branch) for branch in merge.branches]
    return branches[0] if has_shortcut(merge) else max(branches, key=lambda branch: len(layers(branch)))


def kind_of(block: Steps) -> str:
    """A block by the kernels of its main path: `1x1-3x3-1x1`."""
    return "-".join(size(kind.kernel) if isinstance(kind, Conv) else "linear" for kind in layers(block)) or "no layers"


def channels(block: Steps) -> str:
    """The channels of the layers of a block: `64-64-256`."""
    return "-".join(str(kind.channels if isinstance(kind, Conv) else kind.features) for kind in layers(block))


def stride_place(network: Structure) -> str:
    """Which op of a block that makes the map smaller does so; of ResNet's bottleneck with the name that this has."""
    strided = [block for block in network.blocks if stride(block)[0] > 1]
    where = values(_strided(block) for block in strided)
    bottlenecks = {kind_of(block) for block in strided} == {"1x1-3x3-1x1"}
    versions = {"the first 1x1 convolution": " (v1)", "the 3x3 convolution": " (v1.5)"}
    return where + (versions.get(where, "") if bottlenecks else "")


def _strided(block: Steps) -> str:
    path = list(main_path(block))
    places = []
    for at, kind in enumerate(path):
        if isinstance(kind, Conv) and kind.stride != (1, 1):
            alike = [i for i, conv in enumerate(path) if isinstance(conv, Conv) and conv.kernel == kind.kernel]
            which = ("first ", "second ", "third ", "")[min(alike.index(at), 3)] if len(alike) > 1 else ""
            places.append(f"the {which}{size(kind.kernel)} convolution")
        elif isinstance(kind, MaxPool | Subsample):
            places.append("a pool" if isinstance(kind, MaxPool) else "a subsampling")
    return " and ".join(places)


def shortcuts(network: Structure) -> str:
    """What the shortcuts are, and how many of each."""
    found = Counter(_shortcut(merge) for merge in skips(network))
    if not found:
        return "none"
    total = found.total()
    said = [f"{words} in {count} of {total}" for words, count in found.most_common()]
    option = _option(found)
    return "; ".join(said) + (f" ({option})" if option else "")


def _shortcut(merge: Parallel) -> str:
    return ", ".join(_plain(step) for step in steps(merge.branches[-1])) or "the identity"


def _plain(step: Step) -> str:
    """An op of a shortcut without its numbers."""
    if isinstance(step, Op) and isinstance(step.kind, Conv):
        return f"{size(step.kind.kernel)} convolution"
    if isinstance(step, Op) and isinstance(step.kind, AvgPool):
        return "average pool"
    return item(step)


def _option(found: Counter[str]) -> str | None:
    """The paper's name for shortcuts: He et al. 2015, section 3.3; He et al. 2018, figure 2c."""
    projection = "1x1 convolution, batch norm"
    kinds = set(found) - {"the identity"}
    if kinds == {projection}:
        return "option B" if "the identity" in found else "option C"
    if kinds and kinds <= {"subsampling, channels of zeros", "subsampling", "channels of zeros"}:
        return "option A"
    if kinds and kinds <= {f"average pool, {projection}", projection}:
        return "as in ResNet-D"
    return None


def order(network: Structure) -> str:
    """The order of convolution, norm and activation in blocks, most frequent first; the merge with a shortcut is a +."""
    return values(_order(block) for block in network.blocks)


def _order(inside: Steps) -> str:
    words: list[str] = []
    for step in inside:
        if isinstance(step, Op) and isinstance(step.kind, Conv | Linear | Norm | Act):
            words.append(step.kind.word)
        elif isinstance(step, Parallel):
            words.append(f"[{_order(longest(step))}] {'+' if has_shortcut(step) else step.merge}")
    return " ".join(words)


def activation_style(network: Structure) -> str | None:
    """`in post-activation`, `in pre-activation`, ..., as far as most blocks with a residual branch have one of them."""
    found = Counter(
        _order(block) for block in network.blocks if any(isinstance(step, Parallel) and step.residual for step in block)
    )
    if not found:
        return None
    inside, _, after = found.most_common(1)[0][0].rpartition("] +")
    before, _, branch = inside.rpartition("[")
    if "norm" in after:
        return "in post-activation with the norm after the addition"
    if "act" in after:
        return "in post-activation"
    starts = (before + branch).split()[:1]
    return "in pre-activation" if starts in (["norm"], ["act"]) else "without an activation after the addition"


def maps(network: Structure) -> str:
    """The map sizes of the stages."""
    return ", ".join(shown(stage.output[1:]) or str(stage.output[0]) for stage in network.stages)


def zero_init(network: Structure) -> str:
    """How norms start; the last one of a residual branch is told apart."""
    lasts = [
        norms[-1] for merge in skips(network)
        if (norms := [kind for kind in kinds(steps(merge.branches[0])) if isinstance(kind, Norm)])
    ]  # fmt: skip
    zeros = sum(norm.scale_init == 0 for norm in lasts)
    if zeros and zeros == sum(norm.scale_init == 0 for norm in of_kind(network, Norm)):
        every = "every residual branch" if zeros == len(lasts) else f"{zeros} of {len(lasts)} residual branches"
        return f"at 0 in the last norm of {every} (zero-init)"
    return f"at {values(f'{norm.scale_init:.6g}' for norm in of_kind(network, Norm))}"


def survival(network: Structure) -> str:
    """The survival schedule."""
    found = [merge.survival for merge in skips(network) if merge.survival]
    if not found:
        return "always"
    first, last = found[0], found[-1]
    return (
        f"with a probability of {first.probability:.4g} (the first) to {last.probability:.4g} (the last), drawn per "
        f"{first.unit} and rescaled at {first.rescale}"
    )


def dropout(network: Structure) -> str:
    """The rates of dropout, and how often."""
    found = Counter(kind.rate for kind in of_kind(network, Dropout))
    said = [f"{rate:.6g} in {count} place{'s' if count > 1 else ''}" for rate, count in found.items()]
    return ", ".join(said) or "nowhere"


def classes(network: Structure) -> str:
    """The outputs of the last layer."""
    last = [kind for unit in network.segments[-1].units for kind in kinds(unit) if isinstance(kind, Conv | Linear)]
    return str(last[-1].features if isinstance(last[-1], Linear) else last[-1].channels) if last else "none"


def biases(network: Structure) -> str:
    """How many convolutions and how many linear layers have a bias."""
    said = []
    for kind, name in ((Conv, "convolution"), (Linear, "linear layer")):
        found: list[bool] = [each.bias for each in of_kind(network, kind)]  # type: ignore[attr-defined]
        if found:
            said.append(
                f"{'every' if all(found) else 'no' if not any(found) else f'{sum(found)} of {len(found)}'} {name}"
            )
    return " and ".join(said)


def largest(attribute: str) -> Callable[[Steps], str]:
    """The largest value of an attribute of the layers of a block."""

    def read(block: Steps) -> str:
        own = [getattr(kind, attribute, 1) for kind in layers(block)]
        return str(max((value if isinstance(value, int) else max(value) for value in own), default=1))

    return read


FACTS: dict[str, Fact] = {
    fact.topic: fact
    for fact in (
        Fact("input", "the input is {}, not {}", lambda a: shown(a.input)),
        Fact("stem", "the stem is {}; not {}", lambda a: listed(a.stem)),
        Fact("depth", "the stages have {} blocks, not {}", lambda a: ", ".join(str(len(s.units)) for s in a.stages)),
        Fact("stages", "the number of stages is {}, not {}", lambda a: str(len(a.stages))),
        Fact("block", "a block is {}, not {}", by_stage(kind_of)),
        Fact("kernel", "a block is {}, not {}", by_stage(kind_of)),
        Fact("width", "the channels in blocks are {}, not {}", by_stage(channels)),
        Fact("groups", "the convolutions of a block have up to {} groups, not {}", by_stage(largest("groups"))),
        Fact("stride", "the stride of a block is in {}, not in {}", stride_place),
        Fact("downsampling", "the maps of the stages are {}, not {}", maps),
        Fact("dilation", "the dilation of blocks is {}, not {}", by_stage(largest("dilation"))),
        Fact("shortcut", "the shortcuts are: {}; not: {}", shortcuts),
        Fact("order", "the steps of a block are {}; not {}", order),
        Fact("gate", "the number of gated shortcuts is {}, not {}", lambda a: str(sum(merge.merge == "gate" for merge in skips(a)))),
        Fact("head", "the head is {}; not {}", lambda a: listed(a.head)),
        Fact("classes", "the number of outputs is {}, not {}", classes),
        Fact("eps", "the eps of norms is {}, not {}", lambda a: values(f"{n.eps:.6g}" for n in of_kind(a, Norm))),
        Fact("momentum", "the momentum of norms is {}, not {}", lambda a: values(f"{n.momentum:.6g}" for n in of_kind(a, Norm))),
        Fact("activation", "the activation is {}, not {}", lambda a: values(act(kind) for kind in of_kind(a, Act))),
        Fact("bias", "a bias is in {}; not in {}", biases),
        Fact("scale-init", "the scale of norms starts {}, not {}", zero_init),
        Fact("init", "new weights are drawn by {}, not {}", lambda a: values([*(c.init for c in of_kind(a, Conv)), *(x.init for x in of_kind(a, Linear))])),
        Fact("dropout", "dropout: {}; not: {}", dropout),
        Fact("survival", "in training a residual branch survives {}, not {}", survival),
    )
}  # fmt: skip
