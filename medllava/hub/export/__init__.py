"""A checkpoint as files for other engines, kept only if they answer as transformers does."""
