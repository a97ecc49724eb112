"""The protocol: which function answers which request. Everything else of this room knows nothing of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer

from rescompile.lsp.completion import completion, resolve
from rescompile.lsp.documents import Document, Documents
from rescompile.lsp.fixes import fixes
from rescompile.lsp.hints import hints
from rescompile.lsp.hover import hover
from rescompile.lsp.navigation import definition, highlights, references
from rescompile.lsp.outline import folds, symbols
from rescompile.lsp.problems import problems
from rescompile.lsp.renaming import CannotRename, prepared, rename
from rescompile.version import __version__

#: Seconds without a key press after which a text is checked: of several edits at once, the last one counts.
PAUSE = 0.02
#: Characters after which the editor asks for completions by itself, beside letters.
TRIGGERS = (" ", ".", "{", "[", ",", "-")


def _inlay_hints(document: Document, params: lsp.InlayHintParams, _: Documents) -> Sequence[lsp.InlayHint]:
    return hints(document, params.range.start.line, params.range.end.line)


def _references(document: Document, params: lsp.ReferenceParams, documents: Documents) -> Sequence[lsp.Location]:
    return references(document, params.position, params.context.include_declaration, documents)


def _rename(document: Document, params: lsp.RenameParams, documents: Documents) -> lsp.WorkspaceEdit:
    try:
        return rename(document, params.position, params.new_name, documents)
    except CannotRename as refused:
        raise JsonRpcInvalidParams(str(refused)) from None


def _at_position(answer: Callable[[Document, lsp.Position], Any]) -> Callable[..., Any]:
    return lambda document, params, _: answer(document, params.position)


#: The requests about one document: (document, parameters of the request, all documents) -> the result.
REQUESTS: Mapping[str, Callable[..., Any]] = {
    lsp.TEXT_DOCUMENT_INLAY_HINT: _inlay_hints,
    lsp.TEXT_DOCUMENT_HOVER: _at_position(hover),
    lsp.TEXT_DOCUMENT_COMPLETION: _at_position(completion),
    lsp.TEXT_DOCUMENT_DEFINITION: _at_position(definition),
    lsp.TEXT_DOCUMENT_REFERENCES: _references,
    lsp.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT: _at_position(highlights),
    lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL: lambda document, *_: symbols(document),
    lsp.TEXT_DOCUMENT_FOLDING_RANGE: lambda document, *_: folds(document),
    lsp.TEXT_DOCUMENT_PREPARE_RENAME: _at_position(prepared),
    lsp.TEXT_DOCUMENT_RENAME: _rename,
    lsp.TEXT_DOCUMENT_CODE_ACTION: lambda document, params, _: fixes(document, params.range),
}
#: What the server declares of some requests.
OPTIONS: Mapping[str, Any] = {
    lsp.TEXT_DOCUMENT_COMPLETION: lsp.CompletionOptions(TRIGGERS, resolve_provider=True),
    lsp.TEXT_DOCUMENT_RENAME: lsp.RenameOptions(prepare_provider=True),
    lsp.TEXT_DOCUMENT_CODE_ACTION: lsp.CodeActionOptions([lsp.CodeActionKind.QuickFix]),
}


def make_server() -> LanguageServer:
    """Return a server with every feature."""
    server = LanguageServer("rescompile", __version__, text_document_sync_kind=lsp.TextDocumentSyncKind.Full)
    documents = Documents()
    _follow_edits(server, documents)

    def answering(request: Callable[..., Any]) -> Callable[[Any], Any]:
        return lambda params: request(documents.open[params.text_document.uri], params, documents)

    for name, request in REQUESTS.items():
        server.feature(name, OPTIONS.get(name))(answering(request))
    server.feature(lsp.COMPLETION_ITEM_RESOLVE)(lambda item: resolve(item, documents.open))
    return server


def _follow_edits(server: LanguageServer, documents: Documents) -> None:
    """Keep the documents as the editor has them, and report the problems of each that an edit affects."""

    def publish(document: Document) -> None:
        for each in documents.affected(document):
            found = problems(each) if each.uri in documents.open else []
            params = lsp.PublishDiagnosticsParams(uri=each.uri, diagnostics=found)
            server.text_document_publish_diagnostics(params)

    @server.feature(lsp.INITIALIZE)
    def initialize(_: lsp.InitializeParams) -> None:
        documents.encoding = str(getattr(server.workspace.position_encoding, "value", "utf-16"))

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    def did_open(params: lsp.DidOpenTextDocumentParams) -> None:
        item = params.text_document
        publish(documents.put(item.uri, item.text, item.language_id))

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    async def did_change(params: lsp.DidChangeTextDocumentParams) -> None:
        uri = params.text_document.uri
        document = documents.put(uri, params.content_changes[-1].text)
        await asyncio.sleep(PAUSE)
        if documents.open.get(uri) is document:
            publish(document)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(params: lsp.DidCloseTextDocumentParams) -> None:
        if (closed := documents.open.pop(params.text_document.uri, None)) is not None:
            publish(closed)  # what extends it sees its file again


def serve() -> None:
    """Serve one editor on standard input and output, until it sends `exit`."""
    gc.enable()  # the command line turns it off for short commands
    gc.freeze()
    gc.set_threshold(
        100_000
    )  # networks make few cycles, and searching for them after each edit would take longer than the edit
    protocol = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    with contextlib.redirect_stdout(sys.stderr):  # nothing else may write between messages
        make_server().start_io(stdout=protocol)
