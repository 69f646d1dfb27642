"""A checkpoint to what answers in this process; torch comes with it."""

from medllava.eval.ask.any_engine import AnyEngine
from medllava.eval.ask.engine import Engine
from medllava.eval.ask.predict import Answerer
from medllava.eval.config import DecodingConfig
from medllava.model.adapter import is_adapter
from medllava.model.any_model import is_any_model, load_any_model
from medllava.model.import_llava_med import split_delta
from medllava.model.load import load_model
from medllava.model.sources import read_config


def build_engine(checkpoint: str, *, device: str, dtype: str, decoding: DecodingConfig) -> Answerer:
    """Load a model into this process: a LLaVA with shared prefixes, any other by its own class.

    Raises:
        SetupError: it cannot be loaded.
    """
    name, base = split_delta(checkpoint)
    if base is None and not is_adapter(name) and is_any_model(read_config(name)):
        return AnyEngine(load_any_model(name, device=device, dtype=dtype), decoding)
    return Engine(load_model(checkpoint, device=device, dtype=dtype), decoding)
