"""Load a model folder in a process of its own and ask it one question.

Run as a plain script that imports nothing of this package: it proves that the folder needs nothing
but transformers. The folder is its argument; one JSON object on stdout is its answer.
"""

import json
import sys
import time
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, AutoProcessor

_KEYS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def probe(folder: str) -> dict[str, object]:
    """Return what the model answered about a drawn image, and how it loaded.

    Raises:
        ValueError: weights are missing or left over, so parts of the model would be random.
    """
    started = time.monotonic()
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype="auto",
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    model, info = loaded
    wrong = {kind: sorted(map(str, info[kind]))[:5] for kind in _KEYS if info[kind]}
    if wrong:
        raise ValueError(f"weights and configuration do not match: {wrong}")
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)  # type: ignore[no-untyped-call]
    image = Image.new("RGB", (320, 240), "black")
    ImageDraw.Draw(image).ellipse((60, 30, 260, 210), fill="gray", outline="white", width=6)
    content = [{"type": "image"}, {"type": "text", "text": "What kind of image is this?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(images=image, text=prompt, return_tensors="pt").to(model.device, model.dtype)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    reply = output[0, inputs["input_ids"].shape[1] :]
    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "answer": processor.decode(reply, skip_special_tokens=True).strip(),
        "tokens": int(reply.numel()),
        "seconds": round(time.monotonic() - started, 2),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(sys.argv[1])) + "\n")
