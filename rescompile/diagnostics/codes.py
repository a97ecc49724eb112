"""The table of error codes, and the exit code that each group of them gives a command."""

from __future__ import annotations

#: Exit codes of the command, beside 0 (done) and 130 (interrupted).
CHECK_FAILED, WRONG_USAGE, INVALID_SPEC, NOT_AVAILABLE, NOT_WRITTEN = 1, 2, 3, 4, 5

#: The first digits of a code: what its group is about, and the exit code of the command.
GROUPS: dict[str, tuple[str, int]] = {
    "E01": ("Reading", INVALID_SPEC),
    "E02": ("Shapes", INVALID_SPEC),
    "E03": ("Expressions and values", INVALID_SPEC),
    "E04": ("Blocks and rows", INVALID_SPEC),
    "E05": ("Bases and settings", INVALID_SPEC),
    "E06": ("The network as a whole", INVALID_SPEC),
    "E07": ("Checks", CHECK_FAILED),
    "E08": ("Usage", WRONG_USAGE),
    "E09": ("Environment", NOT_AVAILABLE),
    "E10": ("Output", NOT_WRITTEN),
}

#: Every code with its title. A code is never given another meaning.
CODES: dict[str, str] = {
    # reading
    "E0101": "invalid YAML",
    "E0102": "unknown key",
    "E0103": "missing key",
    "E0104": "value of the wrong form",
    "E0105": "duplicate key",
    "E0106": "unsupported YAML feature",
    "E0107": "spec too large",
    "E0108": "missing or unsupported spec format version",
    "E0109": "invalid name",
    "E0110": "invalid step",
    "E0111": "file that is not text",
    "E0112": "ambiguous or unusable number",
    # shapes
    "E0201": "branches with different shapes",
    "E0202": "kernel, stride or size that does not fit the feature map",
    "E0203": "channels that cannot be divided into groups or branches",
    "E0204": "input of the wrong rank",
    "E0205": "invalid padding",
    "E0206": "fewer channels than before",
    "E0207": "invalid gate",
    "E0208": "network too large",
    # expressions and values
    "E0301": "invalid expression",
    "E0302": "unknown name in an expression",
    "E0303": "expression that cannot be evaluated",
    "E0304": "value of the wrong type",
    "E0305": "word that is not allowed here",
    "E0306": "list where a single value is expected",
    "E0307": "list of the wrong length",
    "E0308": "per-block value without repeated blocks",
    "E0309": "value out of range",
    # blocks and rows
    "E0401": "unknown op or block",
    "E0402": "unknown argument or attribute",
    "E0403": "missing argument or attribute",
    "E0404": "missing block name",
    "E0405": "invalid or missing depth",
    "E0406": "duplicate step name",
    "E0407": "list with both named and numbered steps",
    "E0408": "recursive block",
    "E0409": "invalid block definition",
    "E0410": "unused default or parameter",
    "E0411": "op or block used as the name of a step",
    # inheritance
    "E0501": "base spec not found",
    "E0502": "circular or too long chain of base specs",
    "E0503": "base spec outside the folder of the spec",
    "E0504": "`set` path that matches nothing",
    "E0505": "`set` path that matches several rows",
    "E0506": "`set` value that cannot be applied",
    # the network as a whole
    "E0601": "invalid survival schedule",
    "E0602": "invalid feature",
    "E0603": "empty network",
    "E0604": "duplicate output name",
    # checks, usage, environment, output
    "E0701": "expectation not met",
    "E0702": "weights that do not match the network",
    "E0703": "recorded spec that cannot be trusted",
    "E0704": "naming profile for a different network",
    "E0705": "file that differs from its spec",
    "E0720": "activations that cannot be timed",
    "E0721": "timed network with wrong outputs",
    "E0722": "performance regression",
    "E0723": "no runtime is accurate enough",
    "E0730": "unusable image",
    "E0740": "network that cannot be quantised",
    "E0801": "spec or file not found",
    "E0802": "invalid option",
    "E0803": "unreadable checkpoint",
    "E0804": "no grouped convolutions",
    "E0806": "lesion of an unknown part",
    "E0807": "lesion of a part that cannot be removed",
    "E0808": "blocks that cannot be swapped",
    "E0809": "image axis that cannot be dynamic",
    "E0820": "unreadable result file",
    "E0821": "results that cannot be compared",
    "E0830": "images that do not match the network",
    "E0831": "labels that do not match the network",
    "E0840": "unusable calibration data",
    "E0901": "target, runtime or device not available",
    "E0902": "extra not installed",
    "E1001": "output file that rescompile must not overwrite",
    "E1002": "output that cannot be written",
}
