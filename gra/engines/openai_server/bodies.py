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
        limit: the most bytes to hold, after decompression, and to read before it.

    Returns:
        The body; what follows the end of compressed data is left unread.

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
    received = 0
    async for chunk in response.content.iter_chunked(_CHUNK):
        received += len(chunk)
        try:
            body += chunk if inflate is None else inflate.decompress(chunk, limit + 1 - len(body))
        except zlib.error:
            raise UnreadableBody("a body whose compression is damaged") from None
        # Compressed data without end may unpack to nothing: an endless header, or empty blocks.
        if len(body) > limit or received > limit + _CHUNK:
            raise UnreadableBody(f"more than {limit / MIB:.1f} MiB")
        if inflate is not None and inflate.eof:
            break  # zlib would copy all that follows, again and again
    return bytes(body)
