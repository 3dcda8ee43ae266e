#!/usr/bin/env python3
"""Turns a GGUF file into a Hugging Face model directory: config, safetensors, tokenizer, chat template.

Weights are expanded (dequantised), one tensor in memory at a time. What the file says and this tool does not know, a
metadata key of the architecture, a tensor, a pre-tokenizer, is refused by name, so that nothing is silently lost.
"""
import argparse
import json
import os
import shutil
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from gguf_tokenizer import (UnsupportedTokenizer, check_tokenizer, make_tokenizer_config, make_tokenizer_json,
                            read_tokenizer)

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# Keys below "<architecture>." that are understood. Any other key might change the result, and is refused.
KNOWN_KEYS = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scaling.attn_factor",
}

DTYPES = {"f32": ("F32", "float32", 4), "f16": ("F16", "float16", 2), "bf16": ("BF16", "bfloat16", 2)}

TENSOR_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_TENSOR_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


class Unsupported(Exception):
    """The file holds something this tool does not know."""


def _as_written(value: float) -> float:
    """GGUF stores floats in 32 bits; the shortest decimal that gives those bits is what the author wrote."""
    return float(str(np.float32(value)))


class Model:
    """The file's metadata and tensors, with the architecture's own keys by their short names."""

    def __init__(self, path: Path):
        reader = GGUFReader(path)
        self.metadata = {key: field.contents() for key, field in reader.fields.items()}
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = self.metadata.get("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise Unsupported(f"general.architecture is {self.architecture!r}; supported are {', '.join(ARCHITECTURES)}")
        prefix = self.architecture + "."
        self.keys = {key[len(prefix):]: value for key, value in self.metadata.items() if key.startswith(prefix)}
        unknown = sorted(set(self.keys) - KNOWN_KEYS)
        if unknown:
            raise Unsupported(f"{prefix}{unknown[0]} = {self.keys[unknown[0]]!r} is a setting that is not supported")

    def key(self, name: str):
        if name not in self.keys:
            raise Unsupported(f"{self.architecture}.{name} is missing")
        return self.keys[name]


def hf_tensor_name(gguf_name: str) -> str:
    stem, _, kind = gguf_name.rpartition(".")
    parts = stem.split(".")
    if kind in ("weight", "bias"):
        if len(parts) == 1 and parts[0] in TENSOR_NAMES:
            return f"{TENSOR_NAMES[parts[0]]}.{kind}"
        if len(parts) == 3 and parts[0] == "blk" and parts[1].isdigit() and parts[2] in LAYER_TENSOR_NAMES:
            return f"model.layers.{parts[1]}.{LAYER_TENSOR_NAMES[parts[2]]}.{kind}"
    raise Unsupported(f"the tensor {gguf_name} is not part of a supported model")


def _llama3_scaling(factors: np.ndarray, head_dim: int, rope_theta: float) -> dict:
    """The parameters of `llama3` scaling behind the per-frequency divisors in rope_freqs.weight, proved by recomputing."""
    low, high, original, factor = 1.0, 4.0, 8192, _as_written(factors.max())
    wavelength = 2 * np.pi * rope_theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
        raise Unsupported("rope_freqs.weight is not llama3 scaling with low and high factors 1 and 4 from 8192 positions")
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original}


def _rope_scaling(model: Model, head_dim: int, rope_theta: float) -> dict | None:
    kind = model.keys.get("rope.scaling.type", "none")
    if "rope_freqs.weight" in model.tensors:
        if kind != "none":
            raise Unsupported(f"both rope_freqs.weight and rope.scaling.type {kind!r}")
        return _llama3_scaling(np.asarray(model.tensors["rope_freqs.weight"].data, np.float64), head_dim, rope_theta)
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise Unsupported(f"{model.architecture}.rope.scaling.type is {kind!r}; supported are none, linear and yarn")
    scaling = {"rope_type": kind, "factor": _as_written(model.key("rope.scaling.factor"))}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = model.key("rope.scaling.original_context_length")
        if "rope.scaling.attn_factor" in model.keys:
            scaling["attention_factor"] = _as_written(model.keys["rope.scaling.attn_factor"])
    return scaling


