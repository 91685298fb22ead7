"""A platform that gives its jobs tokens: a real server with real keys, on a loopback port."""

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import trustme
from joserfc import jws
from joserfc.jwk import ECKey, KeySet, RSAKey

AUDIENCE = "registry.example.com"


class Platform:
    """What it publishes, and the tokens it gives."""

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "issuer-ca.crt"
        self.url = ""
        self.asked: list[str] = []
        """The paths that were asked for."""
        self.answers: dict[str, tuple[int, bytes]] = {}
        """What is answered instead, path → status and content."""
        self.keys: list[RSAKey | ECKey] = [RSAKey.generate_key(2048, {"kid": "first"})]

    def token(self, key: RSAKey | ECKey | None = None, /, **said: object) -> str:
        """Give a token for this registry that says all that, for ten minutes; None: not that."""
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "repo:acme/app:ref:refs/heads/main",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
        }
        claims = {name: value for name, value in (claims | said).items() if value is not None}
        signing = key or self.keys[-1]
        head = {"alg": "ES256" if isinstance(signing, ECKey) else "RS256", "kid": signing.kid}
        return jws.serialize_compact(head, json.dumps(claims), signing)

    def published(self) -> bytes:
        """The public halves of its keys."""
        return json.dumps(KeySet([*self.keys]).as_dict(private=False)).encode()

    def answer(self, path: str) -> tuple[int, bytes]:
        """What is answered for a path."""
        self.asked.append(path)
        if path in self.answers:
            return self.answers[path]
        match path:
            case "/.well-known/openid-configuration":
                return 200, json.dumps(
                    {"issuer": self.url, "jwks_uri": f"{self.url}/keys", "more": []}
                ).encode()
            case "/keys":
                return 200, self.published()
            case _:
                return 404, b""


@contextmanager
def platform(folder: Path, host: str = "127.0.0.1") -> Iterator[Platform]:
    """Serve one by TLS."""
    found = Platform(folder)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(found.ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = found.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status in {301, 302}:
                self.send_header("Location", content.decode())
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((host, 0), Handler) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        found.url = f"https://{host}:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
