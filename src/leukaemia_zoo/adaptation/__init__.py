"""Somebody else's cells: looked at, split, probed, and a network fine-tuned on them."""
