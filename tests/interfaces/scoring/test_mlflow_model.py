"""`Encoder.save_mlflow`: the folder, and MLflow's own server and commands on it."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

mlflow = pytest.importorskip("mlflow.pyfunc")
import pandas as pd  # noqa: E402
from support.http_service import wait_until  # noqa: E402

import image_text_embedding as ite  # noqa: E402
from image_text_embedding.demo.packaged_gallery import gallery  # noqa: E402

PATHS = [entry["path"] for entry in gallery()][:2]
CONTENTS = [Path(path).read_bytes() for path in PATHS]
CELLS = [base64.encodebytes(content).decode() for content in CONTENTS]  # with newlines, as the registry's examples
QUERY, QUESTION = "a teddy bear on a skateboard", "what is on the skateboard?"
COMMAND = [sys.executable, "-m", "mlflow", "models"]
SECONDS = 120.0  # only wrong code takes so long


@pytest.fixture(scope="module")
def model() -> ite.Encoder:
    return ite.load("blip_demo", device="cpu")


@pytest.fixture(scope="module")
def folder(model: ite.Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model for every task."""
    return model.save_mlflow(tmp_path_factory.mktemp("mlflow") / "all")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Of MLflow's commands, which look for uvicorn on the path."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def server(folder: Path, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """`mlflow models serve` with that model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*COMMAND, "serve", "-m", str(folder), "--env-manager", "local", "--host", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        command, env=environment, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines: list[bytes] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(process.stdout,))
    reader.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:

            def is_up() -> bool:
                assert process.poll() is None, b"".join(lines).decode()
                try:
                    return client.get("/ping").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(is_up)
            yield client
    finally:
        process.terminate()
        process.wait(SECONDS)
        reader.join(SECONDS)


def table(columns: list[str], data: list[Any], **params: Any) -> dict[str, Any]:
    return {"dataframe_split": {"columns": columns, "index": list(range(len(data))), "data": data}, "params": params}


