"""Whole collections: their vectors in a folder (`embed`), or captions written and filtered (`capfilt`)."""

from image_text_embedding.bulk.caption_filtering.filter_collection import CapFiltSummary as CapFiltSummary
from image_text_embedding.bulk.caption_filtering.filter_collection import capfilt as capfilt
from image_text_embedding.bulk.caption_filtering.pair_shards import read_pairs as read_pairs
from image_text_embedding.bulk.embed_collection import EmbedSummary as EmbedSummary
from image_text_embedding.bulk.embed_collection import embed as embed
