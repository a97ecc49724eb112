"""The protocol: which function answers which request. Everything else of this room knows nothing of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Sequence

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


def make_server() -> LanguageServer:
    """Return a server with every feature."""
    server = LanguageServer("rescompile", __version__, text_document_sync_kind=lsp.TextDocumentSyncKind.Full)
    documents = Documents()

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

    @server.feature(lsp.TEXT_DOCUMENT_INLAY_HINT)
    def inlay_hint(params: lsp.InlayHintParams) -> Sequence[lsp.InlayHint]:
        return hints(documents.open[params.text_document.uri], params.range.start.line, params.range.end.line)

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    def hover_at(params: lsp.HoverParams) -> lsp.Hover | None:
        return hover(documents.open[params.text_document.uri], params.position)

    @server.feature(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(TRIGGERS, resolve_provider=True))
    def complete(params: lsp.CompletionParams) -> Sequence[lsp.CompletionItem]:
        return completion(documents.open[params.text_document.uri], params.position)

    @server.feature(lsp.COMPLETION_ITEM_RESOLVE)
    def resolve_item(item: lsp.CompletionItem) -> lsp.CompletionItem:
        return resolve(item, documents.open)

    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    def go_to_definition(params: lsp.DefinitionParams) -> lsp.Location | None:
        return definition(documents.open[params.text_document.uri], params.position)

    @server.feature(lsp.TEXT_DOCUMENT_REFERENCES)
    def find_references(params: lsp.ReferenceParams) -> Sequence[lsp.Location]:
        declared = params.context.include_declaration
        return references(documents.open[params.text_document.uri], params.position, declared, documents)

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT)
    def highlight(params: lsp.DocumentHighlightParams) -> Sequence[lsp.DocumentHighlight]:
        return highlights(documents.open[params.text_document.uri], params.position)

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def document_symbol(params: lsp.DocumentSymbolParams) -> Sequence[lsp.DocumentSymbol]:
        return symbols(documents.open[params.text_document.uri])

    @server.feature(lsp.TEXT_DOCUMENT_FOLDING_RANGE)
    def folding_range(params: lsp.FoldingRangeParams) -> Sequence[lsp.FoldingRange]:
        return folds(documents.open[params.text_document.uri])

    @server.feature(lsp.TEXT_DOCUMENT_PREPARE_RENAME)
    def prepare_rename(params: lsp.PrepareRenameParams) -> lsp.PrepareRenamePlaceholder | None:
        return prepared(documents.open[params.text_document.uri], params.position)

    @server.feature(lsp.TEXT_DOCUMENT_RENAME, lsp.RenameOptions(prepare_provider=True))
    def rename_at(params: lsp.RenameParams) -> lsp.WorkspaceEdit:
        try:
            return rename(documents.open[params.text_document.uri], params.position, params.new_name, documents)
        except CannotRename as refused:
            raise JsonRpcInvalidParams(str(refused)) from None

    @server.feature(lsp.TEXT_DOCUMENT_CODE_ACTION, lsp.CodeActionOptions([lsp.CodeActionKind.QuickFix]))
    def code_action(params: lsp.CodeActionParams) -> Sequence[lsp.CodeAction]:
        return fixes(documents.open[params.text_document.uri], params.range)

    return server


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
