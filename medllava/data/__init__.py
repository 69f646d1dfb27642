"""Instruction records become batches: text and image files in, packed tensors out."""
