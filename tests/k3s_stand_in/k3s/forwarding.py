"""Ports that pass connections on: the servers' own port, and the agents' load balancer.

Port 6443 of a server carries two kinds of TLS connections. Those of other nodes' programs name
:data:`SUPERVISOR_PROTOCOL` in the list of application protocols that a client begins with; they go
to the supervisor, all others to the API server. (The real K3s serves both in one process.)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence

from .processes import log

SUPERVISOR_PROTOCOL = "k3s-stand-in-supervisor"

Address = tuple[str, int]

_CONNECT_SECONDS = 2.0
_PROBE_SECONDS = 1.0


class Forwarder:
    """One port that passes connections on to the first of several addresses that answers.

    :param backends: where a connection may go to, given the bytes that it began with.
    :param probing: whether to close connections to an address that stopped answering.
    """

    def __init__(
        self,
        listen: Address,
        backends: Callable[[bytes], Sequence[Address]],
        probing: bool = False,
    ) -> None:
        self._listen = listen
        self._backends = backends
        self._probing = probing
        self._open: dict[Address, set[asyncio.StreamWriter]] = {}
        self._bound = threading.Event()
        self._error: OSError | None = None

    def start(self) -> None:
        """Listen from now on.

        :raises OSError: when the port is taken.
        """
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._bound.wait()
        if self._error:
            raise self._error

    async def _serve(self) -> None:
        try:
            server = await asyncio.start_server(self._pass_on, *self._listen)
        except OSError as error:
            self._error = error
            return
        finally:
            self._bound.set()
        if self._probing:
            self._prober = asyncio.create_task(self._probe())
        async with server:
            await server.serve_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            begin = await _first_record(reader)
            for address in self._backends(begin) if begin else ():
                with contextlib.suppress(OSError, asyncio.TimeoutError):
                    there, back = await asyncio.wait_for(
                        asyncio.open_connection(*address), _CONNECT_SECONDS
                    )
                    break
            else:
                return
            mine = self._open.setdefault(address, set())
            mine.add(back)
            back.write(begin)
            try:
                await asyncio.gather(_copy(reader, back), _copy(there, writer))
            finally:
                mine.discard(back)
                back.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _probe(self) -> None:
        missed: dict[Address, int] = {}
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            for address, connections in list(self._open.items()):
                if not connections:
                    continue
                try:
                    _, probe = await asyncio.wait_for(
                        asyncio.open_connection(*address), _CONNECT_SECONDS
                    )
                    probe.close()
                    missed[address] = 0
                except (OSError, asyncio.TimeoutError):
                    missed[address] = missed.get(address, 0) + 1
                if missed[address] >= 2:
                    log("warning", f"load balancer: {address[0]} does not answer any more")
                    for each in list(connections):
                        each.transport.abort()
                    connections.clear()


async def _first_record(reader: asyncio.StreamReader) -> bytes:
    """The record that a TLS connection begins with, whole."""
    head = await reader.readexactly(5)
    if head[0] != 22:
        return head
    return head + await reader.readexactly(int.from_bytes(head[3:5], "big"))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()
