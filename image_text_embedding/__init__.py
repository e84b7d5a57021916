"""BLIP and ALBEF: vectors for pictures and texts that can be compared."""
