"""The settings of the HTTP service: what it serves, and what a request may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from image_text_embedding.foundation.argument_checks import is_number, require_integer
from image_text_embedding.foundation.errors import InputError
from image_text_embedding.inputs.limits import Limits


@dataclass(frozen=True)
class ServingSettings:
    """What the service serves, and what a request may cost.

    Attributes:
        models: names, hub ids or files, as `load` takes them.
        gallery: the index for `/search`: a .db file or the address of a Milvus server.
        device, backend, precision: as in `load`.
        api_key: what clients send as `Authorization: Bearer ...`. None = no key is needed.
        allow_hosts: the only hosts, "name" or "name:port", that pictures are fetched from, private ones included. Empty =
            every host with a public address.
        allow_hostnames: the names of this server that a request's Host header may have, besides localhost and IP addresses.
            None = every name. (A page can give its own name the address of this machine, DNS rebinding, and then asks as if
            the server were its own.)
        allow_roots: folders whose pictures a request may name by path. Empty = no file of this machine is read.
        max_body: bytes of a request's body.
        max_items: pictures or texts in a request.
        max_pixels: of a picture, as its header states them.
        max_text: characters of a text.
        max_batch: items that a model computes at once.
        queue: items that the service works on or has waiting; beyond them it answers 429.
        cache: answers that are remembered by the content of their pictures and texts. 0 = none.
        timeout: seconds from a request's first byte to its answer; beyond them it answers 504.

    Raises:
        InputError: a value is out of range, or a root is no folder.
    """

    models: tuple[str, ...] = ("blip_demo",)
    gallery: str | None = None
    device: str | None = None
    backend: str = "torch"
    precision: str | None = None
    api_key: str | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_hostnames: tuple[str, ...] | None = None
    allow_roots: tuple[Path, ...] = ()
    max_body: int = 32 * 2**20
    max_items: int = 256
    max_pixels: int = 50_000_000
    max_text: int = 10_000
    max_batch: int = 32
    queue: int = 1024
    cache: int = 0
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_body", "max_items", "max_pixels", "max_text", "max_batch", "queue"):
            require_integer(name, getattr(self, name))
        require_integer("cache", self.cache, minimum=0)
        if not is_number(self.timeout) or not 0 < self.timeout <= 3600:
            raise InputError(f"timeout: expected seconds above 0, at most 3600, got {self.timeout!r}")
        if self.queue < self.max_items:
            raise InputError(f"queue: expected at least max_items={self.max_items}, got {self.queue}")
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise InputError("api_key: expected printable ASCII characters without spaces")
        for host in self.allow_hosts:
            if not re.fullmatch(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|[0-9A-Fa-f:.]+", host):
                raise InputError(f"allow_hosts: expected a host name or name:port, without http://, got {host!r}")
        for name in self.allow_hostnames or ():
            if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
                raise InputError(f"allow_hostnames: expected a host name without a port, got {name!r}")
        for root in self.allow_roots:
            if not root.is_dir():
                raise InputError(f"allow_roots: expected a folder, got {str(root)!r}")

    def limits(self) -> Limits:
        """What one picture may cost."""
        return Limits(
            max_pixels=self.max_pixels,
            max_bytes=self.max_body,
            connect_timeout=min(5.0, self.timeout),
            total_timeout=self.timeout,
            hosts=tuple(host.lower() for host in self.allow_hosts) or None,
        )
