#!/usr/bin/env python3
"""The peer llama.cpp: peer_llama_cpp.py FILE.gguf THREADS POSITIONS, then orders as peer.py says.

`peer_llama_cpp.py --to-f16 FILE.gguf OUT.gguf` writes the same model with its weights expanded to f16.
"""
import os
import sys

from peer import claim_stdout, serve

if len(sys.argv) != 4:
    sys.exit(__doc__)
answers = claim_stdout()

import llama_cpp  # noqa: E402  (stdout has to be claimed first)
import numpy as np  # noqa: E402


def to_f16(source: str, target: str) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_F16
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(source.encode(), (target + ".part").encode(), params) != 0:
        sys.exit(f"peer_llama_cpp: llama.cpp could not expand {source} to f16")
    os.rename(target + ".part", target)


if sys.argv[1] == "--to-f16":
    to_f16(sys.argv[2], sys.argv[3])
    sys.exit()

threads = int(sys.argv[2])
model = llama_cpp.Llama(sys.argv[1], n_ctx=int(sys.argv[3]), n_batch=512, n_threads=threads, n_threads_batch=threads,
                        flash_attn=True, verbose=False)


def prefill(ids: list[int]) -> None:
    model.reset()
    model.eval(ids)


def decode(count: int) -> None:
    for _ in range(count):
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),))
        model.eval([int(logits.argmax())])


serve(f"llama-cpp-python {llama_cpp.__version__}", prefill, decode, answers)
