"""Deliver the summary of a rollout to a webhook with one POST."""

from __future__ import annotations

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from bpudeploy import __version__
from bpudeploy.errors import BpudeployError, UsageError

TRIES = 3
TIMEOUT_S = 10.0
"""Timeout of each network operation."""
_MAX_REQUESTS = 3
_BACKOFF_S = 1.0
_PORTS = {"http": 80, "https": 443}


class WebhookError(BpudeployError):
    """A webhook was not delivered; the command only warns about it.

    The message and its causes contain only scheme, host and port of the URL: paths and queries are often secrets.
    """


class _Retryable(Exception):
    """A failure that is worth a retry."""


def check_url(url: str) -> SplitResult:
    """Return the parts of a webhook's URL; called before a rollout starts.

    Raises:
        UsageError: it is not an http or https URL.
    """
    found = _split(url)
    if found is None:  # without a cause: those of urllib quote the URL
        raise UsageError(
            "the webhook address is not an http or https URL",
            hint="use https://HOST/PATH or http://HOST/PATH; percent-encode non-ASCII characters",
        )
    return found


def _split(url: str, base: str = "") -> SplitResult | None:
    try:
        url = urljoin(base, url)
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    written = url.isascii() and url.isprintable() and " " not in url
    return parts if written and parts.scheme in _PORTS and host and port != 0 else None


def post(
    url: str,
    payload: Mapping[str, object],
    *,
    timeout: float = TIMEOUT_S,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Post ``payload`` as JSON, with a user and password in ``url`` as basic authentication.

    After a 5xx response or a connection error it retries, ``TRIES`` attempts in all; the receiver may therefore see
    the payload twice and should recognize it by its ``rollout``. Redirects are followed only if they are a 307 or 308
    to the same scheme, host and port.

    Raises:
        WebhookError: it was not delivered.
        UsageError: see ``check_url``.
    """
    parts = check_url(url)
    body = json.dumps(payload).encode()
    for left in reversed(range(TRIES)):
        try:
            return _once(parts, body, timeout)
        except _Retryable as error:
            if not left:
                raise WebhookError(
                    f"webhook {_origin(parts)}: not delivered in {TRIES} attempts: {error}",
                    hint="the rollout is not affected; `bpudeploy fleet status --json` prints the payload",
                ) from error
            wait(_BACKOFF_S * 2 ** (TRIES - 1 - left))


def _once(parts: SplitResult, body: bytes, timeout: float) -> None:
    """Post once, following redirects."""
    at = parts
    for _ in range(_MAX_REQUESTS):
        status, location = _send(at, parts, body, timeout)
        if 200 <= status < 300:
            return
        if status >= 500:
            raise _Retryable(f"status {status}")
        if status not in (307, 308) or location is None:
            loses = ", a redirect that does not preserve the POST; pass the redirect target as --webhook"
            more = loses if 300 <= status < 400 else ""
            raise WebhookError(f"webhook {_origin(parts)}: not delivered: status {status}{more}")
        at = _follow(at, location, parts)
    raise WebhookError(f"webhook {_origin(parts)}: not delivered: more than {_MAX_REQUESTS - 1} redirects")


def _send(at: SplitResult, first: SplitResult, body: bytes, timeout: float) -> tuple[int, str | None]:
    """Send one request and return the status and ``Location`` of the response.

    Raises:
        _Retryable: there was no response.
    """
    host = at.netloc.rpartition("@")[2]  # without user and password
    request = urllib.request.Request(urlunsplit(at._replace(netloc=host, fragment="")), data=body, method="POST")
    request.add_header("Content-Type", "application/json")
    request.add_header("User-Agent", f"bpudeploy/{__version__}")
    if first.username is not None:
        pair = f"{unquote(first.username)}:{unquote(first.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    try:
        with _opener().open(request, timeout=timeout) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("Location")
    except (OSError, http.client.HTTPException) as error:
        raise _Retryable(_reason(error.reason if isinstance(error, urllib.error.URLError) else error)) from error


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener that uses the proxies of the environment and does not follow redirects."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _follow(at: SplitResult, location: str, first: SplitResult) -> SplitResult:
    to = _split(location, urlunsplit(at))
    if to is None:
        raise WebhookError(
            f"webhook {_origin(first)}: not delivered: it redirects to something that is not an http or https URL"
        )
    if _origin(to) != _origin(first):
        raise WebhookError(
            f"webhook {_origin(first)}: not delivered: it redirects to {_origin(to)}, which is not followed",
            hint="pass the redirect target as --webhook if you trust it",
        )
    return to


def _origin(parts: SplitResult) -> str:
    """Return the part of a URL that may be printed."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port
    return f"{parts.scheme}://{host}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


def _reason(reason: object) -> str:
    """Return the reason of an error without the URL that some errors quote."""
    if isinstance(reason, TimeoutError):
        return "timed out"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__ if isinstance(reason, BaseException) else "the connection failed"
