"""What an optimizer remembers, from whole tensors to DeepSpeed's flat stretches and back."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import copy, os, sys
os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]}
from pathlib import Path
import torch
from medllava.train.ranks import _use_gloo_alone
_use_gloo_alone()
import deepspeed
from medllava.train.resharding import restore_optimizer

folder = Path(sys.argv[1])
torch.manual_seed(0)
plain = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


def adamw(model):
    first, last = model[0], model[2]
    groups = [{"params": [first.weight, last.weight], "weight_decay": 0.1},
              {"params": [first.bias, last.bias], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2, fused=True)


def step(model, optimizer, batch):
    model(batch).pow(2).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def gap(other):
    return max(float((a - b).abs().max().detach())
               for a, b in zip(plain.parameters(), other.parameters()))


batches = torch.randn(9, 4, 5)
optimizer = adamw(plain)
for batch in batches[:3]:
    step(plain, optimizer, batch)
(folder / "plain").mkdir()
torch.save(optimizer.state_dict(), folder / "plain" / "optimizer.pt")

sharded = copy.deepcopy(plain)
engine, zero, *_ = deepspeed.initialize(
    model=sharded, optimizer=adamw(sharded),
    config={"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.0,
            "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False})
restore_optimizer(folder / "plain", sharded, zero)
for batch in batches[3:6]:
    step(plain, optimizer, batch)
    engine.backward(engine(batch).pow(2).sum())
    engine.step()
    assert gap(sharded) < 1e-6, gap(sharded)
engine.save_checkpoint(str(folder / "sharded"))

again = copy.deepcopy(sharded)
last = adamw(again)
restore_optimizer(folder / "sharded", again, last)
for batch in batches[6:]:
    step(plain, optimizer, batch)
    step(again, last, batch)
    assert gap(again) < 1e-6, gap(again)
print("equal")
"""


@pytest.mark.slow
def test_moments_go_from_one_process_to_zero_2_and_back(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is for Linux")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(port)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.stdout.splitlines()[-1:] == ["equal"], done.stderr[-2000:]
