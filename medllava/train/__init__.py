"""A recipe becomes a checkpoint: stages, plan, trainer and launch."""
