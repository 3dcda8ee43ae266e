"""Tiny models with a bias on every projection, and their logits by Hugging Face transformers in float32.

A bias behind a sum over workers must be added by one of them; no published model of a supported family has one there, but
their configurations allow it.
"""
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

SHAPE = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=256, tie_word_embeddings=False,
             attention_bias=True)
CASES = {"llama": (LlamaConfig(**SHAPE, mlp_bias=True), LlamaForCausalLM), "qwen3": (Qwen3Config(**SHAPE), Qwen3ForCausalLM)}


def main(into: pathlib.Path) -> None:
    torch.manual_seed(0)
    for name, (config, make) in CASES.items():
        config._attn_implementation = "eager"
        model = make(config).float().eval()
        tokens = torch.randint(0, config.vocab_size, (1, 60))
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                parameter.normal_(0, 0.3 if parameter.dim() > 1 else 0.5)
                if "norm" in parameter_name:
                    parameter.add_(1.0)
            logits = model(tokens).logits[0].contiguous()
        model.save_pretrained(into / name)
        (into / name / "generation_config.json").unlink(missing_ok=True)
        save_file({"input_ids": tokens[0].to(torch.int32), "logits": logits}, into / name / "golden.safetensors")


main(pathlib.Path(sys.argv[1]))
