"""Who may use the server of the viewer: whoever was given its token."""

from __future__ import annotations

import hmac
import secrets
import threading

__all__ = ["TOKEN_HEADER", "Access"]

TOKEN_HEADER = "X-Wsiseg-Token"
"""Header of every request for data. A header, unlike a cookie, is sent by our page alone."""


class Access:
    """The token of one server, and a code that gives the token once.

    The printed address holds the token. The browser is started with the code instead, because
    other users of a computer can read the arguments of its processes.

    Parameters
    ----------
    port
        port of the server, for the names of the host that it answers to

    Examples
    --------
    >>> access = Access(8123)
    >>> code = access.new_code()
    >>> access.exchange(code) == access.token, access.exchange(code)
    (True, None)
    """

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(32)
        self.hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self.origin = f"http://127.0.0.1:{port}"
        self._codes: set[str] = set()
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """The address that opens the page; what follows # is never sent to a server."""
        return f"{self.origin}/#token={self.token}"

    def new_code(self) -> str:
        """Return a code that `exchange` takes once."""
        code = secrets.token_urlsafe(32)
        with self._lock:
            self._codes.add(code)
        return code

    def exchange(self, code: str) -> str | None:
        """Return the token for a code, and forget the code; None for an unknown one."""
        with self._lock:
            if code not in self._codes:
                return None
            self._codes.remove(code)
        return self.token

    def permits(self, token: str | None) -> bool:
        """Return whether a request with this token is answered."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def is_own_host(self, host: str | None) -> bool:
        """Return whether the header Host names this server.

        A page elsewhere whose name is made to lead to 127.0.0.1 (DNS rebinding) states its own.
        """
        return host is not None and host.lower() in self.hosts

    def is_own_origin(self, origin: str | None) -> bool:
        """Return whether the header Origin is missing, or names this server."""
        return origin is None or origin in {f"http://{host}" for host in self.hosts}
