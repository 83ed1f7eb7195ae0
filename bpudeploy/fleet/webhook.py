"""Tells another machine how a rollout ended: one POST of its sum."""

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
"""For each wait on the network."""
_HOPS = 3
_BACKOFF_S = 1.0
_PORTS = {"http": 80, "https": 443}


class WebhookError(BpudeployError):
    """A webhook was not delivered. It is a warning to whoever rolls out, and changes no exit code.

    Neither it nor its causes hold more of the address than scheme, host and port: paths and queries are often secrets.
    """


class _Again(Exception):
    """It may go better later."""


def check_url(url: str) -> str:
    """Return ``url`` where a webhook can be posted to it; to be asked before a rollout begins.

    Raises:
        UsageError: it is no http or https address.
    """
    _parts(url)
    return url


def _parts(url: str) -> SplitResult:
    found = _split(url)
    if found is None:  # no cause is chained: those of urllib quote the address
        raise UsageError(
            "the webhook's address is no http or https URL",
            hint="https://HOST/PATH or http://HOST/PATH; other characters than ASCII are percent-encoded",
        )
    return found


def _split(url: str) -> SplitResult | None:
    try:
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
    """Post ``payload`` as JSON. A user and password in ``url`` are sent as basic authentication.

    After an answer of 5xx or trouble with the connection it is tried again, ``TRIES`` times in all; so what takes it
    may see it twice, and knows it by its ``rollout``. A redirect is followed when it is a 307 or 308 to the same
    scheme, host and port: what is told is for the one who was named.

    Raises:
        WebhookError: it was not delivered.
        UsageError: see ``check_url``.
    """
    parts = _parts(url)
    body = json.dumps(payload).encode()
    for left in reversed(range(TRIES)):
        try:
            return _once(parts, body, timeout)
        except _Again as error:
            if not left:
                raise WebhookError(
                    f"webhook {_origin(parts)}: not delivered in {TRIES} tries: {error}",
                    hint="the rollout is not affected; `bpudeploy fleet status --json` prints what was to be sent",
                ) from error
            wait(_BACKOFF_S * 2 ** (TRIES - 1 - left))


def _once(parts: SplitResult, body: bytes, timeout: float) -> None:
    """Post once, over as many redirects as are allowed."""
    at = parts
    for _ in range(_HOPS):
        status, location = _answer(at, parts, body, timeout)
        if 200 <= status < 300:
            return
        if status >= 500:
            raise _Again(f"it answered {status}")
        if status not in (307, 308) or location is None:
            raise WebhookError(f"webhook {_origin(parts)}: not delivered: it answered {status}{_moved(status)}")
        at = _followed(at, location, parts)
    raise WebhookError(f"webhook {_origin(parts)}: not delivered: more than {_HOPS - 1} redirects")


def _answer(at: SplitResult, first: SplitResult, body: bytes, timeout: float) -> tuple[int, str | None]:
    """Return status and Location.

    Raises:
        _Again: nothing answered.
    """
    request = urllib.request.Request(urlunsplit(at._replace(netloc=_host(at), fragment="")), data=body, method="POST")
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
    except urllib.error.URLError as error:
        raise _Again(_why(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Again(_why(error)) from error


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens an address by the proxies of the environment, and hands a redirect back as it is."""
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


def _followed(at: SplitResult, location: str, first: SplitResult) -> SplitResult:
    to = _joined(at, location)
    if to is None:
        raise WebhookError(f"webhook {_origin(first)}: not delivered: it redirects to what is no http or https URL")
    if _origin(to) != _origin(first):
        raise WebhookError(
            f"webhook {_origin(first)}: not delivered: it redirects to {_origin(to)}, which is not followed",
            hint="give the address that it redirects to, if that is the one you mean",
        )
    return to


def _joined(at: SplitResult, location: str) -> SplitResult | None:
    try:
        return _split(urljoin(urlunsplit(at), location))
    except ValueError:
        return None


def _moved(status: int) -> str:
    return ", a redirect that does not keep a POST; give the address that it leads to" if 300 <= status < 400 else ""


def _host(parts: SplitResult) -> str:
    """Return host and port, without user and password."""
    return parts.netloc.rpartition("@")[2]


def _origin(parts: SplitResult) -> str:
    """Return all of an address that may be printed."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port
    return f"{parts.scheme}://{host}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


def _why(reason: object) -> str:
    """Return a reason without the address, which some errors quote."""
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__ if isinstance(reason, BaseException) else "the connection failed"
