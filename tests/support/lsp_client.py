"""An editor for tests: a client of `rescompile lsp` over standard input and output."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class Editor:
    """A server process with its messages; a context manager."""

    def __init__(self, root: Path, encodings: list[str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rescompile", "lsp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
        )
        self.root, self.ids, self.versions = root, 0, {}
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.diagnostics: dict[str, list[Any]] = {}
        threading.Thread(target=self._listen, daemon=True).start()
        general = {"general": {"positionEncodings": encodings}} if encodings else {}
        self.capabilities = self.request("initialize", processId=None, rootUri=root.as_uri(), capabilities=general)
        self.capabilities = self.capabilities["capabilities"]
        self.notify("initialized")

    def __enter__(self) -> Editor:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.request("shutdown", None)
            self.notify("exit", None)
            self.code = self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()

    def _listen(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while header := stream.readline():
            length = 0
            while header.strip():
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
                header = stream.readline()
            self.inbox.put(json.loads(stream.read(length)))
        self.inbox.put(None)

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def notify(self, method: str, *nothing: None, **params: Any) -> None:
        """Send a notification; a single None omits the parameters."""
        self._send({"method": method, **({} if nothing else {"params": params})})

    def request(self, method: str, *nothing: None, **params: Any) -> Any:
        """Send a request and return its result. Raises AssertionError if the server responds with an error."""
        self.ids += 1
        self._send({"id": self.ids, "method": method, **({} if nothing else {"params": params})})
        while True:
            message = self._next()
            if message.get("id") == self.ids and "method" not in message:
                assert "error" not in message, message
                return message["result"]

    def _next(self) -> dict[str, Any]:
        message = self.inbox.get(timeout=60)
        assert message is not None, "the server ended"
        if message.get("method") == "textDocument/publishDiagnostics":
            self.diagnostics[message["params"]["uri"]] = message["params"]["diagnostics"]
        return message

    def uri(self, name: str) -> str:
        """Return the URI of a file of the folder."""
        return (self.root / name).as_uri()

    def open(self, name: str, text: str, language: str = "yaml") -> list[Any]:
        """Open a text as a file of this name, and return its diagnostics."""
        item = {"uri": self.uri(name), "languageId": language, "version": 1, "text": text}
        self.diagnostics.pop(item["uri"], None)
        self.versions[name] = 1
        self.notify("textDocument/didOpen", textDocument=item)
        return self.published(name)

    def change(self, name: str, text: str) -> list[Any]:
        """Replace the text of an open file, and return its new diagnostics."""
        self.edit(name, text)
        return self.published(name)

    def edit(self, name: str, text: str) -> None:
        """Replace the text of an open file without waiting."""
        self.versions[name] += 1
        self.diagnostics.pop(self.uri(name), None)
        document = {"uri": self.uri(name), "version": self.versions[name]}
        self.notify("textDocument/didChange", textDocument=document, contentChanges=[{"text": text}])

    def published(self, name: str) -> list[Any]:
        """Return the diagnostics of an open file, once the server has sent them."""
        while self.uri(name) not in self.diagnostics:
            self._next()
        return self.diagnostics[self.uri(name)]

    def ask(self, feature: str, name: str, line: int | None = None, character: int = 0, **more: Any) -> Any:
        """Return the response to `textDocument/feature`, at a position if one is given."""
        at = {} if line is None else {"position": {"line": line, "character": character}}
        return self.request(f"textDocument/{feature}", textDocument={"uri": self.uri(name)}, **at, **more)

    def hints(self, name: str) -> dict[int, str]:
        """Return the inlay hints of a file by line."""
        everything = {"start": {"line": 0, "character": 0}, "end": {"line": 100_000, "character": 0}}
        return {hint["position"]["line"]: hint["label"] for hint in self.ask("inlayHint", name, range=everything)}
