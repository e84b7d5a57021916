"""Where pictures may come from: URLs through the guarded fetch, and files only below an allowed root."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.http_service import RunningService, error_of, running_service
from support.picture_server import Server, drip, moved, reply

import image_text_embedding as ite


def ask(running: RunningService, image: Any) -> Any:
    return running.post("/v1/embeddings", {"input": [{"image": image}]})


def vector(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["data"][0]["embedding"], dtype=np.float32)


@pytest.fixture
def pictures(paths: list[str]) -> Iterator[Server]:
    """A server of one picture, and of what it must not be asked for."""
    content = Path(paths[0]).read_bytes()

    def answer(wire: Any, path: str, stop: Any) -> None:
        if path == "/drip":
            drip(reply(b"x", Content_Length=10_000), b"x")(wire, path, stop)
        elif path == "/away":
            wire.sendall(moved(f"http://localhost:{server.port}/picture"))
        elif path == "/huge":
            wire.sendall(reply(b"", Content_Length=10**9))
        elif path == "/picture":
            wire.sendall(reply(content, Content_Length=len(content)))
        else:
            wire.sendall(reply(b"no", "404 Not Found"))

    server = Server(answer)
    yield server
    server.close()


def test_only_allowed_hosts_are_fetched_from(pictures: Server, model: ite.Encoder, paths: list[str]) -> None:
    with running_service(allow_hosts=(f"127.0.0.1:{pictures.port}",)) as running:
        base = f"http://127.0.0.1:{pictures.port}"
        np.testing.assert_allclose(vector(ask(running, f"{base}/picture")), model.encode_image(paths[0]), atol=1e-5)
        others = (f"http://localhost:{pictures.port}/picture", "http://127.0.0.1:1/picture", f"{base}/away")
        for url in others:
            assert "not among the hosts" in error_of(ask(running, url), 422)["message"]
        assert "more than the limit" in error_of(ask(running, f"{base}/huge"), 422)["message"]
        assert "got 404" in error_of(ask(running, f"{base}/nothing"), 422)["message"]
    assert pictures.paths.count("/picture") == 1
    with running_service(allow_hosts=("127.0.0.1",)) as running:
        vector(ask(running, f"{base}/picture"))  # any port


def test_a_dripping_url_holds_up_nobody(pictures: Server, model: ite.Encoder, paths: list[str], data_urls: Any) -> None:
    expected = model.encode_image(paths[:10])
    with running_service(allow_hosts=("127.0.0.1",), timeout=2.0) as running, ThreadPoolExecutor(12) as pool:
        slow = [pool.submit(ask, running, f"http://127.0.0.1:{pictures.port}/drip") for _ in range(2)]
        honest = [pool.submit(ask, running, url) for url in data_urls[:10]]
        np.testing.assert_allclose([vector(job.result()) for job in honest], expected, atol=1e-5)
        assert not any(job.done() for job in slow)
        for job in slow:
            assert job.result().status_code in (422, 504)


def test_too_many_urls(pictures: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_text_embedding.interfaces.serving.picture_sources.MAX_FETCHES", 1)
    with running_service(allow_hosts=("127.0.0.1",), timeout=1.0) as running, ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(ask, running, f"http://127.0.0.1:{pictures.port}/drip") for _ in range(2)]
        found = sorted((job.result() for job in slow), key=lambda answer: answer.elapsed)
        assert error_of(found[0], 429)["code"] == "overloaded" and int(found[0].headers["retry-after"]) >= 1
        assert found[1].status_code in (422, 504)


def test_files_only_below_an_allowed_root(tmp_path: Path, model: ite.Encoder, paths: list[str]) -> None:
    root, outside = tmp_path / "root", tmp_path / "rootless"
    for folder in (root / "inner", outside):
        folder.mkdir(parents=True)
        shutil.copy(paths[0], folder / "dog.png")
    (root / "link.png").symlink_to(outside / "dog.png")
    (root / "folder.png").symlink_to(outside)
    (root / "notes.txt").write_text("the password is hunter2")
    expected = model.encode_image(paths[0])
    with running_service(allow_roots=(root,)) as running:
        for path in (
            str(root / "inner" / "dog.png"),
            "inner/dog.png",
            str(root / "inner" / ".." / "inner" / "dog.png"),
        ):
            np.testing.assert_allclose(vector(ask(running, path)), expected, atol=1e-5)
        refused = (
            str(outside / "dog.png"),
            str(root / ".." / "rootless" / "dog.png"),
            "../rootless/dog.png",
            str(root / "link.png"),
            "folder.png/dog.png",
            str(root),
            str(root / "nothing.png"),
            "dog\0.png",
            "/dev/zero",
            "~/dog.png",
        )
        for path in refused:
            assert "expected a picture" in error_of(ask(running, path), 422)["message"]
        answer = ask(running, "notes.txt")
        error_of(answer, 422)
        assert "hunter2" not in answer.text
        # A JPEG in base64 begins as an absolute path does.
        plain = base64.b64encode(Path(paths[0]).read_bytes()).decode()
        np.testing.assert_allclose(vector(ask(running, plain)), expected, atol=1e-5)


def test_base64_is_read_leniently(service: RunningService, model: ite.Encoder, paths: list[str]) -> None:
    content = Path(paths[0]).read_bytes()
    expected = model.encode_image(paths[0])
    for text in (
        base64.encodebytes(content).decode(),
        base64.b64encode(content).decode().rstrip("="),
        base64.urlsafe_b64encode(content).decode(),
        "data:;base64," + base64.encodebytes(content).decode(),
    ):
        np.testing.assert_allclose(vector(ask(service, text)), expected, atol=1e-5)


@pytest.mark.parametrize("damage", ["half", "noise", "bomb", "empty"])
def test_a_poisoned_picture_harms_only_itself(service: RunningService, paths: list[str], damage: str) -> None:
    content = Path(paths[0]).read_bytes()
    poison = {
        "half": content[: len(content) // 2],
        "noise": content[:40] + bytes(range(256)),
        # A header that states 60,000 x 60,000 pixels.
        "bomb": content[:16] + (60_000).to_bytes(4, "big") * 2 + content[24:],
        "empty": b"",
    }[damage]
    error_of(ask(service, f"data:image/png;base64,{base64.b64encode(poison).decode()}"), 422)
    vector(ask(service, base64.b64encode(content).decode()))
