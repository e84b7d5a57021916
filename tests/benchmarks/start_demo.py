"""Write the weights that a demonstration model's training starts from: parts of earlier models, the rest drawn.

    python tests/benchmarks/start_demo.py RECIPE OUT MODEL:PART[,PART...] ...

RECIPE is a YAML file of demo_recipes; a part is a prefix of parameter names ("vision", "text.embeddings") of a model in the
same family or with the same vision tower. Tables of words are copied word by word, because the vocabularies differ. Then

    image-text-embedding train --model OUT --settings SETTINGS --pairs image_text_embedding.demo:TRAIN_TEXTS --out RUN

where SETTINGS has the recipe's `training:`; it is written beside OUT, as OUT with the suffix `.yaml`.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.models.checkpoints.checkpoint_files import read_checkpoint, save_weights
from image_text_embedding.models.checkpoints.seen_pieces import SEEN_PIECES, pack_seen_pieces
from image_text_embedding.models.config import ModelConfig
from image_text_embedding.models.model_lookup import ResolvedModel, find_vocabulary, resolve_model
from image_text_embedding.training import TrainConfig, read_recipe
from image_text_embedding.training.objectives.student import VocabularyIds
from image_text_embedding.training.objectives.student_weights import new_student
from image_text_embedding.training.run_plan import finished_config


def words_of(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, int]:
    """All rows of a model's tables of words, with BLIP's two additional words."""
    found = tokenizer.words()
    if config.decoder is not None and config.decoder.dec_id is not None:
        found["[DEC]"] = config.decoder.dec_id
    if config.text.enc_id is not None:
        found["[ENC]"] = config.text.enc_id
    return found


def start(recipe: Path, out: Path, sources: list[str]) -> dict[str, int]:
    """Write the weights. How many parameters come from each source."""
    base, raw = read_recipe(recipe)
    settings = TrainConfig(**raw)
    config, tasks = finished_config(base, settings, base.name, True)
    tokenizer = Tokenizer.from_vocabulary(find_vocabulary(ResolvedModel(base, Path(), "", None, None), None))
    vocabulary = VocabularyIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.vocab_size)
    state = new_student(config, tasks, vocabulary, settings).state_dict()
    new_words, copied = words_of(config, tokenizer), {}
    for source in sources:
        name, _, parts = source.partition(":")
        resolved = resolve_model(name, None)
        old_words = words_of(resolved.config, Tokenizer.from_vocabulary(find_vocabulary(resolved, None)))
        rows = torch.tensor([[new_words[word], old_words[word]] for word in old_words if word in new_words])
        tensors = read_checkpoint(resolved.weights).tensors
        copied[source], available = 0, set(tensors)
        for key, value in state.items():
            if key not in available or not key.startswith(tuple(parts.split(","))):
                continue
            old = tensors[key].float()
            if old.shape == value.shape:
                value.copy_(old)
                copied[source] += value.numel()
            elif old.shape[1:] == value.shape[1:] and len(old) == len(old_words):
                value[rows[:, 0]] = old[rows[:, 1]]
                copied[source] += len(rows) * value[0].numel()
            else:
                raise SystemExit(f"{source}: {key}: expected the shape {tuple(value.shape)}, got {tuple(old.shape)}")
    origin = {"source": f"drawn with seed {settings.seed}, and {' '.join(sources)}"}
    seen = pack_seen_pieces(np.zeros(config.text.vocab_size, bool))
    save_weights(out, state, {"config": dataclasses.asdict(config), "origin": origin, SEEN_PIECES: seen})
    out.with_suffix(".yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return {**copied, "all": sum(value.numel() for value in state.values())}


if __name__ == "__main__":
    print(start(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
