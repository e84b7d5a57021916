"""BLIP models of transformers with made-up weights, and ours with the same weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import torch

from image_text_embedding.models.checkpoints.checkpoint_files import Checkpoint
from image_text_embedding.models.config import DecoderConfig
from image_text_embedding.models.config_files import model_config
from support.models import DEC, PAD, QUESTIONS, SEP, fill

SMALL_SIZES = {
    "text_config": {
        "vocab_size": 600,
        "hidden_size": 64,
        "encoder_hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "max_position_embeddings": 64,
        "bos_token_id": DEC,
        "sep_token_id": SEP,
        "pad_token_id": PAD,
    },
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
    },
}
BASE_SIZES = {"text_config": {"num_attention_heads": 12}, "vision_config": {"image_size": 224}}

CLASS_BY_TASK = {
    "match": "BlipForImageTextRetrieval",
    "caption": "BlipForConditionalGeneration",
    "answer": "BlipForQuestionAnswering",
}


def made_up_blip(task: str, sizes: dict) -> SimpleNamespace:
    """A model of transformers with made-up weights, and our parts, loaded from the same weights under transformers' names."""
    import transformers

    theirs_config = transformers.BlipConfig(**sizes)
    with torch.device("meta"):  # its initialisation takes longer than the tests
        theirs = getattr(transformers, CLASS_BY_TASK[task])(theirs_config).eval()
    theirs.to_empty(device="cpu").tie_weights()
    if task != "match":  # transformers 4 does not tie them
        theirs.text_decoder.cls.predictions.decoder.weight = theirs.text_decoder.bert.embeddings.word_embeddings.weight
    generator = torch.Generator().manual_seed(11)
    full = sizes is BASE_SIZES
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            mean = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.normal_(mean, 0.04 if full else 0.12, generator=generator)
        for buffer in theirs.buffers():  # position ids all
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
        if task != "match":
            theirs.text_decoder.cls.predictions.bias[102 if full else SEP] += 3.0
    vision, text = theirs_config.vision_config, theirs_config.text_config
    base = model_config("blip_base")
    config = dataclasses.replace(
        base,
        tasks=("embed", "match") if task == "match" else (task,),
        embed_dim=256 if task == "match" else None,
        vision=dataclasses.replace(
            base.vision,
            image_size=vision.image_size,
            width=vision.hidden_size,
            depth=vision.num_hidden_layers,
            num_heads=vision.num_attention_heads,
            layer_norm_eps=vision.layer_norm_eps,
        ),
        text=dataclasses.replace(
            base.text,
            vocab_size=text.vocab_size,
            width=text.hidden_size,
            depth=text.num_hidden_layers,
            text_depth=text.num_hidden_layers,
            num_heads=text.num_attention_heads,
            intermediate_size=text.intermediate_size,
            max_positions=text.max_position_embeddings,
        ),
        decoder=DecoderConfig(text.num_hidden_layers, text.bos_token_id),
        questions=QUESTIONS,
    )
    checkpoint = Checkpoint(Path("theirs.bin"), theirs.state_dict(), {})
    pixels = torch.empty(3, 3, vision.image_size, vision.image_size).normal_(generator=generator.manual_seed(5))
    image, head = fill("image", config, checkpoint), fill(task, config, checkpoint)
    states, ends = image.states(pixels), (text.sep_token_id, text.pad_token_id)
    return SimpleNamespace(theirs=theirs, pixels=pixels, states=states, head=head, start=text.bos_token_id, ends=ends)
