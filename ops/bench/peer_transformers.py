#!/usr/bin/env python3
"""The peer "Hugging Face transformers": peer_transformers.py DIR THREADS DTYPE, then orders as peer.py says."""
import sys

from peer import claim_stdout, serve

if len(sys.argv) != 4:
    sys.exit(__doc__)
answers = claim_stdout()

import torch  # noqa: E402  (stdout has to be claimed first)
import transformers  # noqa: E402

torch.set_num_threads(int(sys.argv[2]))
model = transformers.AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=getattr(torch, sys.argv[3]), attn_implementation="sdpa").eval()
state = {}


def step(input_ids: torch.Tensor) -> None:
    with torch.inference_mode():
        out = model(input_ids=input_ids, past_key_values=state["cache"], use_cache=True, logits_to_keep=1)
    state["next"] = out.logits[:, -1].argmax(-1, keepdim=True)


def prefill(ids: list[int]) -> None:
    state["cache"] = transformers.DynamicCache(config=model.config)
    step(torch.tensor([ids]))


def decode(count: int) -> None:
    for _ in range(count):
        step(state["next"])


serve(f"transformers {transformers.__version__}, torch {torch.__version__}", prefill, decode, answers)
