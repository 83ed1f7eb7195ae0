"""A webhook on a real server: delivery, retries, and no secrets in errors."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bpudeploy.errors import UsageError
from bpudeploy.fleet.summary import to_json
from bpudeploy.fleet.webhook import TRIES, WebhookError, check_url, post
from tests.fleet import journals

Answer = tuple[int, dict[str, str]]


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """Gives its answers in turn, the last one for ever."""

    answers: list[Answer]
    sleeps: float = 0.0
    seen: list[Seen] = field(default_factory=list)
    port: int = 0

    def url(self, path: str = "/hook", user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}{path}"


@contextmanager
def serving(*answers: Answer, sleeps: float = 0.0) -> Iterator[Server]:
    state = Server(list(answers), sleeps)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.seen.append(Seen(self.path, dict(self.headers), body))
            time.sleep(state.sleeps)
            status, headers = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            raise AssertionError("nothing is ever read from a webhook")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


OK: Answer = (204, {})
BUSY: Answer = (503, {})


def failing(url: str, timeout: float = 5.0) -> tuple[WebhookError, list[float]]:
    waited: list[float] = []
    with pytest.raises(WebhookError) as caught:
        post(url, {"rollout": "r"}, timeout=timeout, wait=waited.append)
    return caught.value, waited


def told(error: BaseException | None) -> str:
    """Return all that an error and its causes say."""
    return (
        ""
        if error is None
        else f"{error!r} {error} {getattr(error, 'hint', '')} " + told(error.__cause__ or error.__context__)
    )


def test_the_sum_of_a_rollout_arrives_as_json() -> None:
    summary = to_json(journals.hundred(2))
    with serving(OK) as server:
        post(server.url("/hook?token=1"), summary)
    (seen,) = server.seen
    assert (seen.path, seen.headers["Content-Type"]) == ("/hook?token=1", "application/json")
    assert json.loads(seen.body) == json.loads(json.dumps(summary))
    assert seen.headers["User-Agent"].startswith("bpudeploy/")
    assert "Authorization" not in seen.headers


def test_user_and_password_are_sent_as_basic_authentication() -> None:
    with serving(OK) as server:
        post(server.url(user="ada:s%40cret@"), {})
    assert server.seen[0].headers["Authorization"] == "Basic YWRhOnNAY3JldA=="
    assert server.seen[0].headers["Host"] == f"127.0.0.1:{server.port}"


def test_after_500_it_is_tried_again() -> None:
    waited: list[float] = []
    with serving((500, {}), OK) as server:
        post(server.url(), {"rollout": "r"}, wait=waited.append)
    assert [json.loads(s.body) for s in server.seen] == [{"rollout": "r"}] * 2
    assert waited == [1.0]


def test_a_server_that_stays_broken_is_given_up_after_three_tries() -> None:
    with serving(BUSY) as server:
        error, waited = failing(server.url())
    assert (len(server.seen), waited) == (TRIES, [1.0, 2.0])
    assert error.message == f"webhook http://127.0.0.1:{server.port}: not delivered in 3 attempts: status 503"


def test_what_is_refused_for_good_is_not_tried_again() -> None:
    with serving((404, {})) as server:
        error, waited = failing(server.url())
    assert (len(server.seen), waited) == (1, [])
    assert error.message.endswith("not delivered: status 404")


def test_a_slow_server_is_not_waited_for() -> None:
    with serving(OK, sleeps=1.0) as server:
        began = time.monotonic()
        error, _ = failing(server.url(), timeout=0.1)
        assert time.monotonic() - began < 0.9
    assert error.message.endswith("in 3 attempts: timed out")


def test_a_refused_connection_is_tried_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        error, waited = failing(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert error.message.endswith("in 3 attempts: Connection refused")
    assert waited == [1.0, 2.0]


def test_what_does_not_speak_http_is_an_error() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer() -> None:
            for _ in range(TRIES):
                peer, _ = listener.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        error, _ = failing(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()
    assert error.message.endswith("in 3 attempts: BadStatusLine")


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_on_the_same_host_is_followed_with_the_whole_payload(status: int) -> None:
    with serving((status, {"Location": "/new?x=1"}), OK) as server:
        post(server.url(user="a:b@"), {"rollout": "r"})
    assert [s.path for s in server.seen] == ["/hook", "/new?x=1"]
    assert server.seen[0].body == server.seen[1].body
    assert "Authorization" in server.seen[1].headers


def test_a_redirect_to_another_host_is_not_followed() -> None:
    with serving(OK) as other, serving((307, {"Location": f"http://localhost:{other.port}/x?secret"})) as server:
        error, _ = failing(server.url())
    assert other.seen == []
    assert error.message.endswith(f"it redirects to http://localhost:{other.port}, which is not followed")


@pytest.mark.parametrize("where", ["https://127.0.0.1/", "file:///etc/passwd", "http://[::1", "//evil.example/", ""])
def test_no_other_redirect_is_followed(where: str) -> None:
    with serving((308, {"Location": where} if where else {})) as server:
        failing(server.url())
    assert len(server.seen) == 1


def test_a_redirect_that_loses_the_post_is_not_followed() -> None:
    with serving((302, {"Location": "/login"})) as server:
        error, _ = failing(server.url())
    assert len(server.seen) == 1
    assert "status 302, a redirect that does not preserve the POST" in error.message


def test_a_circle_of_redirects_ends() -> None:
    with serving((307, {"Location": "/hook"})) as server:
        error, _ = failing(server.url())
    assert len(server.seen) == 3
    assert error.message.endswith("more than 2 redirects")


@pytest.mark.parametrize("answer", [(500, {}), (404, {}), (302, {"Location": "/"}), (307, {"Location": "http://x/?q"})])
def test_no_error_tells_user_password_path_or_query(answer: Answer) -> None:
    with serving(answer) as server:
        error, _ = failing(server.url("/T0K3N/x?key=QU3RY#FR4G", user="us3r:pa55@"))
    assert not any(secret in told(error) for secret in ("us3r", "pa55", "T0K3N", "QU3RY", "FR4G"))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://us3r:pa55@host/",
        "file:///T0K3N",
        "host/T0K3N",
        "https://",
        "https://us3r:pa55@/T0K3N",
        "https://us3r:pa55",
        "http://us3r@host:pa55/T0K3N",
        "http://host:99999999/T0K3N",
        "http://[::1/T0K3N",
        "http://host/T0K3N with blanks",
        "http://host/T0K3N\r\nX-Evil: 1",
        "http://us3r:pa55\u2100@h\u00f6st/",
        "http://host:0/",
    ],
)
def test_what_is_no_http_address_is_refused_before_a_rollout_begins(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_url(url)
    assert not any(secret in told(caught.value) for secret in ("us3r", "pa55", "T0K3N"))
    with pytest.raises(UsageError):
        post(url, {})


@pytest.mark.parametrize("url", ["https://hooks.example/services/T/B?x=1", "http://a:b@[::1]:8080/"])
def test_a_valid_url_is_accepted(url: str) -> None:
    check_url(url)
