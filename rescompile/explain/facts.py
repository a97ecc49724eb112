"""The facts about a network: each row of FACTS reads one property of its structure and puts it into words.

The words are comparable: two networks agree in a fact if their words are equal. A row also has the sentence for a difference.
For a topic without a row, or with equal words, the edits are listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from rescompile.analysis.paths import entered
from rescompile.explain.op_wording import act, item, listed, times, window
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
from rescompile.ir.network import Op, Parallel
from rescompile.ir.ops import (
    Act,
    AvgPool,
    Conv,
    Draw,
    Dropout,
    Fill,
    Kind,
    Linear,
    MaxPool,
    Norm,
    Subsample,
    fill,
)
from rescompile.ir.ops.op import size_text
from rescompile.records import record

K = TypeVar("K", bound=Kind)


@record
class Fact:
    """A property of a network. `sentence` describes a difference; its fields are the words of the subject and the reference."""

    topic: str
    sentence: str
    read: Callable[[Structure], str]

    def difference(self, subject: Structure, reference: Structure) -> str | None:
        """Return the difference in words, or None if the words are equal."""
        new, old = self.read(subject), self.read(reference)
        return None if new == old else self.sentence.format(new, old)


def of_kind(network: Structure, kind: type[K]) -> list[K]:
    """Return the ops of one kind, in order."""
    return [each for each in kinds(network.whole) if isinstance(each, kind)]


def skips(network: Structure) -> list[Parallel]:
    """Return the merges with a shortcut, in order."""
    return [merge for merge in merges(network.whole) if has_shortcut(merge)]


def values(things: Iterable[str]) -> str:
    """Return the values with their counts, the most frequent first; a single value has no count."""
    counts = Counter(things)
    if len(counts) < 2:
        return next(iter(counts), "none")
    return ", ".join(f"{value} ({times(count)})" for value, count in counts.most_common())


def by_stage(read: Callable[[Steps], str]) -> Callable[[Structure], str]:
    """Return a reader of one value per stage: that of its last block, and of its first one if it differs. A value that all
    stages share is given once."""

    def of(stage: Segment) -> str:
        first, last = read(stage.units[0]), read(stage.units[-1])
        return last if first == last else f"{first} then {last}"

    def read_stages(network: Structure) -> str:
        each = [of(stage) for stage in network.stages]
        return each[0] if len(set(each)) == 1 else ", ".join(each) or "no stages"

    return read_stages


def layers(inside: Steps) -> list[Conv | Linear]:
    """Return the layers on the main path of a block: through branches instead of shortcuts, and through the longest branch."""
    path: list[Conv | Linear] = []
    for step in inside:
        if isinstance(step, Op) and isinstance(step.kind, Conv | Linear):
            path.append(step.kind)
        elif isinstance(step, Parallel):
            path += layers(longest(step))
    return path


def longest(merge: Parallel) -> Steps:
    """Return the branch on the main path: the first one of a merge with a shortcut, else the one with the most layers."""
    both = zip(merge.branches, entered(merge), strict=True)
    branches = [steps(branch) for branch, added in both if added is not None]  # the others only scale another value
    return branches[0] if has_shortcut(merge) else max(branches, key=lambda branch: len(layers(branch)))


def kind_of(block: Steps) -> str:
    """Return the kernels on the main path of a block: `1x1-3x3-1x1`."""
    kernels = (size_text(kind.kernel) if isinstance(kind, Conv) else "linear" for kind in layers(block))
    return "-".join(kernels) or "no layers"


def channels(block: Steps) -> str:
    """Return the output channels on the main path of a block: `64-64-256`."""
    return "-".join(str(kind.channels if isinstance(kind, Conv) else kind.features) for kind in layers(block))


def stride_place(network: Structure) -> str:
    """Return the op that has the stride in downsampling blocks; for ResNet's bottleneck with the name of the variant."""
    strided = [block for block in network.blocks if stride(block)]
    where = values(_strided(block) for block in strided)
    bottlenecks = {kind_of(block) for block in strided} == {"1x1-3x3-1x1"}
    versions = {"the first 1x1 convolution": " (v1)", "the 3x3 convolution": " (v1.5)"}
    return where + (versions.get(where, "") if bottlenecks else "")


