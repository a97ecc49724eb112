"""The keys of a spec file, and the Spec that `rescompile.load` returns."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from rescompile.diagnostics.errors import UsageError, clipped, nearest, one_of
from rescompile.ir import ops
from rescompile.ir.expressions import show
from rescompile.lang.spec.blocks import Block
from rescompile.lang.spec.later_ops import mark_names
from rescompile.lang.spec.steps import Step
from rescompile.lang.spec.values import Number, ParameterName, Scalar, SpecModel, Value, Word, refuse
from rescompile.lang.yaml_reader import Mapping as LocatedMapping
from rescompile.lang.yaml_reader import plain


class ProbabilityList(SpecModel):
    """One survival probability per residual."""

    each: Annotated[list[Number], Field(min_length=1)]


SCHEDULES = ("linear", "linear_zero_based", "uniform")


def _schedule(raw: Any) -> Any:
    if raw not in SCHEDULES:
        expected = one_of([*SCHEDULES, "{each: [...]}"])
        raise refuse("E0104", f"'schedule' must be {expected}, got {show(raw)}", nearest(str(raw), SCHEDULES))
    return raw


def _schedule_tag(raw: Any) -> str:
    return "<each>" if isinstance(raw, dict | ProbabilityList) else "<scalar>"


class Survival(SpecModel):
    """Stochastic depth (Huang et al. 2016): the probability that training keeps each residual branch."""

    schedule: Annotated[
        Annotated[Any, BeforeValidator(_schedule), WithJsonSchema({"enum": list(SCHEDULES)}), Tag("<scalar>")]
        | Annotated[ProbabilityList, Tag("<each>")],
        Discriminator(_schedule_tag),
    ]
    last: Number | None = None
    unit: Literal["batch", "sample"]
    rescale: Literal["test", "train"]

    @model_validator(mode="after")
    def _probabilities(self) -> Survival:
        if isinstance(self.schedule, ProbabilityList):
            if self.last is not None:
                raise refuse("E0601", "'last' cannot be combined with a list of probabilities", at=("last",))
            listed = self.schedule.each
            given: dict[tuple[str | int, ...], Any] = {("schedule", "each", at): p for at, p in enumerate(listed)}
        elif self.last is None:
            raise refuse("E0601", "the schedule needs 'last', the survival probability of the last residual")
        else:
            given = {("last",): self.last}
        for at, p in given.items():
            if not 0 < p <= 1:
                raise refuse("E0601", f"a survival probability must be greater than 0 and at most 1, got {p}", at=at)
        return self


class DropPath(SpecModel):
    """Drop-path (Larsson et al. 2017): how training drops the branches of `merge: mean`."""

    rate: Number
    columns: Number
    unit: Literal["batch", "sample"]

    @model_validator(mode="after")
    def _probabilities(self) -> DropPath:
        if not 0 <= self.rate < 1:
            raise refuse("E0605", f"'rate' must be at least 0 and less than 1, got {self.rate}", at=("rate",))
        if not 0 <= self.columns <= 1:
            raise refuse("E0605", f"'columns' is a probability, from 0 to 1, got {self.columns}", at=("columns",))
        if not self.rate and not self.columns:
            raise refuse("E0605", "with 'rate' and 'columns' 0, nothing is ever dropped", "remove 'drop_path'")
        return self


#: A figure such as `25.6M` or `4.1e9`: its integer part, its fraction, and its unit or exponent.
FIGURE = re.compile(r"([0-9]+)(?:\.([0-9]+))?([kKMGB]|e[0-9]+)?")


def _figure(raw: Any) -> Any:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise refuse("E0104", f"expected an integer or a quoted figure, got {show(raw)}", f'quote it: "{show(raw)}"')
    if isinstance(raw, str) and not FIGURE.fullmatch(raw):
        help = 'write an integer, or text such as "25.6M" or "4.1e9"'
        raise refuse("E0104", f"'{clipped(raw)}' is not a valid figure", help)
    return raw


Figure = Annotated[Any, BeforeValidator(_figure), WithJsonSchema({"type": ["integer", "string"]})]


class Expect(SpecModel):
    """Published figures. An integer is exact; text such as "25.6M" allows one unit of its last digit."""

    parameters: Figure | None = None
    macs: Figure | None = None
    output: list[StrictInt] | None = None


def _lengths(raw: Any, info: ValidationInfo) -> Any:
    pair = raw if isinstance(raw, list) and len(raw) == 2 else [raw]
    if any(isinstance(length, bool) or not isinstance(length, int) or length < 1 for length in pair):
        message = f"'{info.field_name}' must be an integer of at least 1 or [height, width]"
        raise refuse("E0104", f"{message}, got {clipped(show(raw))}")
    return raw


_LENGTH = {"type": "integer", "minimum": 1}
_PAIR = {"type": "array", "items": _LENGTH, "minItems": 2, "maxItems": 2}
Lengths = Annotated[Any, BeforeValidator(_lengths), WithJsonSchema({"anyOf": [_LENGTH, _PAIR]})]


class Preprocess(SpecModel):
    """How images become inputs: resized so that the shorter side is `resize`, or to this height and width; the centre cropped to
    `crop`, a square or height and width; scaled to 0..1; then (x - mean) / std. `interpolation` is that of the resizing, by default
    bilinear; all but nearest are antialiased. `channel_order` is that of the network's input, by default rgb; `mean` and `std` are in
    the same order."""

    mean: Annotated[list[Number], Field(min_length=1)]
    std: Annotated[list[Number], Field(min_length=1)]
    resize: Lengths | None = None
    crop: Lengths | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    channel_order: Literal["rgb", "bgr"] | None = None

    @model_validator(mode="after")
    def _channels(self) -> Preprocess:
        if len(self.mean) != len(self.std):
            message = f"'mean' has {len(self.mean)} values, but 'std' has {len(self.std)}: give one per channel"
            raise refuse("E0104", message, at=("std",))
        for at, deviation in enumerate(self.std):
            if deviation <= 0:
                message = f"a standard deviation must be greater than 0, got {show(deviation)}"
                raise refuse("E0104", message, at=("std", at))
        return self


def _form(pattern: str, what: str) -> AfterValidator:
    """Refuses text that does not match a pattern; `what` describes it."""

    def check(raw: str) -> str:
        if not re.fullmatch(pattern, raw):
            raise refuse("E0104", f"'{clipped(raw)}' is not {what}")
        return raw

    return AfterValidator(check)


Dimension = Annotated[StrictInt, Field(ge=1, le=ops.MAX_SIDE)]
Text = Annotated[StrictStr, Field(max_length=4000)]
Family = Annotated[StrictStr, _form("[a-z0-9-]+", "a valid family: use lower-case letters, digits and -")]
_PART = "a valid part name: use the full name, such as layer2 or features.denseblock1"
Path = Annotated[StrictStr, _form(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", _PART)]


class Spec(SpecModel):
    """A network as the table of its paper describes it.

    `rescompile.load` returns one in which `extends`, `set` and the library's blocks are resolved.
    """

    rescompile: Literal[1]
    name: Word
    reference: Text | None = None
    family: Family | None = None
    description: Text | None = None
    notes: list[Text] = []
    unverified: list[Text] = []
    extends: StrictStr | None = None
    input: Annotated[list[Dimension], Field(min_length=1, max_length=4)] | None = None
    preprocess: Preprocess | None = None
    parameters: dict[ParameterName, Scalar] = {}
    init: Literal["he_normal_fan_out", "he_normal_fan_in", "torch_default"] | None = None
    block: Word | None = None
    defaults: dict[Word, dict[Word, Value]] = {}
    blocks: dict[Word, Block] = {}
    network: Annotated[list[Step], Field(min_length=1)] | None = None
    survival: Survival | None = None
    drop_path: DropPath | None = None
    features: Annotated[list[Path], Field(min_length=1)] | None = None
    checkpoint: StrictBool = False
    set: dict[StrictStr, Any] | None = None
    expect: Expect | None = None

    _document: LocatedMapping | None = PrivateAttr(default=None)
    _changed: bool = PrivateAttr(default=False)

    @classmethod
    def resolved(cls, document: LocatedMapping, changed: bool) -> Spec:
        """Return the Spec of a merged document. `changed` is true after `--set`, which may leave parts of the file unused.
        Raises pydantic's ValidationError."""
        spec = cls.model_validate(mark_names(plain(document)))
        spec._document, spec._changed = document, changed
        return spec

    @property
    def document(self) -> LocatedMapping:
        """The text that the spec was read from, with the place of every key and value."""
        if self._document is None:
            raise UsageError.of("E0802", "this Spec was not read from a file", help="create it with rescompile.load()")
        return self._document

    @property
    def changed(self) -> bool:
        """Whether settings from outside the file were applied."""
        return self._changed

    def is_op(self, word: str, within: Block | None = None) -> bool:
        """Return whether a word means an op; a block of the spec, or a parameter of the block around it, wins over a later
        op."""
        if word not in ops.LATER:
            return word in ops.WORDS
        return word in ops.WORDS and word not in self.blocks and not (within and within.takes_block(word))

    def model_copy(self, **options: Any) -> Spec:
        """Raise UsageError, because a changed copy would no longer match its text."""
        raise UsageError.of("E0802", "a Spec cannot be changed", help='use rescompile.load(..., set=["path=value"])')
