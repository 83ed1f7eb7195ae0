"""S3 servers for tests. Neither is Amazon's.

``juicefs``: the JuiceFS gateway, a release binary of a production file store; its S3 API is MinIO's code, which
verifies signatures and credentials. It ignores If-None-Match.
``moto``: a test double. It accepts any credentials until ``read_only_account`` enables authentication, and supports
If-None-Match.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER, SECRET, BUCKET = "teamadmin", "teamsecret", "team"


@dataclass(frozen=True)
class Server:
    """A running server, and the environment with its credentials."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self, service: str = "s3") -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=USER,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(connect_timeout=1, read_timeout=10, retries={"max_attempts": 0}),
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def moto() -> Iterator[Server]:
    port = free_port()
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(argv, port, dict(os.environ)) as server:
        yield server


def read_only_account(server: Server) -> dict[str, str]:
    """Enable authentication in moto, and return the environment of an account that may read and list."""
    iam = server.client("iam")
    iam.create_user(UserName="reader")
    rights = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*", "s3:Head*"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rights]})
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    made = iam.create_access_key(UserName="reader")["AccessKey"]
    plain = {"Content-Type": "text/plain"}
    look = urllib.request.Request(f"{server.endpoint}/moto-api/reset-auth", data=b"0", headers=plain)
    urllib.request.urlopen(look, timeout=10).close()
    keys = {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}
    return {**server.environment, **keys}


@contextmanager
def juicefs(folder: Path) -> Iterator[Server]:
    """Serve ``folder`` as a new volume."""
    program, meta, port = Path(sys.executable).with_name("juicefs"), f"sqlite3://{folder}/meta.db", free_port()
    made = [str(program), "format", "--storage", "file", "--bucket", f"{folder}/data/", meta, "volume"]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    argv = [str(program), "gateway", "--no-usage-report", "--multi-buckets", "--keep-etag"]
    argv += ["--cache-dir", f"{folder}/cache", "--log", f"{folder}/log"]
    environment = {**os.environ, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": SECRET, "HOME": str(folder)}
    with _running([*argv, meta, f"127.0.0.1:{port}"], port, environment) as server:
        yield server


@contextmanager
def _running(argv: list[str], port: int, environment: dict[str, str]) -> Iterator[Server]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        _make_bucket(server)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _make_bucket(server: Server) -> None:
    """Wait until the server responds, and create the bucket if it is missing."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if BUCKET not in {b["Name"] for b in server.client().list_buckets()["Buckets"]}:
                server.client().create_bucket(Bucket=BUCKET)
            return
        except Exception:
            if time.monotonic() > deadline or server.process.poll() is not None:
                raise
            time.sleep(0.2)
