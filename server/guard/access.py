"""Keys of the API, and the rule that a server for others needs one.

A key comes in the header `Authorization: Bearer KEY`, or, as browsers' WebSockets cannot send that,
as the subprotocol `openai-insecure-api-key.KEY`. It is compared as a digest, in constant time, and
is taken out of the request before anything else sees it, so that no log and no traceback can hold
it. The log of refusals has the address of the client and nothing that it has sent.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Container, Iterable, MutableMapping
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from ...decode import read_within
from ...errors import UsageError
from ...limits import KB
from ..api_error import ApiError
from .refusals import refuse

log = logging.getLogger(__name__)

VARIABLE = "VOXTRAL_ONNX_API_KEYS"  # keys, separated by commas or blanks
OPEN_PATHS = frozenset({"/health", "/ready"})  # each answers a word, for those who watch a server
CLIENT = "voxtral_onnx.client"  # of a scope: who uses the API, `key 1` or an address; never a key
LEAST_KEY = 16  # characters; shorter ones can be guessed over a network
WRONG_KEY = "the API key is not one of this server's"
NO_KEY = (
    "an API key is needed: send the header Authorization: Bearer KEY; for a browser's WebSocket "
    "the subprotocol openai-insecure-api-key.KEY"
)
# Refuses the WebSocket of a browser, if it returns true
RefuseBrowser = Callable[[Scope, Receive, Send, ApiError], Awaitable[bool]]
_KEY = re.compile(r"[!-+\--~]{16,512}")  # visible, in ASCII, without a comma
_SUBPROTOCOL = "openai-insecure-api-key."  # as OpenAI's client for browsers sends it
_MOST_FILE = 64 * KB
_IN_ADDRESSES = frozenset(
    ("key", "apikey", "api_key", "api-key", "access_token", "token", "authorization", "bearer")
)


class ApiKeys:
    """Keys of an API, of which only digests are held."""

    def __init__(self, keys: Iterable[str] = ()):
        """Take keys; none for an API that everybody may use.

        Raises:
            UsageError: one is too short, or has characters that headers do not hold.
        """
        self._digests: list[bytes] = []
        for number, key in enumerate(dict.fromkeys(keys), 1):
            if not _KEY.fullmatch(key):
                raise UsageError(
                    f"API key {number}: expected {LEAST_KEY} to 512 visible characters without "
                    f"commas, got {len(key)} characters; make one with: "
                    'python -c "import secrets; print(secrets.token_urlsafe(32))"'
                )
            self._digests.append(_digest(key))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._digests)} keys)"

    def identify(self, key: str) -> str | None:
        """Return `key 1`, `key 2` and so on for a key; None for another one.

        It takes the same time whichever key it is, and however much of one is right.
        """
        digest, found = _digest(key), None
        for number, own in enumerate(self._digests, 1):
            if hmac.compare_digest(digest, own):
                found = f"key {number}"
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def read_keys(
    given: Iterable[str], file: Path | None, environment: MutableMapping[str, str]
) -> ApiKeys:
    """Return the keys of the command line, of a file and of the environment together.

    The variable is removed, so that no process that is started later inherits it. Arguments can be
    seen in the list of processes; the other two cannot.

    Args:
        given: those of the command line.
        file: has a key a line; empty lines and those that begin with # are left out.
        environment: whose variable `VARIABLE` has keys.

    Raises:
        UsageError: the file cannot be read or has none, or a key is not valid.
    """
    keys = list(given)
    keys += re.split(r"[,\s]+", environment.pop(VARIABLE, ""))
    if file is not None:
        try:
            content = read_within(file, _MOST_FILE, lambda reason: UsageError(f"{file}: {reason}"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(f"{file}: no such file; it is to have an API key a line") from error
        lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UsageError(f"{file}: expected an API key a line, got none")
        keys += found
    return ApiKeys(key for key in keys if key)


def is_local(host: str) -> bool:
    """Return whether only this computer can reach an address that is listened on."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"


def require_guarded(host: str, keys: ApiKeys, *, insecure: bool = False) -> None:
    """Refuse to offer the API to others without a key, unless the user says so in so many words.

    Args:
        host: address to listen on.
        keys: of the API.
        insecure: whether the user has said so.

    Raises:
        UsageError: others can reach the address, and there is no key.
    """
    if not (keys or insecure or is_local(host)):
        raise UsageError(
            f"--host {host}: everybody in the network could use this server; give --api-key KEY "
            f"(or --api-key-file FILE, or ${VARIABLE}), or say --insecure"
        )


