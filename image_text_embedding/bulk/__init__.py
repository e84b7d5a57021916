"""Embedding whole collections into a folder of vectors: see `embed`."""

from image_text_embedding.bulk.embed_collection import EmbedSummary as EmbedSummary
from image_text_embedding.bulk.embed_collection import embed as embed
