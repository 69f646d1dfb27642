"""A checkpoint to what answers in this process; torch comes with it."""

from medllava.eval.ask.any_engine import AnyEngine
from medllava.eval.ask.engine import Engine
from medllava.eval.ask.predict import Answerer
from medllava.eval.config import DecodingConfig
from medllava.model.any_model import is_other_family, load_any_model
from medllava.model.load import load_model


def build_engine(checkpoint: str, *, device: str, dtype: str, decoding: DecodingConfig) -> Answerer:
    """Load a model into this process: a LLaVA with shared prefixes, any other by its own class.

    Raises:
        SetupError: it cannot be loaded.
    """
    if is_other_family(checkpoint):
        return AnyEngine(load_any_model(checkpoint, device=device, dtype=dtype), decoding)
    return Engine(load_model(checkpoint, device=device, dtype=dtype), decoding)
