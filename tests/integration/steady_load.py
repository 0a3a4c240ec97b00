"""A steady load of inference requests from a process of its own, which never tries one again.

``python steady_load.py ADDRESS PORT RATE`` asks until its standard input ends, and then writes one
line of JSON for each request. Every other request comes over a new connection.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

BODY = json.dumps(
    {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}
).encode()
TIMEOUT = 10.0


@dataclass
class Requests:
    """What became of the requests of a load.

    :param answered: seconds (monotonic) at which a request was answered with status 200, sorted.
    :param latencies: seconds that each of these took.
    :param versions: how many answers came from each version of the model.
    :param lost: what the others ended with, and how many did.
    """

    answered: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        return len(self.answered) + self.lost.total()

    @property
    def longest_gap(self) -> float:
        """Most seconds between two answers."""
        return max(b - a for a, b in zip(self.answered, self.answered[1:], strict=False))

    @property
    def rate(self) -> float:
        """Requests per second that were answered."""
        return len(self.answered) / (self.answered[-1] - self.answered[0])

    def __str__(self) -> str:
        slowest = sorted(self.latencies)
        return (
            f"{self.sent} requests, {self.lost.total()} lost {dict(self.lost)},"
            f" {self.rate:.0f}/s answered by {dict(self.versions)},"
            f" longest gap {self.longest_gap * 1000:.0f} ms,"
            f" p50 {slowest[len(slowest) // 2] * 1000:.1f} ms,"
            f" p99 {slowest[len(slowest) * 99 // 100] * 1000:.1f} ms"
        )


class SteadyLoad:
    """Context in which a device is asked; :attr:`requests` has the outcome afterwards."""

    def __init__(self, address: str, port: int = 8000, rate: float = 60.0) -> None:
        self._command = [sys.executable, __file__, address, str(port), str(rate)]
        self.requests = Requests()

    def __enter__(self) -> SteadyLoad:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        time.sleep(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        time.sleep(1)
        out, _ = self._process.communicate(timeout=60)
        rows = sorted(json.loads(line) for line in out.splitlines())
        for at, seconds, version, trouble in rows:
            if trouble:
                self.requests.lost[trouble] += 1
            else:
                self.requests.answered.append(at)
                self.requests.latencies.append(seconds)
                self.requests.versions[version] += 1


class _Client:
    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.rows: list[tuple[float, float, str, str]] = []

    async def ask(self, keep: bool) -> None:
        start, version, trouble = time.monotonic(), "", ""
        try:
            version = await asyncio.wait_for(self._ask(keep), TIMEOUT)
        except (OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
            trouble = str(error) if isinstance(error, ValueError) else type(error).__name__
        now = time.monotonic()
        self.rows.append((now, now - start, version, trouble))

    async def _ask(self, keep: bool) -> str:
        reader, writer = await self._connection(keep)
        try:
            head = (
                f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: {self.address}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n"
                f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
            )
            writer.write(head.encode() + BODY)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            length = next(int(x.partition(":")[2]) for x in lines if x.startswith("content-length"))
            body = await reader.readexactly(length)
            status = lines[0].split()[1]
            if status != "200":
                raise ValueError(f"status {status}")
            keep = keep and "connection: close" not in lines
            version = str(json.loads(body)["model_version"])
        except BaseException:
            keep = False
            raise
        finally:
            if keep:
                self.idle.append((reader, writer))
            else:
                writer.close()
        return version

    async def _connection(self, keep: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while keep and self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.address, self.port)


async def _run(address: str, port: int, rate: float) -> list[Any]:
    client, tasks = _Client(address, port), set()
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    start, number = time.monotonic(), 0
    while not ended.done():
        task = asyncio.create_task(client.ask(keep=number % 2 == 0))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
    await asyncio.gather(*tasks)
    return client.rows


if __name__ == "__main__":
    for row in asyncio.run(_run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))):
        print(json.dumps(row))
