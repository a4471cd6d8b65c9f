"""Read a server's reply into bounded memory."""

from __future__ import annotations

import zlib

import aiohttp

MIB = 2**20
_CHUNK = 2**16
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # as zlib counts them: 16 more reads the header of gzip


class UnreadableBody(Exception):
    """Report a body that is too long, or compressed in a way that was not asked for or is damaged."""


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body, decompressed.

    Args:
        response: of a session that does not decompress by itself.
        limit: the most bytes to hold, after decompression.

    Raises:
        UnreadableBody: the body has more bytes, or cannot be decompressed.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        inflate = None
    elif encoding in _WINDOW:
        inflate = zlib.decompressobj(_WINDOW[encoding])
    else:
        raise UnreadableBody("a body in a compression that was not asked for")
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        try:
            body += chunk if inflate is None else inflate.decompress(chunk, limit + 1 - len(body))
        except zlib.error:
            raise UnreadableBody("a body whose compression is damaged") from None
        if len(body) > limit:
            raise UnreadableBody(f"more than {limit / MIB:.1f} MiB")
    return bytes(body)