def answers(server: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = server.post("/invocations", json=body)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["predictions"]
    return answer.json()["predictions"]


def test_the_server_answers_the_registrys_requests(server: httpx.Client, model: ite.Encoder) -> None:
    captions = [{"text": text} for text in model.caption(PATHS)]
    assert answers(server, table(["image"], [[CELLS[0]], [CELLS[1]]], task="image-to-text")) == captions
    assert answers(server, {"inputs": {"image": CELLS}, "params": {"task": "caption"}}) == captions
    url = f"data:image/png;base64,{CELLS[1]}"
    assert answers(server, {"dataframe_records": [{"image": url}]}) == captions[1:]

    rows = [[CELLS[0], QUESTION], [CELLS[1], QUESTION]]
    body = table(["image", "text"], rows, task="visual-question-answering", num_beams=1)
    assert answers(server, body) == [{"text": text} for text in model.answer(PATHS, QUESTION, num_beams=1)]
    body["params"] = {"task": "answer", "choices": ["a dog", "a teddy bear"]}
    assert answers(server, body) == [
        {"text": best[0][0]} for best in model.answer(PATHS, QUESTION, choices=["a dog", "a teddy bear"])
    ]

    body = table(["image", "text"], [[CELLS[0], ""], [CELLS[1], ""]], task="embeddings")
    vectors = [each["image_features"] for each in answers(server, body)]
    np.testing.assert_allclose(vectors, model.encode_image(PATHS), atol=1e-5)
    (found,) = answers(server, table(["text"], [[QUERY]], task="embeddings"))
    np.testing.assert_allclose(found["text_features"], model.encode_text(QUERY), atol=1e-5)

    labels = ["a dog", QUERY]
    body = table(["image", "text"], [[CELLS[0], ", ".join(labels)], [CELLS[1], ""]])
    body["params"] = {"task": "zero-shot-image-classification"}
    found_probs = answers(server, body)
    expected = model.classify(PATHS, labels)
    assert all(each["labels"] == labels for each in found_probs)
    np.testing.assert_allclose(
        [each["probs"] for each in found_probs],
        [[dict(each)[label] for label in labels] for each in expected],
        atol=1e-4,
    )

    body = table(["image", "text"], [[CELLS[0], QUERY], [CELLS[1], QUERY]], task="image-text-matching")
    assert [each["probability"] for each in answers(server, body)] == pytest.approx(model.match(PATHS, QUERY), abs=1e-5)


def test_the_server_survives_bad_requests(server: httpx.Client, model: ite.Encoder, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(CONTENTS[0])
    cells = [CELLS[0], "AAAA", "http://127.0.0.1/x.png", str(secret), f"file://{secret}", 5]
    good, *bad = answers(server, table(["image"], [[cell] for cell in cells], task="caption"))
    assert good == {"text": model.caption(PATHS[0])}
    assert all(list(each) == ["error"] for each in bad)
    for body, message in [
        (table(["image"], [["AAAA"]], task="caption", on_error="raise"), "item 0: "),
        (table(["image"], [[CELLS[0]]], task="translate"), "unknown 'translate'"),
        (table(["image"], [[CELLS[0]]], task="answer"), "answer needs text in every row"),
        (table(["image"], [[CELLS[0]]], task="caption", num_beams=1000), "num_beams: expected at most 32"),
        (table(["image"], [[CELLS[0]]], task="caption", num_beams="x"), "num_beams"),
        (table(["picture"], [[CELLS[0]]]), "expected a list of image and text"),
    ]:
        answer = server.post("/invocations", json=body)
        assert answer.status_code == 400 and message in answer.json()["message"], answer.text
        assert "Traceback" not in answer.text


def test_mlflow_predict_answers_the_example(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    given = ["-m", str(folder), "-i", str(folder / "serving_input_example.json"), "-o", str(tmp_path / "out.json")]
    command = [*COMMAND, "predict", *given, "--env-manager", "local"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert "teddy bear" in record["text"]


@pytest.mark.parametrize(
    ("task", "inputs", "output"),
    [
        ("image-to-text", {"image": True}, "text"),
        ("answer", {"image": True, "text": True}, "text"),
        ("embed", {"image": False, "text": False}, "text_features"),
        ("classify", {"image": True, "text": True}, "probs"),
        ("image-text-matching", {"image": True, "text": True}, "probability"),
    ],
)
def test_a_folder_for_one_task(
    model: ite.Encoder, tmp_path: Path, task: str, inputs: dict[str, bool], output: str
) -> None:
    folder = model.save_mlflow(tmp_path / "saved", task)
    loaded = mlflow.load_model(str(folder))
    signature = loaded.metadata.signature
    assert {each.name: each.required for each in signature.inputs} == inputs
    (record,) = loaded.predict(loaded.input_example)
    assert list(record) != ["error"] and set(record) <= set(signature.outputs.input_names())
    assert output in signature.outputs.input_names()
    assert loaded.predict(loaded.input_example.assign(image=[CONTENTS[0]])) == [record]  # bytes
    with pytest.raises(ite.InputError, match="expected a new or empty folder"):
        model.save_mlflow(folder, task)


def test_settings_are_parameters_with_their_defaults(model: ite.Encoder, tmp_path: Path) -> None:
    loaded = mlflow.load_model(str(model.save_mlflow(tmp_path / "saved", "caption")))
    frame = pd.DataFrame({"image": PATHS[:0] + CONTENTS})
    assert [each["text"] for each in loaded.predict(frame)] == model.caption(PATHS)
    given: dict[str, Any] = {"num_beams": 1, "max_length": 8, "prompt": "a photo of"}
    assert [each["text"] for each in loaded.predict(frame, params=given)] == model.caption(PATHS, **given)
    schema = {each.name: each.default for each in loaded.metadata.signature.params}
    assert schema["num_beams"] == 3 and schema["seed"] is None and schema["on_error"] == "skip"


def test_the_requirements_are_those_of_this_machine(folder: Path, tmp_path: Path) -> None:
    *pins, wheel = (folder / "requirements.txt").read_text().split()
    versions = dict(pin.split("==") for pin in pins)
    for name in ("torch", "timm", "numpy", "pandas"):
        assert versions[name] == metadata.version(name).partition("+")[0]
    assert versions.get("mlflow") or versions.get("mlflow-skinny")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path / "site"),
        wheel,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    code = "import image_text_embedding as ite; print(ite.__file__, ite.__version__, *ite.list_models())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    path, *rest = done.stdout.split()
    assert path.startswith(str(tmp_path)) and rest == [ite.__version__, *ite.list_models()]
    with zipfile.ZipFile(folder / wheel) as archive:
        assert not [name for name in archive.namelist() if "__pycache__" in name]


def test_nothing_is_left_of_what_cannot_be_saved(model: ite.Encoder, small_encoder: Any, tmp_path: Path) -> None:
    for broken, task, message in [
        (model, "translate", "unknown 'translate'"),
        (small_encoder("blip_vqa_base"), "caption", "cannot caption"),
        (ite.load("blip_demo", modality="image"), "caption", "loaded with modality='image'"),
    ]:
        with pytest.raises(ite.InputError, match=message):
            broken.save_mlflow(tmp_path / "saved", task)
    (tmp_path / "file").touch()
    with pytest.raises(ite.InputError, match="new or empty folder"):
        model.save_mlflow(tmp_path / "file")
    with pytest.raises(ite.CheckpointError, match="cannot write the folder"):
        model.save_mlflow(tmp_path / "file" / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_exists_and_is_empty_is_used(model: ite.Encoder, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    assert (model.save_mlflow(tmp_path / "saved", "embed") / "MLmodel").is_file()
