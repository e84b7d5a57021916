"""Limits on what a picture or a URL may cost: both are untrusted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on what one picture may cost.

    Attributes:
        max_pixels: width x height, as the header states it, above which a picture is refused.
        max_bytes: size of the encoded picture above which a download or a data: URI is refused.
        connect_timeout: seconds for one connection to open.
        total_timeout: seconds for one URL, including redirects.
        max_redirects: how many redirects are followed, each checked like the first address.
        allow_private: whether loopback, private and link-local addresses are allowed.
        hosts: the only hosts, as "name" or "name:port", that a picture is fetched from, at any address, in lower case.
            None = every host, as far as `allow_private` says.
    """

    max_pixels: int = 178_956_970
    max_bytes: int = 64 * 2**20
    connect_timeout: float = 10.0
    total_timeout: float = 60.0
    max_redirects: int = 5
    allow_private: bool = False
    hosts: tuple[str, ...] | None = None
