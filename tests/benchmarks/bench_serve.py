"""How the HTTP service does under load: `python tests/benchmarks/bench_serve.py`.

One script on loopback: the server is a process of its own, the clients are in this one, and they share the machine's
processors; what the clients take is in the figures. It prints the rows of the serving issue's table with what was measured.
`--full-size` measures a made-up BLIP of the official base size at 384 pixels instead of `blip_demo`. `--seconds` is the
length of each measurement, `--overload` the seconds of overload.

`--fuzz` is the number of mutated requests, sent in ten parts. `--schemathesis` is that program, which may be installed in an
environment of its own (`pip install schemathesis`): it makes up `--examples` requests for each route from /openapi.json.

Items per second are compared with `encode_text` and `encode_image` in batches of 32, in this process, measured while the
server is idle, before and after: that is what the machine can do if nobody has to speak HTTP. Of a small model it is the
faster of two ways, with all threads of torch and with one, as its threads hold each other up where other programs run.
"""

from __future__ import annotations

import argparse
import base64
import functools
import platform
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from encode_bench.made_up_inputs import captions, make_weights
from encode_bench.measuring import Bench
from serve_bench.clients import Load, closed_loop, open_loop, post
from serve_bench.made_up_requests import run_schemathesis
from serve_bench.mutated_requests import fuzz_service
from serve_bench.server_process import ServerProcess, machine_use, running_process, server_process

SECTIONS = ("text", "pictures", "latency", "overload", "fuzz", "drip", "plain")


@dataclass
class Possible:
    """What is possible without HTTP: items per second, and seconds of processors for each."""

    rate: float
    cpu_seconds: float


def without_http(function: Callable[[Any], Any], items: list[Any], seconds: float, alone: bool = True) -> Possible:
    """How fast the function is, 32 items at a time.

    Args:
        alone: try one thread of torch as well as all of them, and take what is faster.
    """
    threads = torch.get_num_threads()
    try:
        ways = []
        for number in {1, threads} if alone else {threads}:
            torch.set_num_threads(number)
            ways.append(_without_http(function, items, seconds / 2))
        return max(ways, key=lambda way: way.rate)
    finally:
        torch.set_num_threads(threads)


def _without_http(function: Callable[[Any], Any], items: list[Any], seconds: float) -> Possible:
    function(items[:32])
    done, start, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds:
        function([items[(done + i) % len(items)] for i in range(32)])
        done += 32
    return Possible(done / elapsed, (time.process_time() - cpu) / done)


def texts_and_pictures(model: str) -> tuple[list[str], list[bytes]]:
    """What the clients send: captions of usual lengths, and the packaged pictures (for a large model photos of 640 px)."""
    import io

    from PIL import Image

    from image_text_embedding.demo.packaged_gallery import gallery

    pictures = [Path(entry["path"]).read_bytes() for entry in gallery()]
    if model == "blip_demo":
        from image_text_embedding.demo.packaged_gallery import gallery as entries

        sentences = [entry["caption"] for entry in entries() if entry.get("caption")] or ["a dog"]
        return sentences, pictures
    resized = []
    for content in pictures[:16]:
        file = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").resize((640, 480)).save(file, "JPEG", quality=90)
        resized.append(file.getvalue())
    return captions(500), resized


def text_requests(texts: list[str]) -> list[bytes]:
    return [post("/v1/embeddings", {"input": text, "encoding_format": "base64"}) for text in texts]


def picture_requests(pictures: list[bytes]) -> list[bytes]:
    return [
        post("/v1/embeddings", {"input": [{"image": base64.b64encode(each).decode()}], "encoding_format": "base64"})
        for each in pictures
    ]


def compare(server: ServerProcess, requests: list[bytes], clients: int, seconds: float, plain: Any) -> tuple[Load, str]:
    """What the server does, and its share of what is possible, by the clock and by processor time.

    Args:
        plain: measures without HTTP; called before and after, as others use the machine, too.
    """
    before, cpu = plain(), server.cpu_seconds()
    load = closed_loop(server.port, requests, clients, seconds)
    cpu, after = server.cpu_seconds() - cpu, plain()
    rate, cpu_seconds = (before.rate + after.rate) / 2, (before.cpu_seconds + after.cpu_seconds) / 2
    print(
        f"  without HTTP {before.rate:.1f} and {after.rate:.1f}/s; {clients} clients {load.rate():.1f}/s, {describe(load)}"
    )
    return load, f"{load.rate() / rate:.0%} (by CPU time {cpu_seconds * load.counts[200] / cpu:.0%})"


def report(name: str, value: str, bar: str) -> None:
    print(f"{name:58} {value:44} asked: {bar}", flush=True)


def describe(load: Load) -> str:
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(load.counts.items()))
    clients = load.cpu_seconds / sum(load.counts.values()) * 1e3
    p50, p99 = load.quantile(0.5) * 1e3, load.quantile(0.99) * 1e3
    return f"{counts}; p50 {p50:.1f} ms, p99 {p99:.1f} ms; clients {clients:.2f} ms CPU each"


