"""What each key of a spec means, in one sentence: for the JSON Schema, and for what editors show."""

from __future__ import annotations

#: By the construct that has the key: a spec, a row, a step, a merge, a block, a parameter of a block, a value.
KEY_DOCS: dict[str, dict[str, str]] = {
    "spec": {
        "rescompile": "The format version, 1; required in every file.",
        "name": "The name of the network; required.",
        "reference": "The paper and table, or the implementation, that the spec follows.",
        "family": "The group in which the network is listed: lower-case letters, digits and -.",
        "description": "One line about the network.",
        "notes": "Remarks for readers, a list of strings.",
        "unverified": "Claims that the author could not verify, a list of strings.",
        "extends": "The spec that this one changes: a zoo name, or a file beside this one or below.",
        "input": "The shape of one input without the batch: [channels, height, width], [channels, length],"
        " [channels, depth, height, width] or [features].",
        "preprocess": "How images become inputs; recorded in artifacts and applied by `rescompile run --image`.",
        "parameters": "Values that rows and defaults use by name.",
        "init": "The distribution of new weights.",
        "block": "The block of every row that has `depth` but no `block`.",
        "defaults": "Attributes and arguments for every use of an op or block, unless the use gives its own.",
        "blocks": "The blocks that this spec defines; they win over those of the library.",
        "network": "The rows of the network, in the order in which they are computed.",
        "survival": "Stochastic depth: the probability that training keeps each residual branch.",
        "drop_path": "Drop-path: with which probabilities training drops the branches of `merge: mean`.",
        "features": "The parts whose feature maps become outputs of the network, by their full names.",
        "checkpoint": "Whether training computes activations again instead of storing them.",
        "set": "Individual changes by path (row.attribute, a whole row, parameters.name, ...), applied last; null removes.",
        "expect": "Published figures that the network must have; `validate` checks them.",
    },
    "row": {
        "block": "The block; a row with `depth` may omit it if the spec has a `block`.",
        "depth": "The number of consecutive copies. `depth: 1` is not the same as omitting it: the copy is then named `0`.",
        "name": "The name of the row; needed only if it is also the name of an op.",
        "members": "The names of the copies, such as `unit{index + 1}`; by default their numbers from 0.",
        "when": "A condition: if it is false, the step is omitted. With `depth` it is evaluated for each copy.",
    },
    "step": {
        "residual": "A branch plus its shortcut, or with a gate, gate * branch + (1 - gate) * shortcut.",
        "parallel": "Branches on the same input, merged by add, concat or mul; or copies of one branch.",
        "side": "A branch that does not rejoin: an auxiliary head, an output, or parameters that nothing uses.",
        "if": "One of two steps, selected by a condition.",
        "keep": "Give the value at this place a name, such as `y` or `y[index]`, and go on with it.",
        "use": "Go on with a value that was kept, instead of the one before.",
        "again": "Run the step of this name in the same scope once more, with the same parameters.",
    },
    "residual": {
        "branch": "The residual branch; stochastic depth drops it.",
        "shortcut": "The steps of the shortcut; identity if omitted, and no addition with `none`. It knows `out_channels`.",
        "gate": "The gate of a highway network, which ends in a bounded activation.",
    },
    "parallel": {
        "merge": "How the outputs of the branches become one: add, concat, mul, mean, or in training a random mean, shake.",
        "unit": "What the random numbers of `merge: shake` are drawn for: each sample (default) or the whole batch.",
        "split": "Give each branch its own range of the channels: true for equal ranges, or a list of their sizes.",
        "branches": "The branches, a list of steps.",
        "copies": "The number of copies of `branch`, each in a scope of its own, which know `copy`.",
        "branch": "The step of which there are `copies`.",
    },
    "side": {
        "body": "The steps of the side branch.",
        "output": "The name of the output; required unless the mode is `never`.",
        "mode": "When the branch is computed: always, in training, or never (it only owns parameters).",
    },
    "if": {
        "if": "The condition.",
        "then": "The step if the condition holds.",
        "else": "The step if it does not; without one, nothing.",
    },
    "block": {
        "description": "One line about the block.",
        "reference": "The paper or implementation that the block follows.",
        "parameters": "The parameters by name, each with a type (`width: int`), a default, or a mapping of both.",
        "let": "Values evaluated once at the input of the block, in order.",
        "when": "A condition: if it is false, the block is empty, the identity.",
        "inline": "Whether the block is a macro, without a scope of its own.",
        "stage": "Whether rows must repeat the block with `depth`, so that it cannot be forgotten.",
        "members": "The names of its copies under `depth`.",
        "values": "The kept values that the block shares with its user.",
        "body": "The steps of the block.",
    },
    "parameter": {
        "type": "The type: int, real, bool, list, block or size.",
        "default": "The value where a use gives none; it implies the type.",
        "only": "`first`: the argument reaches the first copy of a row, and the others get the default.",
        "one_of": "The only words that the parameter takes.",
    },
    "value": {
        "each": "One value per copy; as many as `depth`.",
        "first": "The value of the first copy.",
        "rest": "The value of all other copies.",
    },
    "survival": {
        "schedule": "How the probability falls from the first to the last residual, or a list {each: [...]}.",
        "last": "The probability of the last residual.",
        "unit": "Whether a branch is dropped for the whole batch or for each sample.",
        "rescale": "When the values are rescaled: at test time, or in training.",
    },
    "drop_path": {
        "rate": "The probability that a merge drops a branch; one branch at least is kept.",
        "columns": "The probability that one column of the whole network is kept instead.",
        "unit": "Whether random numbers are drawn for the whole batch or for each sample.",
    },
    "preprocess": {
        "mean": "The mean of each channel, subtracted from values in 0..1.",
        "std": "The standard deviation of each channel, which divides them.",
        "resize": "The size that the shorter side is resized to, or [height, width].",
        "crop": "The size of the square cut from the centre, or [height, width].",
        "interpolation": "How images are resized; bilinear by default.",
        "channel_order": "The order of the channels of the input; rgb by default.",
    },
    "expect": {
        "parameters": 'The number of trainable parameters: an integer, exactly, or a figure such as "25.6M".',
        "macs": 'The multiply-adds of convolutions and linear layers for one input, such as "4.1e9".',
        "output": "The shape of the output.",
    },
}  # fmt: skip
#: What the names that expressions know everywhere mean.
BUILTIN_DOCS = {
    "in_channels": "The channels of the input: of the step in a step, of the block in its parameters and lets.",
    "out_channels": "The channels of the residual branch, in its shortcut and gate.",
    "index": "The number of the copy, from 0, where `depth` repeats a block.",
    "depth": "The number of copies, where `depth` repeats a block.",
    "copy": "The number of the copy, in the branch of a parallel with `copies`.",
    "height": "The height of the feature map.",
    "width": "The width of the feature map.",
}
