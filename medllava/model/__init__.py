"""Parts become one native model: a language model, a vision encoder and a projector."""
