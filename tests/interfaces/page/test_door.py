"""Who may use the page, and what of Gradio can be reached through it."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from support.http_service import RunningService, error_of

from image_text_embedding.demo.packaged_gallery import gallery

KEY = "a-secret-key"
TEDDY = Path(gallery()[0]["path"])


def upload(service: RunningService, content: bytes, **headers: str) -> httpx.Response:
    return service.client.post("/page/gradio_api/upload", files={"files": ("a.png", content)}, headers=headers)


def test_the_root_leads_to_the_page(service: RunningService) -> None:
    for path in ("/", "/page"):
        answer = service.get(path)
        assert (answer.status_code, answer.headers["location"]) == (307, "/page/")
    answer = service.get("/page/")
    assert answer.status_code == 200 and "gradio_config" in answer.text
    # Nothing is loaded from another place, and no other site may show the page in a frame.
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'self'" in policy and "http" not in policy
    # The service itself is as it is without the page.
    assert service.get("/healthz").json() == {"status": "ok"}
    assert error_of(service.get("/pages"), 404)["message"].startswith("no such path")


@pytest.mark.parametrize(
    "path",
    [
        "monitoring",
        "gradio_api/info",
        "gradio_api/openapi.json",
        "gradio_api/proxy=https://example.com/",
        "gradio_api/vibe-code/",
        "gradio_api/call/search",
        "gradio_api/custom_component/a/client/component/index.js",
        "static/../gradio_api/info",
        "login",
    ],
)
def test_no_other_door_of_gradio_is_open(service: RunningService, path: str) -> None:
    for method in ("GET", "POST"):
        assert service.client.request(method, f"/page/{path}", json={}).status_code in (404, 405)
    assert error_of(service.get("/page/gradio_api/queue/join"), 405)


def test_no_other_file_is_shown(service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = os.environ["GRADIO_TEMP_DIR"]
    (Path(folder) / "link.txt").symlink_to(tmp_path / "secret.txt")
    for path in (
        tmp_path / "secret.txt",
        f"{folder}/../{tmp_path.name}/secret.txt",
        f"{folder}/link.txt",
        f"{folder}-other/a",
        "https://example.com/a.png",
        TEDDY,
    ):
        assert service.get(f"/page/gradio_api/file={path}").status_code == 404, path


def test_uploads_have_limits(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = upload(service, TEDDY.read_bytes())
    (path,) = answer.json()
    assert Path(path).read_bytes() == TEDDY.read_bytes()
    assert service.get(f"/page/gradio_api/file={path}").content == TEDDY.read_bytes()
    too_large = b"x" * (service.service.settings.max_body + 1)
    assert "expected a body of at most" in error_of(upload(service, too_large), 413)["message"]
    body = {"data": ["x" * 2**18]}
    assert error_of(service.post("/page/gradio_api/queue/join", body), 413)
    endless = service.client.post("/page/gradio_api/upload", content=iter([b"a", b"b"]))
    assert "Content-Length" in error_of(endless, 411)["message"]
    monkeypatch.setattr("image_text_embedding.interfaces.page.door.MAX_UPLOADS", 10_000)
    limited = error_of(upload(service, b"x" * 10_000), 429)
    assert "too many pictures" in limited["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        {"Origin": "http://example.com"},
        {"Origin": "null"},
        {"Host": "example.com"},  # a name of another site that leads here
        {"Host": "localhost.example.com"},
    ],
)
def test_other_sites_cannot_use_it(service: RunningService, headers: dict[str, str]) -> None:
    answer = upload(service, b"x", **headers)
    error_of(answer, 403)
    body = {"data": [], "fn_index": 0, "session_hash": "a"}
    answer = service.post("/page/gradio_api/queue/join", body, headers=headers)
    error_of(answer, 403)
    assert not any(name.startswith("access-control-") for name in answer.headers)


def test_no_cors(service: RunningService) -> None:
    headers = {"Origin": service.url, "Access-Control-Request-Method": "POST"}
    for answer in (
        service.get("/page/", headers={"Origin": service.url}),
        service.client.options("/page/gradio_api/queue/join", headers=headers),
    ):
        assert not any(name.startswith("access-control-") for name in answer.headers)
    # A link to the page works, wherever it is.
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert service.get("/page/", headers=link).status_code == 200
    assert service.get("/page/", headers={**link, "Sec-Fetch-Mode": "cors"}).status_code == 403
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert service.get("/page/", headers={"Host": f"{name}:{service.port}"}).status_code == 200


def test_the_key_opens_the_page(locked: RunningService) -> None:
    for path in ("", "config", "gradio_api/queue/data?session_hash=a", "assets/index.js"):
        assert locked.get(f"/page/{path}").status_code == 401
    assert upload(locked, b"x").status_code == 401
    form = locked.get("/page/")
    assert '<input id="key" name="key" type="password"' in form.text and "alert" not in form.text

    def sign_in(key: str, **headers: str) -> httpx.Response:
        return locked.client.post("/page/sign-in", data={"key": key}, headers=headers)

    for wrong in ("another", "", "ключ"):
        answer = sign_in(wrong)
        assert answer.status_code == 401 and "This is not the key" in answer.text
        assert "set-cookie" not in answer.headers
    assert sign_in(KEY, Origin="http://example.com").status_code == 403
    answer = sign_in(KEY)
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303 and "HttpOnly" in cookie and "SameSite=Lax" in cookie and KEY not in cookie
    # The client keeps the cookie. Names of other sites are harmless, as browsers send it to this one alone.
    assert "gradio_config" in locked.get("/page/").text
    assert locked.get("/page/", headers={"Host": "pictures.example.com"}).status_code == 200
    # It opens the page, not the service.
    assert locked.get("/v1/models").status_code == 401
    locked.client.cookies.clear()
    assert locked.get("/page/", headers={"Cookie": cookie.partition(";")[0][:-1]}).status_code == 401
    assert locked.get("/page/config", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_without_the_option_there_is_no_page() -> None:
    from support.http_service import running_service

    with running_service() as plain:
        assert plain.get("/page/").status_code == plain.get("/").status_code == 404
