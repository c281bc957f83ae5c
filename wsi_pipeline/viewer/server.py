"""A server for one person on this computer: the page, the slide and the objects."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any

from wsi_pipeline.core.errors import OutputError, UsageError, WsisegError
from wsi_pipeline.viewer.access import TOKEN_HEADER, Access
from wsi_pipeline.viewer.library import Library
from wsi_pipeline.viewer.routes import Reply, answer, as_json, problem

__all__ = ["ViewerServer"]

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_MOST_BODY = 64 * 2**20
_KINDS: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
        ".txt": "text/plain; charset=utf-8",
    }
)
_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        # Pictures of patients do not stay in the browser's cache on disk.
        "Cache-Control": "no-store",
    }
)


@cache
def _static() -> Mapping[str, Reply]:
    """Return path → file of the page; nothing else of the disk can be asked for by a path."""
    found: dict[str, Reply] = {}

    def add(folder: Traversable, path: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                add(entry, f"{path}{entry.name}/")
            elif kind := _KINDS.get("." + entry.name.rsplit(".", 1)[-1]):
                found[path + entry.name] = Reply(entry.read_bytes(), kind)

    add(files("wsi_pipeline.viewer") / "static", "/")
    found["/"] = found["/index.html"]
    return found


class ViewerServer(ThreadingHTTPServer):
    """Serves a library on the loopback address; `serve_forever` runs until `shutdown`.

    Raises
    ------
    UsageError
        the port is taken
    """

    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, library: Library, port: int = 0) -> None:
        try:
            super().__init__((_HOST, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used ({error.strerror or error}); give another --port, or "
                "leave it out"
            ) from error
        self.library = library
        self.access = Access(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong in a connection; a browser that leaves is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            _log.exception("a request failed")


class _Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: ViewerServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "wsiseg", ""
    timeout = 120
    wbufsize = 2**18
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer a request for a file of the page or for data."""
        self._send(self._answer(None))

    def do_POST(self) -> None:
        """Answer a request that sends corrections or rows."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > _MOST_BODY:
            self.close_connection = True
            self._send(problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too much was sent"))
            return
        self._send(self._answer(self.rfile.read(int(length))))

    def _answer(self, body: bytes | None) -> Reply:
        access, path = self.server.access, self.path.partition("?")[0]
        if not access.is_own_host(self.headers.get("Host")):
            return problem(HTTPStatus.MISDIRECTED_REQUEST, "this server has another name")
        if not access.is_own_origin(self.headers.get("Origin")):
            return problem(HTTPStatus.FORBIDDEN, "another page may not ask")
        if body is None and (file := _static().get(path)):
            return file
        if body is not None and path == "/api/session":
            return self._session(body)
        if not access.permits(self.headers.get(TOKEN_HEADER)):
            return problem(HTTPStatus.FORBIDDEN, "open the address that `wsiseg view` printed")
        try:
            found = answer(self.server.library, path, body)
        except OutputError as error:
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except WsisegError as error:
            return problem(HTTPStatus.BAD_REQUEST, str(error))
        except Exception:
            _log.exception("%s failed", path)
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error, see the terminal")
        return found or problem(HTTPStatus.NOT_FOUND, "there is nothing at this address")

    def _session(self, body: bytes) -> Reply:
        try:
            token = self.server.access.exchange(str(json.loads(body[:1000])["code"]))
        except (ValueError, KeyError, TypeError):
            token = None
        if token is None:
            return problem(HTTPStatus.FORBIDDEN, "open the address that `wsiseg view` printed")
        return as_json({"token": token})

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for each request."""
        _log.debug(format, *args)
