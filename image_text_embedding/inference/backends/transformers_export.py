"""Writes a folder that the BLIP classes and `BlipProcessor` of transformers open. (`load(folder)` reads one.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from image_text_embedding.foundation.atomic_files import atomic_replace
from image_text_embedding.foundation.errors import CheckpointError, InputError
from image_text_embedding.foundation.messages import did_you_mean
from image_text_embedding.inference.model_runtime import ModelRuntime
from image_text_embedding.models.checkpoints.parameter_names import BLIP_TO_TRANSFORMERS, rename_parameters
from image_text_embedding.models.checkpoints.transformers_config import TRANSFORMERS_CLASSES
from image_text_embedding.models.config import TASKS
from image_text_embedding.models.config_files import model_config

# Tied parameters that transformers stores twice: version 4 does not tie them, and would start from a random matrix.
TIED_PARAMETERS = {
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}


def export_transformers(runtime: ModelRuntime, folder: Path, task: str | None) -> Path:
    """See `Encoder.export_transformers`."""
    import transformers

    config = runtime.config
    if config.family != "blip":
        raise InputError(f"transformers has no {config.family.upper()}: expected a BLIP model, got {config.name}")
    task = config.tasks[0] if task is None else task
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}{did_you_mean(str(task), TASKS)} Tasks: {', '.join(TASKS)}.")
    runtime.require(task)
    head = "match" if task == "embed" else task
    kind = next((kind for kind, name in TRANSFORMERS_CLASSES.items() if head in model_config(name).tasks), None)
    if kind is None:
        raise InputError(
            f"transformers has no BLIP that can {task}; expected a model with another task, got {config.name}"
        )
    parts = ("image", "text", "match") if head == "match" else ("image", head)
    ours = {name: tensor for part in parts for name, tensor in runtime.part(part).state_dict().items()}
    if head != "match":
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith("vision_proj.")}
    names = rename_parameters(ours, BLIP_TO_TRANSFORMERS)
    tensors = {names[name]: tensor.contiguous().cpu() for name, tensor in ours.items()}
    for name, source in TIED_PARAMETERS.items():
        if source in tensors:
            tensors.setdefault(name, tensors[source].clone())

    their_config = transformers.BlipConfig(**_blip_config(runtime))
    their_config.architectures = [kind]
    their_config.torch_dtype = runtime.dtype
    with torch.device("meta"):
        expected = getattr(transformers, kind)(their_config).state_dict()
    _check_parameters(expected, tensors)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        words = sorted(runtime.tokenizer.words().items(), key=lambda pair: pair[1])
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")
        their_config.save_pretrained(folder)
        tokenizer = transformers.BertTokenizer.from_pretrained(folder, model_max_length=config.text.max_positions)
        tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
        size = config.vision.image_size
        image_processor = transformers.BlipImageProcessor(
            size={"height": size, "width": size}, image_mean=list(config.vision.mean), image_std=list(config.vision.std)
        )
        transformers.BlipProcessor(image_processor, tokenizer).save_pretrained(folder)
        # transformers 4 reads it from a file of its own.
        image_processor.save_pretrained(folder)
        _save(tensors, folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the folder {folder}: {error}") from error
    return folder


def _blip_config(runtime: ModelRuntime) -> dict[str, Any]:
    """The arguments of `BlipConfig`."""
    config = runtime.config
    vision, text, decoder = config.vision, config.text, config.decoder
    enc_id = text.vocab_size if text.enc_id is None else text.enc_id
    dec_id = enc_id - 1 if decoder is None or decoder.dec_id is None else decoder.dec_id
    return {
        "vision_config": {
            "hidden_size": vision.width,
            "intermediate_size": 4 * vision.width,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.num_heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.layer_norm_eps,  # the default of transformers differs
        },
        "text_config": {
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "encoder_hidden_size": vision.width,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.num_heads,
            "max_position_embeddings": text.max_positions,
            "layer_norm_eps": text.layer_norm_eps,
            "bos_token_id": dec_id,
            "eos_token_id": runtime.tokenizer.sep_id,
            "pad_token_id": runtime.tokenizer.pad_id,
            "sep_token_id": runtime.tokenizer.sep_id,
        },
        **({} if config.embed_dim is None else {"image_text_hidden_size": config.embed_dim}),
    }


def _check_parameters(expected: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
    """Check that the tensors are exactly the parameters of transformers' class, in their shapes.

    Raises:
        CheckpointError: they are not.
    """
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    reshaped = sorted(name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape)
    if missing or unexpected or reshaped:
        raise CheckpointError(
            "this model does not fit transformers' class: "
            f"missing {missing[:5]}, unexpected {unexpected[:5]}, with another shape {reshaped[:5]}"
        )


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with atomic_replace(path) as part:
        save_file(tensors, part, metadata={"format": "pt"})
