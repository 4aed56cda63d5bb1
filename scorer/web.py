"""A small web server for a few read-only pages, in threads of its own, so that a busy event loop cannot hold it up."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from socketserver import TCPServer
from threading import BoundedSemaphore, Thread
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

CONNECTIONS: Final = 16  # at once; a scraper and a few probes need two or three
_PATIENCE_S: Final = 5.0  # for a client to send its request, and as long again to take the answer
_REQUEST_BYTES: Final = 8 * 1024  # of its line and headers; a scraper sends some hundred


class Page(NamedTuple):
    """One answer."""

    status: HTTPStatus
    content_type: str
    body: bytes


Routes = Mapping[str, Callable[[], Page]]


def verdict(reasons: Sequence[str], **facts: object) -> Page:
    """Return 200 if there is no reason against, else 503; the body says so in JSON, with what else is known."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    body = {"ok": not reasons, "reasons": list(reasons), **facts}
    return Page(status, "application/json", json.dumps(body).encode() + b"\n")


class WebServer:
    """Serves `routes` (path -> page) on `host:port` from `start` to `close`; port 0 takes any free one.

    Raises OSError, in words, when the port is taken or the host is none of ours. Connections
    beyond `CONNECTIONS` are closed unanswered.
    """

    def __init__(self, routes: Routes, host: str, port: int) -> None:
        handler = type("Handler", (_Handler,), {"routes": routes})
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise OSError(
                f"Nobody can listen on port {port} of {host!r} ({error.strerror}): set server.port and server.host."
            ) from error
        self._thread = Thread(target=self._server.serve_forever, args=(0.1,), name="web", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def start(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening. Answers under way are not waited for."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that never finishes must not keep the process alive
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = BoundedSemaphore(CONNECTIONS)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the resolver for this host's name, which takes seconds where there is no resolver.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "tipstream", int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Say nothing: a client that hangs up is no news."""


class _Request(io.RawIOBase):
    """What a client sends, up to a number of bytes and a time for all of it: one that drips keeps no place for long."""

    def __init__(self, connection: socket) -> None:
        self._connection = connection
        self._left = _REQUEST_BYTES
        self._ends = time.monotonic() + _PATIENCE_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._ends - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if not self._left:
            raise LineTooLong("request")
        self._connection.settimeout(left_s)
        read = self._connection.recv_into(buffer, min(len(buffer), self._left))
        self._left -= read
        return read


class _Handler(BaseHTTPRequestHandler):
    routes: Routes
    timeout = _PATIENCE_S

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Request(self.connection))

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        route = self.routes.get(self.path.partition("?")[0])
        page = route() if route else self._missing()
        self.connection.settimeout(_PATIENCE_S)
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if with_body:
            self.wfile.write(page.body)

    def _missing(self) -> Page:
        text = f"There is no such page; there are {', '.join(self.routes)}.\n"
        return Page(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", text.encode())

    def version_string(self) -> str:
        return "tipstream"  # which Python runs is nobody's business

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line every scrape would bury the log."""