def require_local(host: str, option: str, *, insecure: bool = False) -> None:
    """Refuse to offer a protocol without keys to others, unless the user says so.

    Args:
        host: address to listen on.
        option: that names it.
        insecure: whether the user has said so.

    Raises:
        UsageError: others can reach the address.
    """
    if not (insecure or is_local(host)):
        raise UsageError(
            f"{option} {host}: its protocol has no keys, so everybody in the network could use "
            "this server; listen on 127.0.0.1, or say --insecure"
        )


class KeyCheck:
    """Middleware that lets those use an application who have a key, and all use its open paths.

    Requests that pass have `CLIENT` in their scope, except those for open paths.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        open_paths: Container[str] = OPEN_PATHS,
        refuse_browser: RefuseBrowser | None = None,
    ):
        """Guard an application.

        Args:
            app: what is guarded.
            keys: who may use it; if there are none, everybody.
            open_paths: what may be read (GET and HEAD) without a key.
            refuse_browser: refuses the WebSocket of a browser in a way that its scripts can see,
                if it returns true.
        """
        self.app, self._keys, self._open_paths = app, keys, open_paths
        self._refuse_browser = refuse_browser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the application, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        is_browser = _is_browser(scope)
        scope, keys = _without_keys(scope)
        if _has_key_in_address(scope):
            message = (
                "a key does not belong in an address, which ends up in logs: replace this key, and "
                "send the new one in the header Authorization: Bearer KEY"
            )
            error = ApiError(message, status=400, code="key_in_address")
            await self._refuse(scope, receive, send, error, is_browser)
            return

        # Identify the client
        is_reading = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        is_open = is_reading and scope["path"] in self._open_paths
        client = (scope.get("client") or ("?",))[0]
        if self._keys and not is_open:
            known = self._keys.identify(keys[0]) if len(keys) == 1 else None
            if known is None:
                log.warning("a request without a valid API key was refused: %s", client)
                error = ApiError(WRONG_KEY if keys else NO_KEY, status=401, code="invalid_api_key")
                await self._refuse(scope, receive, send, error, is_browser)
                return
            client = known
        if not is_open:
            scope[CLIENT] = client
        await self.app(scope, receive, send)

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, error: ApiError, is_browser: bool
    ) -> None:
        tell = self._refuse_browser if is_browser else None
        if tell and await tell(scope, receive, send, error):
            return
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        await refuse(scope, receive, send, error.status, str(error), error.code or "", headers)


def _is_browser(scope: Scope) -> bool:
    """Return whether a script of a browser asks for a WebSocket."""
    if scope["type"] != "websocket":
        return False
    offers_key = any(each.startswith(_SUBPROTOCOL) for each in scope["subprotocols"])
    return offers_key or any(name == b"origin" for name, _ in scope["headers"])


def _has_key_in_address(scope: Scope) -> bool:
    query = scope.get("query_string", b"").decode("latin-1")
    return any(name.lower() in _IN_ADDRESSES for name, _ in parse_qsl(query, True))


def _without_keys(scope: Scope) -> tuple[Scope, list[str]]:
    """Return a copy of a scope without keys, and the keys that it has."""
    headers, keys = [], list[str]()
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        if name == b"authorization":
            scheme, _, key = text.strip().partition(" ")
            keys.append(key.strip() if scheme.lower() == "bearer" else "")
            continue
        if name == b"sec-websocket-protocol":
            protocols = [each.strip() for each in text.split(",")]
            keys += [
                each.removeprefix(_SUBPROTOCOL)
                for each in protocols
                if each.startswith(_SUBPROTOCOL)
            ]
            value = ", ".join(_public(protocols)).encode("latin-1")
        headers.append((name, value))
    clean = {**scope, "headers": headers}
    if "subprotocols" in scope:
        clean["subprotocols"] = _public(scope["subprotocols"])
    return clean, keys


def _public(protocols: Iterable[str]) -> list[str]:
    return [each for each in protocols if not each.startswith(_SUBPROTOCOL)]
