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
    "E0101": "the text is not valid YAML",
    "E0102": "unknown key",
    "E0103": "a required key is missing",
    "E0104": "a value of the wrong form",
    "E0105": "a key is given twice",
    "E0106": "a feature of YAML that specs do not use",
    "E0107": "a limit on the size of a spec is exceeded",
    "E0108": "the spec format version is missing or not known",
    "E0109": "not a usable name",
    "E0110": "not a step",
    "E0111": "the file cannot be read as text",
    "E0112": "an ambiguous or unusable number",
    # shapes
    "E0201": "the branches of a merge have different shapes",
    "E0202": "a kernel, stride or size does not fit the map",
    "E0203": "channels cannot be divided into groups or branches",
    "E0204": "an op is given input of the wrong rank",
    "E0205": "padding that cannot be",
    "E0206": "channels would shrink",
    "E0207": "a gate that is not between 0 and 1",
    "E0208": "the network is too large",
    # expressions and values
    "E0301": "an expression cannot be read",
    "E0302": "unknown name in an expression",
    "E0303": "an expression cannot be evaluated",
    "E0304": "a value of the wrong type",
    "E0305": "a word that is not allowed here",
    "E0306": "a list where one value is wanted",
    "E0307": "a list with the wrong number of entries",
    "E0308": "a per-block value where nothing is repeated",
    "E0309": "a value out of range",
    # blocks and rows
    "E0401": "unknown op or block",
    "E0402": "unknown argument or attribute",
    "E0403": "a required argument or attribute is missing",
    "E0404": "a block needs a name",
    "E0405": "a wrong or missing depth",
    "E0406": "two steps have one name",
    "E0407": "a list mixes named and numbered steps",
    "E0408": "a block contains itself",
    "E0409": "a block is defined wrongly",
    "E0410": "defaults that nothing uses",
    "E0411": "the word of an op used as a name",
    # inheritance
    "E0501": "the base spec cannot be found",
    "E0502": "specs extend one another in a circle or too deeply",
    "E0503": "a base spec outside the folder of the spec",
    "E0504": "a `set` path that names nothing",
    "E0505": "a `set` path that names several rows",
    "E0506": "a `set` that cannot be applied",
    # the network as a whole
    "E0601": "a survival schedule that does not fit",
    "E0602": "a feature that names no part of the network",
    "E0603": "a network that does nothing",
    "E0604": "two outputs have one name",
    # checks, usage, environment, output
    "E0701": "an expectation is not met",
    "E0702": "weights do not fit the network",
    "E0703": "a spec recorded in a model cannot be trusted",
    "E0704": "a naming profile of other networks",
    "E0705": "a file is not what its spec gives",
    "E0720": "activations that cannot be timed",
    "E0721": "a timed network computes something else",
    "E0722": "a network became slower",
    "E0723": "no way to run a network is exact enough",
    "E0730": "an image that cannot be used",
    "E0740": "a network that cannot be quantised",
    "E0801": "no such spec or file",
    "E0802": "an option that cannot be used so",
    "E0803": "a checkpoint that cannot be read",
    "E0804": "a form of grouped convolutions, and there are none",
    "E0806": "a lesion that names no part",
    "E0807": "a lesion of a part that allows none",
    "E0808": "blocks that cannot change places",
    "E0809": "an axis of the image that cannot be free",
    "E0820": "a result file that cannot be read",
    "E0821": "results that cannot be compared",
    "E0830": "images that a network does not take",
    "E0831": "labels that do not fit",
    "E0840": "calibration data that cannot be used",
    "E0901": "a target, runtime or device is not available",
    "E0902": "an extra is not installed",
    "E1001": "the output file is not ours to overwrite",
    "E1002": "the output cannot be written",
}
