"""What people write without this package: transformers' BLIP behind FastAPI, one request at a time. For bench_serve.py.

    python tests/benchmarks/serve_bench/plain_server.py FOLDER

FOLDER has the weights as `save_pretrained` writes them. It answers /v1/embeddings for one text, or one picture in base64.
"""

from __future__ import annotations

import base64
import io
import socket
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for encode_bench

import numpy as np
import torch
import uvicorn
from encode_bench.measuring import Bench
from encode_bench.transformers_model import TransformersModel
from fastapi import FastAPI
from PIL import Image


def create_app(folder: Path) -> FastAPI:
    app, lock = FastAPI(), threading.Lock()
    model = TransformersModel(Bench(False, 1, "cpu", folder), folder)

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/v1/embeddings")
    def embeddings(body: dict[str, Any]) -> dict[str, Any]:
        with lock, torch.inference_mode():
            if isinstance(body["input"], str):
                vector = model.texts([body["input"]], 1, truncation=True, max_length=35)[0]
            else:
                picture = Image.open(io.BytesIO(base64.b64decode(body["input"][0]["image"]))).convert("RGB")
                vector = model.vectors(model.processor(images=[picture], return_tensors="pt")["pixel_values"])[0]
        encoded = base64.b64encode(vector.numpy().astype(np.float32).tobytes()).decode()
        data = [{"object": "embedding", "index": 0, "embedding": encoded}]
        return {"object": "list", "data": data, "model": "plain"}

    return app


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(Path(sys.argv[1])), log_level="error", access_log=False)
    print(f"plain server: serving at http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    uvicorn.Server(config).run([listener])
