"""Shows a device's page on this machine: a proxy on loopback that holds the pinned certificate and the token.

A browser cannot pin a certificate and should not hold a token. The proxy has both, so whoever gets in here is let in at
the device. Other users of this machine, and pages of other sites, must not. The way in is a form in a file that only
the user can read, opened in the browser: it sends a number that works once and is in no URL and in no process's
arguments. From then on a cookie counts, which no other site can make the browser send.
"""

from __future__ import annotations

import hmac
import html
import secrets
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from device_profiles.errors import GeoshiftError
from runtime import private_files
from runtime.desktop.channel import Channel

COOKIE: Final = "geoshift_proxy"
"""Begin of the cookie's name; the port follows, as a browser sends a cookie to all ports of an address."""
ENTER: Final = "/enter"
MAX_BODY: Final = 64 << 10
CONNECTION_S: Final = 60.0
PASSED: Final = {"content-type", "idempotency-key", "last-event-id", "accept"}
"""Request headers that mean something to the device; a cookie or token of the browser's is not among them."""
RETURNED: Final = {"content-type", "content-security-policy", "cache-control", "x-content-type-options", "retry-after"}


class Proxy:
    """The page of one device on a port of loopback.

    Args:
        channel: The way to the device, with token and pin.
    """

    def __init__(self, channel: Channel) -> None:
        self._once: str | None = secrets.token_urlsafe(32)
        self._cookie = secrets.token_urlsafe(32)
        self._guard = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self, channel))
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.cookie_name = f"{COOKIE}_{self._server.server_port}"

    def way_in(self, path: Path) -> Path:
        """Write the file that leads in.

        Args:
            path: Where; only the user can read it.
        """
        once = html.escape(self._once or "")
        text = (
            f'<!doctype html><meta charset="utf-8"><title>geoshift</title><form method="post" '
            f'action="http://{self.host}{ENTER}"><input type="hidden" name="once" value="{once}"><button>Open the '
            "device's page</button></form><script>document.forms[0].submit()</script>"
        )
        private_files.write(path, text.encode())
        return path

    def serve(self) -> None:
        """Serve until ``stop``."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Stop; may be called from any thread but the one that serves."""
        self._server.shutdown()
        self._server.server_close()

    def enter(self, once: str) -> str | None:
        """The cookie for whoever brings the number, the first time."""
        with self._guard:
            if self._once is None or not _same(self._once, once):
                return None
            self._once = None
            return self._cookie

    def is_inside(self, cookies: str) -> bool:
        """Whether a Cookie header has the cookie."""
        values = [part.strip().partition("=") for part in cookies.split(";")]
        return any(name == self.cookie_name and _same(self._cookie, value) for name, _, value in values)


class _Server(ThreadingHTTPServer):
    """A server that has nothing to say about a browser that has left."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Called by the base class while an exception is handled."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _handler(proxy: Proxy, channel: Channel) -> type[BaseHTTPRequestHandler]:
    """A handler of requests that belongs to a proxy."""

    class Handler(BaseHTTPRequestHandler):
        """One connection of the browser."""

        timeout = CONNECTION_S

        def do_GET(self) -> None:  # the names that http.server calls
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def log_message(self, *args: Any) -> None:
            """Nothing: the device has the log."""

        def _answer(self) -> None:
            if self.headers.get("Host") != proxy.host:
                self._say(HTTPStatus.MISDIRECTED_REQUEST, "This is not the address of this page.")
            elif not _is_plain(self.path) or not self.path.startswith("/"):
                self._say(HTTPStatus.BAD_REQUEST, "This is not the path of a page.")
            elif self.path == ENTER and self.command == "POST":
                self._enter()
            elif not proxy.is_inside(self.headers.get("Cookie", "")):
                self._say(HTTPStatus.UNAUTHORIZED, "Run `geoshift open DEVICE` and use the page that it opens.")
            elif self.command != "GET" and self.headers.get("Origin") != f"http://{proxy.host}":
                self._say(HTTPStatus.FORBIDDEN, "This request came from another site's page.")
            else:
                self._pass_on()

        def _enter(self) -> None:
            body = self._body()
            if body is None:
                return
            name, _, once = body.decode("ascii", "replace").partition("=")
            cookie = proxy.enter(once) if name == "once" else None
            if cookie is None:
                self._say(HTTPStatus.FORBIDDEN, "This way in was used already. Run `geoshift open DEVICE` again.")
                return
            # A page and no redirect: the browser sends a strict cookie only where this site itself leads on.
            page = b'<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>geoshift</title>'
            self.send_response(HTTPStatus.OK)
            self.send_header("Set-Cookie", f"{proxy.cookie_name}={cookie}; HttpOnly; SameSite=Strict; Path=/")
            self._rest("text/html; charset=utf-8", page)

        def _pass_on(self) -> None:
            body = self._body()
            if body is None:
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() in PASSED}
            if not all(_is_plain(value.replace(" ", "")) for value in headers.values()):
                self._say(HTTPStatus.BAD_REQUEST, "The page sends no such header.")
                return
            try:
                with channel.passed_on(self.command, self.path, headers, body) as (status, answer, pieces):
                    self.send_response(status)
                    for name, value in answer.items():
                        if name.lower() in RETURNED:
                            self.send_header(name, value)
                    self.send_header("Connection", "close")
                    self.end_headers()
                    self._copy(pieces)
            except GeoshiftError as error:
                self._say(HTTPStatus.BAD_GATEWAY, str(error))

        def _copy(self, pieces: Iterator[bytes]) -> None:
            for piece in pieces:
                try:
                    self.wfile.write(piece)
                    self.wfile.flush()
                except OSError:
                    # The browser has left; so does the request to the device, with its context.
                    return

        def _body(self) -> bytes | None:
            length = self.headers.get("Content-Length", "0")
            too_long = len(length) > len(str(MAX_BODY)) or not length.isdecimal() or int(length) > MAX_BODY
            if too_long or "Transfer-Encoding" in self.headers:
                self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This is more than the page ever sends.")
                return None
            return self.rfile.read(int(length))

        def _say(self, status: HTTPStatus, text: str) -> None:
            self.send_response(status)
            self._rest("text/plain; charset=utf-8", text.encode())

        def _rest(self, media_type: str, content: bytes) -> None:
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

    return Handler


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogateescape"))