def _strided(block: Steps) -> str:
    path = list(main_path(block))
    places = []
    for at, kind in enumerate(path):
        if isinstance(kind, Conv) and max(kind.stride) > 1:
            alike = [i for i, conv in enumerate(path) if isinstance(conv, Conv) and conv.kernel == kind.kernel]
            which = ("first ", "second ", "third ", "")[min(alike.index(at), 3)] if len(alike) > 1 else ""
            places.append(f"the {which}{window(kind.kernel)} convolution")
        elif isinstance(kind, MaxPool | Subsample):
            places.append("a pool" if isinstance(kind, MaxPool) else "a subsampling")
    return " and ".join(places)


def shortcuts(network: Structure) -> str:
    """Return the kinds of shortcuts and their counts."""
    counts = Counter(_shortcut(merge) for merge in skips(network))
    if not counts:
        return "none"
    total = counts.total()
    words = [f"{words} in {count} of {total}" for words, count in counts.most_common()]
    option = _option(counts)
    return "; ".join(words) + (f" ({option})" if option else "")


def _shortcut(merge: Parallel) -> str:
    return ", ".join(_plain(step) for step in steps(merge.branches[-1])) or "identity"


def _plain(step: Step) -> str:
    """Return an op of a shortcut without its numbers."""
    if isinstance(step, Op) and isinstance(step.kind, Conv):
        return f"{window(step.kind.kernel)} convolution"
    if isinstance(step, Op) and isinstance(step.kind, AvgPool):
        return "average pool"
    return item(step)


def _option(counts: Counter[str]) -> str | None:
    """Return the name of the shortcuts in the papers: He et al. 2015, section 3.3; He et al. 2018, figure 2c."""
    projection = "1x1 convolution, batch norm"
    kinds = set(counts) - {"identity"}
    if kinds == {projection}:
        return "option B" if "identity" in counts else "option C"
    if kinds and kinds <= {"subsampling, zero channels", "subsampling", "zero channels"}:
        return "option A"
    if kinds and kinds <= {f"average pool, {projection}", projection}:
        return "as in ResNet-D"
    return None


def order(network: Structure) -> str:
    """Return the order of convolutions, norms and activations in blocks, most frequent first; + is a merge with a shortcut."""
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
    """Return `post-activation`, `pre-activation`, ... by the order in most blocks with a residual branch, or None."""
    orders = Counter(
        _order(block) for block in network.blocks if any(isinstance(step, Parallel) and step.residual for step in block)
    )
    if not orders:
        return None
    inside, _, after = orders.most_common(1)[0][0].rpartition("] +")
    before, _, branch = inside.rpartition("[")
    if "norm" in after:
        return "post-activation with the norm after the addition"
    if "act" in after:
        return "post-activation"
    starts = (before + branch).split()[:1]
    return "pre-activation" if starts in (["norm"], ["act"]) else "without an activation after the addition"


def maps(network: Structure) -> str:
    """Return the feature map sizes of the stages."""
    return ", ".join(size_text(stage.output[1:]) or str(stage.output[0]) for stage in network.stages)


def zero_init(network: Structure) -> str:
    """Return the initial scale of norms, with zero-init of residual branches as such."""
    lasts = [
        norms[-1] for merge in skips(network)
        if (norms := [kind for kind in kinds(steps(merge.branches[0])) if isinstance(kind, Norm)])
    ]  # fmt: skip
    zeros = sum(norm.scale_init == 0 for norm in lasts)
    if zeros and zeros == sum(norm.scale_init == 0 for norm in of_kind(network, Norm)):
        every = "every residual branch" if zeros == len(lasts) else f"{zeros} of {len(lasts)} residual branches"
        return f"at 0 in the last norm of {every} (zero-init)"
    return f"at {values(f'{norm.scale_init:.6g}' for norm in of_kind(network, Norm))}"


def initial_weights(network: Structure) -> str:
    """Return the rules of initial weights with their factors, or the numbers with which they begin."""
    layers: tuple[Conv | Linear, ...] = (*of_kind(network, Conv), *of_kind(network, Linear))
    return values(_drawn(fill(layer.init, layer.init_scale)) for layer in layers)


def _drawn(values: Fill) -> str:
    """Return initial values in words."""
    if not isinstance(values, Draw):
        return f"{values:.6g}"
    return values.rule if values.factor == 1 else f"{values.factor:.6g} * {values.rule}"


