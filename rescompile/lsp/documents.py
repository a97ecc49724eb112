"""The texts that an editor has open, each with what is known of it: its values, its mistakes, its network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lsprotocol.types import Position

from rescompile.diagnostics.errors import Diagnostic, Place, RescompileError, Source, SpecError
from rescompile.elaboration import elaborate, every_problem
from rescompile.elaboration.expect import unmet
from rescompile.ir.network import Network
from rescompile.lang import library
from rescompile.lang.inheritance import Texts, base_of, resolve
from rescompile.lang.load import from_document
from rescompile.lang.spec.spec import Spec
from rescompile.lang.yaml_reader import Located, Mapping, read_whatever
from rescompile.lsp.facts import Facts
from rescompile.lsp.index import Index
from rescompile.lsp.positions import Lines
from rescompile.lsp.value_walker import Mention
from rescompile.records import record

#: The language that an editor may give specs, and no other files.
LANGUAGE = "rescompile"
#: What makes a YAML file a spec, beside the language that the editor gives it: the key of its first line, finished or not.
_SPEC_KEY = re.compile(r"^[\"']?rescompile[\"']?\s*:", re.MULTILINE)
_NO_VALUES = Mapping({}, Place(Source("", ""), 1, 1, 2))


@record(slots=False)
class Checked:
    """The mistakes of a spec as `validate` reports them; its network, if it has one; and the files that it was read from."""

    diagnostics: Sequence[Diagnostic]
    spec: Spec | None
    network: Network | None
    files: frozenset[Path]


def check(path: Path, texts: Texts) -> Checked:
    """Check the spec of a file whose text, like that of its bases, `texts` gives."""
    files: set[Path] = set()

    def read(file: Path) -> Source:
        files.add(file.resolve())
        return texts(file)

    problems: Sequence[Diagnostic]
    spec = network = None
    try:
        spec = from_document(resolve(path, (), read))
        network = elaborate(spec)
        problems = unmet(spec, network)
    except SpecError as error:
        problems = every_problem(error)
    except RescompileError as error:  # a base that cannot be read
        problems = error.diagnostics
    return Checked(problems, spec, network, frozenset(files))


class Document:
    """One text at one moment; what is known of it is found out when it is first asked for, and kept."""

    def __init__(
        self, uri: str, text: str, texts: Texts = library.source, *, is_spec: bool = False, encoding: str = "utf-16",
        before: Document | None = None,
    ) -> None:  # fmt: skip
        self.uri, self.text, self.path = uri, text, path_of(uri)
        self.lines = Lines(text, encoding)
        self.is_spec = is_spec or _SPEC_KEY.search(text) is not None
        self.source = Source(library.shown(self.path), text)
        self.before = before  #: the last state of the text that was a network
        self._others = texts

    @cached_property
    def checked(self) -> Checked:
        """Return the mistakes and the network."""
        return check(self.path, self.texts)

    @cached_property
    def values(self) -> Located | None:
        """Return the values of the text, right or wrong, up to the first line that is not YAML; None if that is line 1."""
        return read_whatever(self.source)

    @cached_property
    def index(self) -> Index:
        """Return what stands at each position; it is empty where the text is not a spec, or has no keys yet."""
        if not self.is_spec or not isinstance(self.values, Mapping):
            return Index(_NO_VALUES, None, self.lines)
        try:
            base = base_of(self.values, self.path, self.texts)
        except RescompileError:  # reported as a mistake
            base = None
        return Index(self.values, base, self.lines)

    @cached_property
    def facts(self) -> Facts | None:
        """Return what the network knows of places, or None where the text is not a network."""
        spec, network = self.checked.spec, self.checked.network
        return Facts(spec, network) if spec is not None and network is not None else None

    def at(self, position: Position) -> Mention | None:
        """Return what stands at a position, or None."""
        return self.index.at(self.lines.index(position))

    def texts(self, path: Path) -> Source:
        """Return the text of a file as this document sees it."""
        return self.source if path == self.path else self._others(path)

    @property
    def valid(self) -> Document | None:
        """This document if it is a network, or its last state that was one; None if there was none."""
        return self if self.checked.network is not None else self.before

    def changed(self, text: str) -> Document:
        """Return the document after an edit. It remembers the last valid state only, and not those before that."""
        known = "checked" in self.__dict__ and self.checked.network is not None
        before, self.before = (self, None) if known else (self.before, self.before)
        return Document(self.uri, text, self._others, is_spec=self.is_spec, encoding=self.lines.encoding, before=before)


class Documents:
    """All open documents, by the URI that the editor gives them."""

    def __init__(self) -> None:
        self.open: dict[str, Document] = {}
        self.encoding = "utf-16"

    def put(self, uri: str, text: str, language: str = "yaml") -> Document:
        """Open a document, or change its text."""
        old = self.open.get(uri)
        if old is not None:
            self.open[uri] = old.changed(text)
        else:
            is_spec = language == LANGUAGE
            self.open[uri] = Document(uri, text, self.texts, is_spec=is_spec, encoding=self.encoding)
        return self.open[uri]

    def texts(self, path: Path) -> Source:
        """Return the text of a file: what the editor has, saved or not, before what the disk has."""
        wanted = path.resolve()
        for document in self.open.values():
            if document.path.resolve() == wanted:
                return Source(library.shown(path), document.text)
        return library.source(path)

    def affected(self, changed: Document) -> list[Document]:
        """Return the documents whose mistakes may have changed with this one: itself first, then those that extend it."""
        file, affected = changed.path.resolve(), [changed]
        for uri, document in list(self.open.items()):
            if document is not changed and "checked" in document.__dict__ and file in document.checked.files:
                self.open[uri] = again = document.changed(document.text)
                affected.append(again)
        return affected


def path_of(uri: str) -> Path:
    """Return the file of a URI. A text that was never saved is taken to be in the working directory."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return Path.cwd() / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', uri) or 'untitled'}.yaml"
    host = f"//{parts.netloc}" if parts.netloc else ""
    return Path(url2pathname(host + parts.path))


def uri_of(path: Path) -> str:
    """Return the URI of a file."""
    return path.absolute().as_uri()
