"""The commands of docs/convert.md that can run here do."""

import re
import subprocess
import sys
from pathlib import Path

import torch
from hub_folders import write_checkpoint
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

PAGE = Path(__file__).parents[2] / "docs" / "convert.md"


def test_language_model_taken_out_says_what_it_said_inside(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt")
    script = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1)
    arguments = [sys.executable, "-c", script, str(checkpoint), str(tmp_path / "out")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    inside = LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
    outside = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[5, 9, 20, 31]])
    with torch.inference_mode():
        torch.testing.assert_close(outside(ids).logits, inside(input_ids=ids).logits)
    assert (tmp_path / "out" / "tokenizer.json").is_file()
