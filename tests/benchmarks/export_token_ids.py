"""Do engines ask in the same words? Token ids of conversations, one by one.

    python tests/benchmarks/export_token_ids.py [CKPT | TOKENIZER] ...

Conversations of one and two turns with none to three pictures go through the text that training
uses, through the lists of parts that transformers' pipelines and server take, and through
llama.cpp. Small random models, and the checkpoints named; or a small model with the tokenizer of a
folder, and LLaVA-Med's template. vLLM and SGLang take what transformers' template gives.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from export_models import LANGUAGE, build_small, compare_ids

from medllava.layout import MODEL_CONFIG_FILE
from medllava.model.load import load_model
from medllava.model.loaded import LoadedModel

CONVERSATIONS = 50


def main(sources: list[Path]) -> None:
    """Print a line per model."""
    for language in LANGUAGE:
        tell(f"debug, {language}", build_small("siglip", language=language))
    for source in sources:
        if (source / MODEL_CONFIG_FILE).is_file():
            tell(source.name, load_model(str(source), device="cpu", dtype="fp32"))
        else:
            loaded = build_small("siglip", language="mistral", tokenizer=source)
            tell(f"tokenizer {source.name}", loaded)


def tell(name: str, loaded: LoadedModel) -> None:
    """Print how many conversations have the ids of training."""
    same = compare_ids(loaded, CONVERSATIONS)
    told = "  ".join(f"{engine} {count}" for engine, count in same.items())
    print(f"{name:<28} {CONVERSATIONS} conversations  same ids: {told}", flush=True)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
