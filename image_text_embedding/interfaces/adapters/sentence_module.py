"""A module for `sentence_transformers.SentenceTransformer(modules=[...])`: it reads pictures and texts as this model does.

    model = SentenceTransformer(modules=[ite.adapters.ImageTextModule("blip_itm_base_coco")])

See `item_vectors` for what is a text and what a picture; a string that is the URL or the existing file of a picture is a
picture, as sentence-transformers itself says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from image_text_embedding.foundation.atomic_files import atomic_write
from image_text_embedding.foundation.errors import CheckpointError
from image_text_embedding.foundation.optional_imports import import_optional
from image_text_embedding.inference.loading import load
from image_text_embedding.interfaces.adapters.item_vectors import Model, as_encoder, embed_items

_PURPOSE = "a module of sentence-transformers"
_modules: Any = import_optional("sentence_transformers.base.modules", "sentence-transformers", _PURPOSE)

WEIGHTS, VOCABULARY = "model.safetensors", "vocab.txt"


class ImageTextModule(_modules.InputModule):
    """Texts, pictures, and both together -> `sentence_embedding`, of unit length.

    The model computes where `load` put it and is not trained by sentence-transformers: `ite.training` does that. A folder
    that was saved is opened with `SentenceTransformer(folder, trust_remote_code=True)`: with this installed package.

    Args:
        model: an Encoder, or what `load` takes.
    """

    config_file_name = "image_text_embedding.json"

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder = as_encoder(model)

    @property
    def modalities(self) -> list[Any]:
        """What it reads. "message" is what sentence-transformers calls a batch that mixes texts and pictures."""
        return ["text", "image", ("text", "image"), ("image", "text"), "message"]

    @property
    def max_seq_length(self) -> int:
        """Tokens that are read of a text."""
        return self.encoder.config.captions.max_tokens

    def get_embedding_dimension(self) -> int:
        """The length of a vector."""
        return int(self.encoder.dim or 0)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """The items as they are: `forward` decodes pictures in threads."""
        return {"items": list(inputs), "prompt": prompt or ""}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Adds `sentence_embedding`, float32 (N, D) on the model's device."""
        items = features["items"]
        vectors = embed_items(
            self.encoder, items, max(1, len(items)), strings_may_name_pictures=True, prompt=features["prompt"]
        )
        return {**features, "sentence_embedding": torch.from_numpy(vectors).to(self.encoder.device)}

    def get_config_dict(self) -> dict[str, Any]:
        """What the folder says about the model, for people who look at it."""
        return {"name": self.encoder.config.name, "weights": WEIGHTS, "vocabulary": VOCABULARY}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the weights in memory, the vocabulary and the settings, which `load` reads.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        folder = Path(output_path)
        words = sorted(self.encoder.runtime.tokenizer.words().items(), key=lambda pair: pair[1])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.encoder.save(folder / WEIGHTS)
            atomic_write(folder / VOCABULARY, "".join(f"{word}\n" for word, _ in words).encode())
            self.save_config(output_path)
        except OSError as error:
            raise CheckpointError(f"cannot write the folder {folder}: {error}") from error

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> ImageTextModule:
        """Read what `save` wrote, from a folder or the Hugging Face hub.

        Raises:
            CheckpointError: the folder lacks a file, or a file cannot be used.
        """
        known = ("token", "cache_folder", "revision", "local_files_only")
        given = {name: options[name] for name in known if name in options}
        paths = {
            name: cls.load_file_path(model_name_or_path, name, subfolder=subfolder, **given)
            for name in (WEIGHTS, VOCABULARY)
        }
        if missing := [name for name, path in paths.items() if path is None]:
            raise CheckpointError(
                f"expected a folder that this module saved, got {model_name_or_path} without {missing}"
            )
        return cls(load(str(paths[WEIGHTS]), tokenizer=paths[VOCABULARY]))
