#!/usr/bin/env python3
"""Writes the squared gradients of a model's loss with respect to its keys and values, for `varve calibrate --sensitivity`.

The loss is the sum of -log p(next token) over the tokens that `varve calibrate` would look at: Varve itself is asked for
them, so that both see the same. Keys are those before RoPE, behind the norm of keys where a model has one. OUT gets

    model_hash         int64 [1]                               Varve's hash of the model
    sequence_lengths   int32 [S]                               the tokens of each sequence
    tokens             int32 [N]                               of all sequences, one behind the other
    layer.{i}.k        bfloat16 [N, num_kv_heads, head_dim]    squared gradients
    layer.{i}.v        bfloat16 [N, num_kv_heads, head_dim]

Computed in float32 on the CPU, one sequence at a time: it takes the memory of a forward pass over --sequence-tokens tokens
that keeps what the backward pass needs, and 2 bytes for each number of K and V of all tokens, in memory and in OUT. The fit of `nuq` codecs weighs each number with these (KVQuant,
2401.18079, where they are called Fisher information).
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
LOGITS_AT_ONCE = 256  # positions: all logits of a long sequence would take gigabytes


class Taps:
    """Keeps the keys before RoPE and the values of every layer of the newest forward pass, with their gradients."""

    def __init__(self, model: torch.nn.Module):
        config = model.config.get_text_config()
        self.num_kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.layers = model.get_decoder().layers
        self.outputs = [{} for _ in self.layers]
        model.requires_grad_(False)
        # Without a gradient anywhere nothing would be recorded: it begins at the embeddings.
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_())
        for layer, own in zip(self.layers, self.outputs):
            attention = layer.self_attn
            keys = attention.k_norm if hasattr(attention, "k_norm") else attention.k_proj
            keys.register_forward_hook(self.keeper(own, "k"))
            attention.v_proj.register_forward_hook(self.keeper(own, "v"))
        # Some families norm keys as [heads, tokens], some as [tokens, heads]: seen where the two numbers differ.
        model(input_ids=torch.zeros(1, self.num_kv_heads + 1, dtype=torch.long), use_cache=False)
        self.heads_first = self.outputs[0]["k"].dim() == 4 and self.outputs[0]["k"].shape[1] == self.num_kv_heads

    @staticmethod
    def keeper(own: dict, name: str):
        def keep(module, inputs, output):
            output.retain_grad()
            own[name] = output
        return keep

    def squares(self, layer: int, name: str) -> torch.Tensor:
        """[num_tokens, num_kv_heads, head_dim]"""
        gradient = self.outputs[layer][name].grad[0]
        if name == "k" and self.heads_first:
            gradient = gradient.transpose(0, 1)
        return gradient.reshape(-1, self.num_kv_heads, self.head_dim).square()


def backward(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    """Leaves the gradients of the summed loss of one sequence where Taps finds them; returns the loss."""
    hidden = model.get_decoder()(input_ids=tokens[None].long(), use_cache=False).last_hidden_state[0]
    leaf = hidden.detach().requires_grad_()
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    total = 0.0
    for begin in range(0, len(tokens) - 1, LOGITS_AT_ONCE):
        end = min(begin + LOGITS_AT_ONCE, len(tokens) - 1)
        logits = model.get_output_embeddings()(leaf[begin:end])
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        loss = torch.nn.functional.cross_entropy(logits, tokens[begin + 1:end + 1].long(), reduction="sum")
        loss.backward()
        total += loss.item()
    hidden.backward(leaf.grad)
    return total


def squared_gradients(model: torch.nn.Module, sequences: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    taps = Taps(model)
    rows = {f"layer.{layer}.{name}": [] for layer in range(len(taps.layers)) for name in "kv"}
    for number, tokens in enumerate(sequences, 1):
        if len(tokens) > 1:
            loss = backward(model, tokens) / (len(tokens) - 1)
            print(f"gradients: sequence {number} of {len(sequences)}, {len(tokens)} tokens, loss {loss:.3f}",
                  file=sys.stderr, flush=True)
        for layer in range(len(taps.layers)):
            for name in "kv":
                empty = torch.zeros(len(tokens), taps.num_kv_heads, taps.head_dim)
                squares = taps.squares(layer, name) if len(tokens) > 1 else empty
                rows[f"layer.{layer}.{name}"].append(squares.to(torch.bfloat16))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def find_varve() -> str | None:
    built = [ROOT / "build" / preset / "ops" / "cli" / "varve" for preset in ("release", "dev")]
    return next((str(path) for path in built if os.access(path, os.X_OK)), shutil.which("varve"))


def ask_for_tokens(args: argparse.Namespace, out: Path) -> dict[str, torch.Tensor]:
    command = [args.varve, "calibrate", "--model", args.model, "--tokens", args.tokens, "--sequence-tokens",
               args.sequence_tokens, "--write-tokens", out, "--text", *args.text]
    try:
        status = subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL).returncode
    except OSError as error:
        sys.exit(f"gradients: cannot run {args.varve}: {error.strerror}")
    if status != 0:
        sys.exit(status)
    return load_file(out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gradients", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="DIR", help="Hugging Face model directory, as ops/models/fetch prints it")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write")
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help="as for varve calibrate")
    parser.add_argument("--tokens", type=int, default=8192, metavar="N", help="as for varve calibrate (default 8192)")
    parser.add_argument("--sequence-tokens", type=int, default=2048, metavar="N", help="as for varve calibrate (default 2048)")
    parser.add_argument("--varve", default=find_varve(), metavar="PROGRAM",
                        help="the varve to ask for the tokens (default: that of build/release or build/dev, or of the PATH)")
    args = parser.parse_args()
    if args.varve is None:
        sys.exit("gradients: there is no varve in build/release, build/dev or on the PATH; build it, or name it with --varve")
    if not args.out.absolute().parent.is_dir():
        sys.exit(f"gradients: there is no directory {args.out.absolute().parent} to write in")
    return args


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as work:
        given = ask_for_tokens(args, Path(work) / "tokens")
    sequences = given["tokens"].split(given["sequence_lengths"].tolist())
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tensors = {**given, **squared_gradients(model, list(sequences))}
    partial = args.out.with_name(args.out.name + ".partial")
    save_file(tensors, partial)
    partial.chmod(0o644)
    os.replace(partial, args.out)
    print(args.out)


if __name__ == "__main__":
    main()