def survival(network: Structure) -> str:
    """Return the survival schedule of residual branches."""
    schedule = [merge.survival for merge in skips(network) if merge.survival]
    if not schedule:
        return "always"
    first, last = schedule[0], schedule[-1]
    return (
        f"with probability {first.probability:.4g} (first) to {last.probability:.4g} (last), drawn per "
        f"{first.unit} and rescaled at {first.rescale}"
    )


def dropout(network: Structure) -> str:
    """Return the rates of dropout and their counts."""
    rates = Counter(kind.rate for kind in of_kind(network, Dropout))
    words = [f"{rate:.6g} in {count} place{'s' if count > 1 else ''}" for rate, count in rates.items()]
    return ", ".join(words) or "nowhere"


def classes(network: Structure) -> str:
    """Return the number of outputs of the last layer."""
    last = [kind for unit in network.segments[-1].units for kind in kinds(unit) if isinstance(kind, Conv | Linear)]
    return str(last[-1].features if isinstance(last[-1], Linear) else last[-1].channels) if last else "none"


def biases(network: Structure) -> str:
    """Return how many convolutions and linear layers have a bias."""
    words = []
    for kind, name in ((Conv, "convolutions"), (Linear, "linear layers")):
        given: list[bool] = [each.bias for each in of_kind(network, kind)]  # type: ignore[attr-defined]
        if given:
            words.append(
                f"{'all' if all(given) else 'no' if not any(given) else f'{sum(given)} of {len(given)}'} {name}"
            )
    return " and ".join(words)


def largest(attribute: str) -> Callable[[Steps], str]:
    """Return a reader of the largest value of an attribute of the layers of a block."""

    def read(block: Steps) -> str:
        own = [getattr(kind, attribute, 1) for kind in layers(block)]
        return str(max((value if isinstance(value, int) else max(value) for value in own), default=1))

    return read


FACTS: dict[str, Fact] = {
    fact.topic: fact
    for fact in (
        Fact("input", "the input is {}, not {}", lambda a: size_text(a.input)),
        Fact("stem", "the stem is: {}; instead of: {}", lambda a: listed(a.stem)),
        Fact("depth", "the stages have {} blocks, not {}", lambda a: ", ".join(str(len(s.units)) for s in a.stages)),
        Fact("stages", "the number of stages is {}, not {}", lambda a: str(len(a.stages))),
        Fact("block", "the kernels of blocks are {}, not {}", by_stage(kind_of)),
        Fact("kernel", "the kernels of blocks are {}, not {}", by_stage(kind_of)),
        Fact("width", "the channels of blocks are {}, not {}", by_stage(channels)),
        Fact("groups", "the convolutions of a block have up to {} groups, not {}", by_stage(largest("groups"))),
        Fact("stride", "the stride of a block is in {}, not in {}", stride_place),
        Fact("downsampling", "the feature maps of the stages are {}, not {}", maps),
        Fact("dilation", "the dilation of blocks is {}, not {}", by_stage(largest("dilation"))),
        Fact("shortcut", "the shortcuts are: {}; instead of: {}", shortcuts),
        Fact("order", "the order of ops in a block is {}; not {}", order),
        Fact("gate", "the number of gated shortcuts is {}, not {}", lambda a: str(sum(merge.merge == "gate" for merge in skips(a)))),
        Fact("head", "the head is: {}; instead of: {}", lambda a: listed(a.head)),
        Fact("classes", "the number of outputs is {}, not {}", classes),
        Fact("eps", "the eps of norms is {}, not {}", lambda a: values(f"{n.eps:.6g}" for n in of_kind(a, Norm))),
        Fact("momentum", "the momentum of norms is {}, not {}", lambda a: values(f"{n.momentum:.6g}" for n in of_kind(a, Norm))),
        Fact("activation", "the activation is {}, not {}", lambda a: values(act(kind) for kind in of_kind(a, Act))),
        Fact("bias", "the layers with a bias are {}; not {}", biases),
        Fact("scale-init", "the scale of norms starts {}, not {}", zero_init),
        Fact("init", "weights are initialised by {}, not {}", initial_weights),
        Fact("dropout", "dropout: {}; instead of: {}", dropout),
        Fact("survival", "in training, residual branches survive {}, not {}", survival),
    )
}  # fmt: skip
