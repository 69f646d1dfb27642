"""A checkpoint and an image become a conversation."""
