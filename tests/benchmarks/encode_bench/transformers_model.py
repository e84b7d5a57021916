"""transformers as the baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from encode_bench.measuring import Bench


class TransformersModel:
    """BLIP in transformers, with the same weights as ours."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        import torch
        from transformers import BlipForImageTextRetrieval, BlipProcessor

        self.torch, self.bench = torch, bench
        self.model = BlipForImageTextRetrieval.from_pretrained(folder).eval().to(bench.device, bench.dtype)
        self.processor = BlipProcessor.from_pretrained(folder)

    def vectors(self, pixel_values: Any) -> Any:
        """(B, 3, H, W) -> (B, D), normalised."""
        with self.torch.inference_mode():
            states = self.model.vision_model(pixel_values=pixel_values).last_hidden_state
            return self.torch.nn.functional.normalize(self.model.vision_proj(states[:, 0]), dim=-1)

    def tower(self, pixel_values: Any, size: int) -> Any:
        """Pixel values -> vectors, `size` at a time."""
        return self.torch.cat([self.vectors(part) for part in pixel_values.split(size)])

    def pictures(self, paths: list[Path], size: int) -> Any:
        """Files -> vectors, `size` at a time."""
        from PIL import Image

        vectors = []
        for start in range(0, len(paths), size):
            pictures = [Image.open(path).convert("RGB") for path in paths[start : start + size]]
            inputs = self.processor(images=pictures, return_tensors="pt")
            vectors.append(self.vectors(inputs["pixel_values"].to(self.bench.device, self.bench.dtype)))
        return self.torch.cat(vectors)

    def texts(self, texts: list[str], size: int, **padding: Any) -> Any:
        """Texts -> vectors, `size` at a time; `padding` is the tokenizer's."""
        vectors = []
        for start in range(0, len(texts), size):
            batch = self.processor.tokenizer(texts[start : start + size], return_tensors="pt", **padding)
            batch = batch.to(self.bench.device)
            with self.torch.inference_mode():
                states = self.model.text_encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
                vectors.append(self.torch.nn.functional.normalize(self.model.text_proj(states[:, 0]), dim=-1))
        return self.torch.cat(vectors)