def make_config(model: Model, dtype: str) -> dict:
    hidden_size, num_heads = model.key("embedding_length"), model.key("attention.head_count")
    num_kv_heads = model.keys.get("attention.head_count_kv", num_heads)
    if isinstance(num_heads, list) or isinstance(num_kv_heads, list):
        raise Unsupported(f"{model.architecture}.attention.head_count differs from layer to layer")
    head_dim = model.keys.get("attention.key_length", hidden_size // num_heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if model.keys.get(name, head_dim) != head_dim:
            raise Unsupported(f"{model.architecture}.{name} is {model.keys[name]}, not the head dimension {head_dim}")
    rope_theta = _as_written(model.keys.get("rope.freq_base", 10000.0))
    config = {
        "architectures": [ARCHITECTURES[model.architecture]], "model_type": model.architecture,
        "hidden_size": hidden_size, "intermediate_size": model.key("feed_forward_length"),
        "num_hidden_layers": model.key("block_count"), "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads, "head_dim": head_dim, "hidden_act": "silu",
        "max_position_embeddings": model.key("context_length"),
        "rms_norm_eps": _as_written(model.key("attention.layer_norm_rms_epsilon")), "rope_theta": rope_theta,
        "rope_scaling": _rope_scaling(model, head_dim, rope_theta), "attention_dropout": 0.0, "initializer_range": 0.02,
        "tie_word_embeddings": "output.weight" not in model.tensors, "torch_dtype": DTYPES[dtype][1], "use_cache": True,
        "vocab_size": int(model.tensors["token_embd.weight"].shape[1]),
    }
    if model.architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in model.tensors
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in model.tensors
    if model.architecture == "qwen3":
        config["attention_bias"] = "blk.0.attn_q.bias" in model.tensors
    if model.architecture.startswith("qwen"):
        config["use_sliding_window"] = False
    return config


def expected_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model that `config` describes, by its Hugging Face name."""
    hidden, intermediate, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q_rows, kv_rows = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    qkv_bias = config["model_type"] == "qwen2" or config["attention_bias"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    linear = [("self_attn.q_proj", q_rows, hidden, qkv_bias), ("self_attn.k_proj", kv_rows, hidden, qkv_bias),
              ("self_attn.v_proj", kv_rows, hidden, qkv_bias),
              ("self_attn.o_proj", hidden, q_rows, qkv_bias and config["model_type"] != "qwen2")]
    linear += [(f"mlp.{name}_proj", rows, columns, config.get("mlp_bias", False)) for name, rows, columns in (
        ("gate", intermediate, hidden), ("up", intermediate, hidden), ("down", hidden, intermediate))]
    norms = [("input_layernorm", hidden), ("post_attention_layernorm", hidden)]
    if config["model_type"] == "qwen3":
        norms += [("self_attn.q_norm", head_dim), ("self_attn.k_norm", head_dim)]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows, columns, bias in linear:
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{prefix}{name}.bias"] = (rows,)
        shapes.update({f"{prefix}{name}.weight": (size,) for name, size in norms})
    return shapes


def unpermute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Undoes the order of rows that GGUF gives q and k of a Llama.

    GGUF interleaves the two halves of each head (0, d/2, 1, d/2 + 1, ...), because llama.cpp rotates neighbours; Hugging
    Face rotates element i with element i + d/2.
    """
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def to_bytes(values: np.ndarray, dtype: str, name: str) -> bytes:
    if dtype == "f32":
        return np.ascontiguousarray(values, "<f4").tobytes()
    if dtype == "f16":
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise Unsupported(f"{name} has values beyond 65504, the largest of f16; use --dtype bf16 or f32")
        return values.astype("<f2").tobytes()
    bits = np.ascontiguousarray(values, "<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()  # to nearest, ties to even


def write_weights(model: Model, config: dict, dtype: str, path: Path) -> None:
    shapes = expected_shapes(config)
    sources = {hf_tensor_name(name): tensor for name, tensor in model.tensors.items() if name != "rope_freqs.weight"}
    for name in sorted(set(shapes) ^ set(sources)):
        raise Unsupported(f"the tensor {name} is {'missing' if name in shapes else 'not expected'} in this model")
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        found = tuple(int(n) for n in reversed(sources[name].shape))
        if found != shape:
            raise Unsupported(f"the tensor {name} has the shape {found}; the metadata says {shape}")
        size = int(np.prod(shape)) * DTYPES[dtype][2]
        header[name] = {"dtype": DTYPES[dtype][0], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    permuted = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        for name, shape in shapes.items():
            source = sources[name]
            values = dequantize(source.data, source.tensor_type).reshape(shape)
            if not np.isfinite(values).all():
                raise Unsupported(f"the tensor {name} holds values that are not finite: the file is damaged")
            if model.architecture == "llama" and name.split(".")[-2] in permuted:
                values = unpermute(values, permuted[name.split(".")[-2]])
            out.write(to_bytes(values, dtype, name))


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert(source: Path, directory: Path, dtype: str) -> str:
    """Fills the empty `directory`. Returns a sentence about what was written."""
    model = Model(source)
    tokenizer = read_tokenizer(model.metadata)
    config = make_config(model, dtype)
    if len(tokenizer.tokens) > config["vocab_size"]:
        raise Unsupported(f"{len(tokenizer.tokens)} tokens, but the embedding has {config['vocab_size']} rows")
    stop_ids = tokenizer.stop_ids[0] if len(tokenizer.stop_ids) == 1 else tokenizer.stop_ids or None
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": stop_ids, "pad_token_id": tokenizer.pad_id}
    write_json(directory / "config.json", config | ids)
    write_json(directory / "generation_config.json", {key: value for key, value in ids.items() if value is not None})
    write_json(directory / "tokenizer.json", make_tokenizer_json(tokenizer))
    write_json(directory / "tokenizer_config.json", make_tokenizer_config(tokenizer, config["max_position_embeddings"]))
    print("from_gguf: checking the tokenizer", file=sys.stderr)
    num_ids = check_tokenizer(tokenizer, str(directory))
    print(f"from_gguf: expanding {len(model.tensors)} tensors", file=sys.stderr)
    write_weights(model, config, dtype, directory / "model.safetensors")
    size = (directory / "model.safetensors").stat().st_size
    return (f"{model.architecture}, {config['num_hidden_layers']} layers, {len(model.tensors)} tensors, {size / 1e6:.0f} MB "
            f"in {dtype}; {len(tokenizer.tokens)} tokens, tokenizer equal to a plain BPE on {num_ids} ids")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="from_gguf", description="Turn a GGUF file into a Hugging Face model directory.",
        epilog=f"Architectures: {', '.join(ARCHITECTURES)}. Tokenizers: byte-level BPE. Anything else is refused by name.")
    parser.add_argument("gguf", type=Path, metavar="FILE.gguf", help="model to read")
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory to make; it must not exist yet")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="type of the weights written (default bf16)")
    args = parser.parse_args()
    if args.directory.exists():
        sys.exit(f"from_gguf: {args.directory} exists already; name a directory to make")
    if not args.gguf.is_file():
        sys.exit(f"from_gguf: {args.gguf} is not a file; name a GGUF file")
    args.directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=args.directory.name + ".", dir=args.directory.parent))
    try:
        work.chmod(0o755)
        summary = convert(args.gguf, work, args.dtype)
        os.rename(work, args.directory)
    except (Unsupported, UnsupportedTokenizer) as error:
        sys.exit(f"from_gguf: {args.gguf}: {error}")
    except ValueError as error:  # what the gguf package raises for files it cannot parse
        sys.exit(f"from_gguf: {args.gguf} is not a GGUF file, or is cut short: {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{args.directory}: {summary}")


if __name__ == "__main__":
    main()
