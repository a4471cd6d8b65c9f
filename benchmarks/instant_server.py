"""Serve an OpenAI-compatible API that answers every request with the same words as fast as Python can.

Run as: python benchmarks/instant_server.py. It prints its port, serves until its input closes, and then prints the
number of requests. It parses no JSON and of HTTP only the length of a body, so that a benchmark measures the client.
"""

from __future__ import annotations

import asyncio
import json
import sys

_REPLY = json.dumps({
    "id": "x", "object": "chat.completion", "model": "model-a",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Rivers run to the sea. " * 20},
                 "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 400, "completion_tokens": 120, "total_tokens": 520},
}).encode()  # fmt: skip
_MODELS = json.dumps({"data": [{"id": "model-a", "owned_by": "benchmark"}]}).encode()


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class Instant(asyncio.Protocol):
    """One connection."""

    asked = 0  # over all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is read yet."""
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            mark = head.find(b"content-length:")
            length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            if len(self.received) < end + 4 + length:
                return
            self.received = self.received[end + 4 + length :]
            if asks := not head.startswith(b"get"):
                Instant.asked += 1
            self.transport.write(_response(_REPLY if asks else _MODELS))  # type: ignore[attr-defined]


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Instant, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(Instant.asked, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
