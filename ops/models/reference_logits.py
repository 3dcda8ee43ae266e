#!/usr/bin/env python3
"""Writes what Hugging Face transformers computes with a model directory in float32: greedy answers and logits.

OUT gets prompts.json (name -> text, as it stands after the chat template) and per prompt NAME.safetensors:

    input_ids         int32   [T]        the tokens of the text
    continuation_ids  int32   [n]        greedy decoding, up to and including the first stop token
    top_ids           int32   [T+n, k]   after each token: the k likeliest next ones, best first
    top_logits        float32 [T+n, k]   their logits
    lse               float32 [T+n]      natural log of the sum of exponentials of all logits
    last_logits       float32 [vocab]    all logits after the last token of the prompt

A greedy token whose lead, top_logits[., 0] - top_logits[., 1], is within an implementation's error may rightly differ.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTIONS = {
    "capital": "What is the capital of France?",
    "colours": "Name three primary colours.",
    "sea": "Write one sentence about the sea.",
    "code": "Write a Python function that returns the sum of a list.",
    "numbers": "Repeat these numbers: 7, 42, 1234, 5.",
}
STORY = "Once upon a time there was a lighthouse keeper who"
LICENSE = Path(__file__).resolve().parents[2] / "LICENSE"


def compute(model: torch.nn.Module, input_ids: list[int], num_new: int, num_top: int) -> dict[str, torch.Tensor]:
    prompt = torch.tensor([input_ids])
    with torch.no_grad():
        whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=num_new, do_sample=False)
        logits = model(whole, use_cache=False).logits[0]
    top = logits.topk(num_top)
    return {"input_ids": prompt[0].to(torch.int32), "continuation_ids": whole[0, len(input_ids):].to(torch.int32),
            "top_ids": top.indices.to(torch.int32), "top_logits": top.values.contiguous(), "lse": logits.logsumexp(-1),
            "last_logits": logits[len(input_ids) - 1].clone()}


def make_prompts(tokenizer, text: str, num_tokens: int) -> dict[str, tuple[str, list[int]]]:
    prompts = {"story": (STORY, tokenizer.encode(STORY))}
    if tokenizer.chat_template:
        for name, question in QUESTIONS.items():
            chat = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False,
                                                 add_generation_prompt=True)
            prompts[name] = (chat, tokenizer.encode(chat, add_special_tokens=False))
    ids = tokenizer.encode(text)
    if len(ids) < num_tokens:
        sys.exit(f"reference_logits: the text has {len(ids)} tokens, fewer than the {num_tokens} asked for; "
                 "name a longer --text")
    prompts["long_text"] = (tokenizer.decode(ids[:num_tokens]), ids[:num_tokens])
    return prompts


def main() -> None:
    parser = argparse.ArgumentParser(prog="reference_logits", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="DIR", help="Hugging Face model directory, as ops/models/fetch prints it")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to make; it must not exist yet")
    parser.add_argument("--text", type=Path, default=LICENSE, metavar="FILE", help="the long text (default: LICENSE)")
    parser.add_argument("--tokens", type=int, default=1500, metavar="N", help="tokens of the long text (default 1500)")
    parser.add_argument("--new-tokens", type=int, default=64, metavar="N", help="tokens to decode (default 64)")
    parser.add_argument("--top", type=int, default=16, metavar="K", help="logits to keep per position (default 16)")
    args = parser.parse_args()
    if args.out.exists():
        sys.exit(f"reference_logits: {args.out} exists already; name a directory to make")
    if not (args.model / "config.json").is_file():
        sys.exit(f"reference_logits: {args.model} holds no config.json; name a Hugging Face model directory")
    if not args.text.is_file():
        sys.exit(f"reference_logits: {args.text} is not a file; name a text with --text")
    if min(args.tokens, args.new_tokens, args.top) < 1:
        sys.exit("reference_logits: --tokens, --new-tokens and --top must be at least 1")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    prompts = make_prompts(tokenizer, args.text.read_text(encoding="utf-8"), args.tokens)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa").eval()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=args.out.name + ".", dir=args.out.parent))
    try:
        work.chmod(0o755)
        texts = {name: text for name, (text, _) in prompts.items()}
        (work / "prompts.json").write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for name, (_, input_ids) in prompts.items():
            tensors = compute(model, input_ids, args.new_tokens, args.top)
            save_file(tensors, work / f"{name}.safetensors")
            (work / f"{name}.safetensors").chmod(0o644)
            answer = tokenizer.decode(tensors["continuation_ids"])
            num_new = len(tensors["continuation_ids"])
            print(f"{name}: {len(input_ids)} tokens, then {num_new}: {json.dumps(answer[:90])}", flush=True)
        os.rename(work, args.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(args.out)


if __name__ == "__main__":
    main()
