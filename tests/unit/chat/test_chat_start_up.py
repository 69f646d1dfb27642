"""Start-up of a `medllava chat` process."""

import subprocess
import sys

_SCRIPT = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count()))  # registered first, runs last
from medllava.cli import chat_modes

assert "torch" not in sys.modules
before = gc.get_stats()[2]["collections"]
chat_modes._import_model_code()
assert "medllava.model.load" in sys.modules
print(gc.isenabled(), gc.get_freeze_count() > 100_000, gc.get_stats()[2]["collections"] - before)
"""


def test_collector_rests_only_while_the_model_code_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=300
    )
    enabled, frozen, collections, frozen_at_exit = done.stdout.split()
    assert (enabled, frozen) == ("True", "True")
    assert int(collections) <= 1, "it ran during the import"
    assert frozen_at_exit == "0", "what is set aside would be told as leaked by triton"
