"""Limits on what a picture, a video or a URL may cost: all are untrusted."""

from __future__ import annotations

from dataclasses import dataclass, field

from image_text_embedding.inputs.decoding.memory_budget import default_decoding_memory


@dataclass(frozen=True)
class Limits:
    """Limits on what one picture or video may cost.

    Attributes:
        max_pixels: width x height, as the header states it, above which a picture, or a video's frame, is refused.
        decoding_memory: bytes that all pictures which this process decodes at the same time may take together. A picture
            that does not fit waits for others, and one that needs more than all of it is refused. A quarter of the
            machine's memory, at most 1 GiB. (100 million pixels take 0.8 GB as JPEG, 1.6 GB as WebP.)
        max_bytes: size of the encoded picture or video above which a download or a data: URI is refused.
        connect_timeout: seconds for one connection to open.
        total_timeout: seconds for one URL, including redirects.
        max_redirects: how many redirects are followed, each checked like the first address.
        allow_private: whether loopback, private and link-local addresses are allowed.
        video_timeout: seconds that reading the frames of one video may take.
        allow_files: whether a picture or a video may be a path. A service whose users send pictures sets it to False: a
            string is then a URL, and never a file of the server's.
        hosts: the only hosts, as "name" or "name:port", that a picture is fetched from, at any address, in lower case.
            None = every host, as far as `allow_private` says.
    """

    max_pixels: int = 100_000_000
    decoding_memory: int = field(default_factory=default_decoding_memory)
    max_bytes: int = 64 * 2**20
    connect_timeout: float = 10.0
    total_timeout: float = 60.0
    max_redirects: int = 5
    video_timeout: float = 60.0
    allow_private: bool = False
    allow_files: bool = True
    hosts: tuple[str, ...] | None = None