@contextmanager
def dripping_server() -> Iterator[int]:
    """A server on loopback that sends a byte now and then; yields its port."""
    listener, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            wire, _ = listener.accept()
            threading.Thread(target=drip, args=(wire,), daemon=True).start()

    def drip(wire: socket.socket) -> None:
        with wire:
            try:
                wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not stop.wait(0.1):
                    wire.sendall(b"x")
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        listener.close()


@contextmanager
def memory_in_parts(server: ServerProcess, seconds: float, parts: int = 8) -> Iterator[list[float]]:
    """The most MiB of a server in each of equal parts of the time; the list is complete after the block."""
    most = [0.0] * parts
    start, ended = time.monotonic(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            part = min(parts - 1, int(parts * (time.monotonic() - start) / seconds))
            most[part] = max(most[part], server.memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def measure(
    server: ServerProcess, chosen: list[str], sizes: argparse.Namespace, plain: dict[str, Any], sent: Any
) -> None:
    """Run the chosen sections against a running server, and print their rows."""
    texts, pictures = text_requests(sent[0]), picture_requests(sent[1])
    closed_loop(server.port, texts, 64, 1.0)
    closed_loop(server.port, pictures, 8, 1.0)
    sections = {
        "text": lambda: measure_texts(server, sizes, texts, plain["text"]),
        "pictures": lambda: measure_pictures(server, sizes, pictures, plain["image"]),
        "latency": lambda: measure_latency(server, sizes, {"texts": (texts, 64), "pictures": (pictures, 32)}),
        "overload": lambda: measure_overload(server, sizes, pictures),
        "fuzz": lambda: measure_fuzz(server, sizes, min(sent[1], key=len)),
    }
    for name, section in sections.items():
        if name in chosen:
            with machine_use(server):
                section()


def measure_texts(server: ServerProcess, sizes: argparse.Namespace, requests: list[bytes], plain: Any) -> None:
    """Many clients against one, and against batches without HTTP."""
    alone = closed_loop(server.port, requests, 1, sizes.seconds)
    many, share = compare(server, requests, 64, sizes.seconds, plain)
    print(f"  1 client: {alone.rate():.0f}/s, {describe(alone)}")
    report("64 text clients / 1 at a time", f"{many.rate() / alone.rate():.1f} x", ">= 5 x (blip_demo)")
    report("64 text clients / encode_text in batches", share, ">= 80%")


def measure_pictures(server: ServerProcess, sizes: argparse.Namespace, requests: list[bytes], plain: Any) -> None:
    """Many clients against batches without HTTP."""
    _, share = compare(server, requests, 32, sizes.seconds, plain)
    report("32 picture clients / encode_image in batches", share, ">= 90% (full size)")


def measure_latency(
    server: ServerProcess, sizes: argparse.Namespace, kinds: dict[str, tuple[list[bytes], int]]
) -> None:
    """Requests that arrive at random, half as many as the server can answer, against one client alone."""
    for name, (requests, clients) in kinds.items():
        alone = closed_loop(server.port, requests, 1, sizes.seconds)
        full = closed_loop(server.port, requests, clients, sizes.seconds).rate()
        half = open_loop(server.port, requests, full / 2, sizes.seconds)
        ratio = half.quantile(0.99) / alone.quantile(0.5)
        print(f"  {name}: alone {describe(alone)}; at {full / 2:.1f}/s {describe(half)}")
        report(f"p99 at half load / unloaded p50, {name}", f"{ratio:.1f}", "<= 3")


def measure_overload(server: ServerProcess, sizes: argparse.Namespace, requests: list[bytes]) -> None:
    """Four times as many requests as the server can answer."""
    full = closed_loop(server.port, requests, 32, sizes.seconds).rate()
    before = server.memory()
    with memory_in_parts(server, sizes.overload) as parts:
        load = open_loop(server.port, requests, 4 * full, sizes.overload)
    # First the queue fills, which is bounded; memory is flat if the later parts are equal.
    shown = ", ".join(f"{each:.0f}" for each in parts)
    report(
        f"4 x overload with pictures for {sizes.overload:.0f} s",
        f"{describe(load)}; {before:.0f} MiB, then by eighths {shown}",
        "only 200 and 429, none lost, memory flat",
    )


def measure_fuzz(server: ServerProcess, sizes: argparse.Namespace, picture: bytes) -> None:
    """Mutated requests, and those that schemathesis makes up."""
    small = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    fuzz_service(server.port, small, 500, seed=1)
    memory, faults, counts = [server.memory()], [], Counter[int]()
    for part in range(10):
        load, found = fuzz_service(server.port, small, sizes.fuzz // 10, seed=sizes.seed + part)
        faults += found
        for fault in found[:5]:
            print(f"    {fault}")
        counts += load.counts
        memory.append(server.memory())
        shown = ", ".join(f"{each:.0f}" for each in memory)
        print(f"  {sum(counts.values())} requests, {len(faults)} faults, MiB {shown}", flush=True)
    report(
        f"{sizes.fuzz} mutated requests",
        f"{len(faults)} faults; {dict(sorted(counts.items()))}; {shown} MiB",
        "no 500, no hang, no growth",
    )
    if sizes.schemathesis:
        run_schemathesis(sizes.schemathesis, server.port, sizes.examples)
        report("after schemathesis", f"{server.memory():.0f} MiB", "no growth")


def measure_drip(model: str, sizes: argparse.Namespace, sent: Any) -> None:
    """Honest clients beside one whose URL drips."""
    with dripping_server() as port, server_process("--model", model, "--allow-host", f"127.0.0.1:{port}") as server:
        requests = text_requests(sent[0])
        slow = [post("/v1/embeddings", {"input": [{"image": f"http://127.0.0.1:{port}/x.png"}]})]
        closed_loop(server.port, requests, 10, 1.0)
        alone = closed_loop(server.port, requests, 10, sizes.seconds)
        thread = threading.Thread(target=closed_loop, args=(server.port, slow, 1, 1.0), daemon=True)
        thread.start()
        beside = closed_loop(server.port, requests, 10, sizes.seconds)
        assert thread.is_alive()
        report(
            "p99 of honest requests beside a dripping URL / without",
            f"{beside.quantile(0.99) * 1e3:.1f} / {alone.quantile(0.99) * 1e3:.1f} ms",
            "unchanged",
        )


def measure_plain(folder: str, sizes: argparse.Namespace, sent: Any) -> None:
    """Side by side: this server and a plain one with transformers' BLIP on the same weights, in turns."""
    program = str(Path(__file__).parent / "serve_bench" / "plain_server.py")
    kinds = {"texts": (text_requests(sent[0]), 64), "pictures": (picture_requests(sent[1]), 32)}
    rates: dict[str, dict[str, list[float]]] = {name: {"ours": [], "plain": []} for name in kinds}
    with (
        server_process("--model", folder, "--timeout", "600") as ours,
        running_process([sys.executable, program, folder]) as plain,
    ):
        for turn in range(3):
            for name, (requests, clients) in kinds.items():
                for which, server in (("ours", ours), ("plain", plain)):
                    if not turn:
                        closed_loop(server.port, requests, 2, 1.0)
                    rates[name][which].append(closed_loop(server.port, requests, clients, sizes.seconds).rate())
    for name, found in rates.items():
        ours_rate, plain_rate = (sorted(each)[1] for each in (found["ours"], found["plain"]))
        value = f"{ours_rate:.2f} / {plain_rate:.2f} a second: {ours_rate / plain_rate:.1f} x"
        report(f"{name}, {kinds[name][1]} clients: ours / plain FastAPI + transformers", value, "faster")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full-size", action="store_true", help="a made-up BLIP of the official base size")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--overload", type=float, default=120.0)
    parser.add_argument("--fuzz", type=int, default=100_000)
    parser.add_argument(
        "--seed", type=int, default=100, help="of the mutated requests: each part of them has the next one"
    )
    parser.add_argument("--schemathesis", metavar="PROGRAM", help="where it is installed; without it, it does not run")
    parser.add_argument("--examples", type=int, default=1000)
    sizes = parser.parse_args()
    import image_text_embedding as ite
    from image_text_embedding.inputs.prefetch import available_cpus

    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        name = "blip_demo"
        if sizes.full_size:
            name = str(make_weights(Bench(False, 1, "cpu", Path(folder))))
        sent = texts_and_pictures(name)
        versions = {each: metadata.version(each) for each in ("torch", "fastapi", "uvicorn")}
        print(f"{Path(name).name} on {available_cpus()} CPUs, {platform.machine()}, {versions}")
        model = ite.load(name)
        encode_text = functools.partial(model.encode_text, show_progress_bar=False)
        encode_image = functools.partial(model.encode_image, show_progress_bar=False)
        plain = {
            "text": functools.partial(without_http, encode_text, sent[0], sizes.seconds, not sizes.full_size),
            "image": functools.partial(without_http, encode_image, sent[1], sizes.seconds, not sizes.full_size),
        }
        if set(sizes.only) - {"drip", "plain"}:
            # 32 pictures at once take a large model longer than the default deadline on two cores.
            patient = ["--timeout", "600"] if sizes.full_size and "overload" not in sizes.only else []
            with server_process("--model", name, *patient) as server:
                measure(server, sizes.only, sizes, plain, sent)
        if "drip" in sizes.only:
            measure_drip(name, sizes, sent)
        if "plain" in sizes.only and sizes.full_size:
            measure_plain(name, sizes, sent)


if __name__ == "__main__":
    main()
