"""The names of the files that steps leave for each other, written once.

A name that two rooms know stands here; a name that only one room reads and writes (a cache, a lock,
the journal of a step) stays in that room. Nothing is imported, so every room may read this.

    figures folder        figures.parquet  rejected.parquet  images/  ATTRIBUTION.md  summary.json
    instructions folder   instructions.jsonl  questions.jsonl  preferences.jsonl  rejected.jsonl
                          struck.jsonl  browse.html  summary.json
    run folder            config.json  model*.safetensors  processor and tokenizer files
                          recipe.json  run.json  metrics.jsonl  dropped.jsonl  report.html
                          README.md  learned.safetensors  adapter/  checkpoints/  eval/  push/
                          export/
    eval folder           report.json  report.html  predictions.jsonl  contamination.jsonl
                          judgements.jsonl  compare.json
"""

# Of a model folder, by transformers' own conventions.
MODEL_CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
PROCESSOR_FILE = "processor_config.json"
IMAGE_PROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
"""Maps each weight to its shard, where the weights are in several files."""

GGUF_SUFFIX = ".gguf"
"""llama.cpp's files: `model-KIND.gguf`, and `mmproj-KIND.gguf` for pictures."""

# By peft's conventions.
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"

# Of a run folder.
RUN_FILE = "run.json"
"""What was done: parts, data, numbers, machine; written last, so it says that a run is finished."""
RECIPE_FILE = "recipe.json"
"""The resolved recipe."""
METRICS_FILE = "metrics.jsonl"
"""One record per step."""
DROPPED_FILE = "dropped.jsonl"
"""Records that were not used, with the reason."""
LEARNED_FILE = "learned.safetensors"
"""Beside merged weights: the adapter and whatever else learns, apart. No weight of the model."""
CARD_FILE = "README.md"
ADAPTER_DIR = "adapter"
"""What an adapter learned, apart from the model it learned on, as peft reads it."""
CHECKPOINTS_DIR = "checkpoints"
EVAL_DIR = "eval"
PUSH_DIR = "push"
EXPORT_DIR = "export"

# Of an evaluation's folder.
EVAL_REPORT_FILE = "report.json"
PREDICTIONS_FILE = "predictions.jsonl"
CONTAMINATION_FILE = "contamination.jsonl"
JUDGEMENTS_FILE = "judgements.jsonl"
COMPARISON_FILE = "compare.json"

# Of a figures folder and an instructions folder.
FIGURES_FILE = "figures.parquet"
REJECTED_FIGURES_FILE = "rejected.parquet"
ATTRIBUTION_FILE = "ATTRIBUTION.md"
INSTRUCTIONS_FILE = "instructions.jsonl"
QUESTIONS_FILE = "questions.jsonl"
PREFERENCES_FILE = "preferences.jsonl"
"""Pairs of replies for stage 4, in place of instructions."""
REJECTED_FILE = "rejected.jsonl"
STRUCK_FILE = "struck.jsonl"
"""Ids of records that somebody struck; nobody learns from them."""
BROWSE_FILE = "browse.html"
"""A page to look through the records and to strike some."""
PRIVACY_FILE = "privacy.jsonl"
"""What the privacy gate saw of every item: findings by place, never their words."""
PRIVACY_PAGE_FILE = "privacy.html"
"""The same with thumbnails; it shows what is private and stays where it is."""
PRIVACY_DIR = "privacy"
"""Copies of what the gate painted over."""

# Of any folder.
SUMMARY_FILE = "summary.json"
"""Settings, counts and inputs of the step that made the folder."""
SOURCES_FILE = "SOURCES.json"
"""Packages or collections a folder's content came from, as a list of objects with a `name`."""
PAGE_FILE = "report.html"
"""The same as the numbers beside it, to look at."""
