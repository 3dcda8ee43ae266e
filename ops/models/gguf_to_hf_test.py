"""Tests of from_gguf on tiny files written here, with the row order that llama.cpp gives q and k."""
import json
import tempfile
import unittest
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType
from safetensors import safe_open

from gguf_to_hf import LAYER_TENSOR_NAMES, TENSOR_NAMES, Unsupported, convert, expected_shapes
from gguf_tokenizer import PRE_TOKENIZERS, PlainBpe, UnsupportedTokenizer, _byte_symbols, read_tokenizer

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
# Two special tokens, the 256 bytes, and a few merged ones.
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2"]
TOKENS = ["<s>", "</s>", *_byte_symbols(), *(merge.replace(" ", "") for merge in MERGES)]


def make_weights(architecture: str, tied: bool, seed: int = 1) -> dict[str, np.ndarray]:
    """Random weights by their Hugging Face names."""
    config = {"model_type": architecture, "hidden_size": 32, "intermediate_size": 48, "head_dim": HEAD_DIM,
              "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "num_hidden_layers": 2,
              "vocab_size": len(TOKENS), "tie_word_embeddings": tied, "attention_bias": False}
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in expected_shapes(config).items()}


def gguf_name(hf_name: str) -> str:
    stem, kind = hf_name.rsplit(".", 1)
    for short, long in TENSOR_NAMES.items():
        if stem == long:
            return f"{short}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{next(short for short, long in LAYER_TENSOR_NAMES.items() if long == part)}.{kind}"


def interleave(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Row by row, as the definition says: GGUF's row 2i of a head is row i, its row 2i + 1 is row i + head_dim / 2."""
    out = np.empty_like(rows)
    for head in range(num_heads):
        for i in range(HEAD_DIM // 2):
            out[head * HEAD_DIM + 2 * i] = rows[head * HEAD_DIM + i]
            out[head * HEAD_DIM + 2 * i + 1] = rows[head * HEAD_DIM + i + HEAD_DIM // 2]
    return out


def write_gguf(path: Path, architecture: str, weights: dict[str, np.ndarray], pre: str | None = None, theta: float = 10000.0,
               extra=lambda writer: None) -> None:
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(theta)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre or ("gpt-2" if architecture == "llama" else "qwen2"))
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL] * 2 + [TokenType.NORMAL] * (len(TOKENS) - 2))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    extra(writer)
    for name, values in weights.items():
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            values = interleave(values, HEADS if ".q_proj." in name else KV_HEADS)
        writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class FromGguf(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.gguf, self.out = Path(folder.name) / "model.gguf", Path(folder.name) / "out"
        self.out.mkdir()

    def convert(self, architecture="llama", weights=None, dtype="f32", **options) -> dict:
        write_gguf(self.gguf, architecture, weights or make_weights(architecture, tied=True), **options)
        convert(self.gguf, self.out, dtype)
        return json.loads((self.out / "config.json").read_text())

    def assert_refused(self, words: str, **options):
        with self.assertRaisesRegex((Unsupported, UnsupportedTokenizer), words):
            self.convert(**options)

    def test_every_architecture_comes_back_bit_for_bit(self):
        for architecture, tied in (("llama", True), ("llama", False), ("qwen2", False), ("qwen3", True)):
            with self.subTest(architecture=architecture, tied=tied):
                weights = make_weights(architecture, tied)
                config = self.convert(architecture, weights)
                self.assertEqual((config["model_type"], config["tie_word_embeddings"]), (architecture, tied))
                with safe_open(self.out / "model.safetensors", "numpy") as tensors:
                    self.assertEqual(set(tensors.keys()), set(weights))
                    for name, values in weights.items():
                        np.testing.assert_array_equal(tensors.get_tensor(name), values, err_msg=name)

    def test_bf16_is_rounded_to_nearest(self):
        weights = make_weights("llama", tied=True)
        # Exact; a tie that goes down to even; a tie that goes up to even; just above a tie.
        weights["model.norm.weight"][:4] = [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20]
        self.convert(weights=weights, dtype="bf16")
        raw = (self.out / "model.safetensors").read_bytes()
        size = int.from_bytes(raw[:8], "little")
        entry = json.loads(raw[8:8 + size])["model.norm.weight"]
        self.assertEqual(entry["dtype"], "BF16")
        bits = np.frombuffer(raw[8 + size + entry["data_offsets"][0]:][:8], "<u2").astype(np.uint32) << 16
        self.assertEqual(bits.view(np.float32).tolist(), [1.0, 1.0, 1 + 2**-6, 1 + 2**-7])

    def test_f16_refuses_values_it_cannot_hold(self):
        weights = make_weights("llama", tied=True)
        weights["model.norm.weight"][0] = 1e6
        self.assert_refused("model.norm.weight has values beyond 65504", weights=weights, dtype="f16")

    def test_llama3_scaling_is_recognised_by_its_divisors(self):
        wavelength = 2 * np.pi * 500000.0 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)  # 6, 167, 4443, 118145
        smooth = np.clip((8192 / wavelength - 1) / 3, 0, 1)
        divisors = (1 / ((1 - smooth) / 8 + smooth)).astype(np.float32)
        config = self.convert(theta=500000.0, extra=lambda w: w.add_tensor("rope_freqs.weight", divisors))
        self.assertEqual(config["rope_scaling"], {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192})
        self.assert_refused("rope_freqs.weight is not llama3 scaling", theta=500000.0,
                            extra=lambda w: w.add_tensor("rope_freqs.weight", divisors + 1))

    def test_linear_scaling_reaches_the_configuration(self):
        def scale(writer):
            writer.add_string("llama.rope.scaling.type", "linear")
            writer.add_float32("llama.rope.scaling.factor", 4.0)
        self.assertEqual(self.convert(extra=scale)["rope_scaling"], {"rope_type": "linear", "factor": 4.0})

    def test_what_is_not_known_is_refused_by_name(self):
        self.assert_refused("llama.expert_count = 8", extra=lambda w: w.add_uint32("llama.expert_count", 8))
        self.assert_refused("'deepseek-llm'; supported are gpt-2", pre="deepseek-llm")
        self.assert_refused("rope.scaling.type is 'longrope'",
                            extra=lambda w: w.add_string("llama.rope.scaling.type", "longrope"))
        self.assert_refused("blk.0.ssm_a is not part", extra=lambda w: w.add_tensor("blk.0.ssm_a", np.zeros(32, np.float32)))
        weights = make_weights("llama", tied=True)
        del weights["model.layers.1.mlp.up_proj.weight"]
        self.assert_refused("model.layers.1.mlp.up_proj.weight is missing", weights=weights)
        weights = make_weights("llama", tied=True)
        weights["model.norm.weight"][3] = np.nan
        self.assert_refused("model.norm.weight holds values that are not finite", weights=weights)

    def test_every_pre_tokenizer_equals_plain_bpe(self):
        for pre in PRE_TOKENIZERS:  # convert() compares on a list of texts, and raises if they differ
            with self.subTest(pre=pre):
                self.convert(pre=pre)

    def test_bos_is_added_when_the_file_says_so(self):
        self.convert(extra=lambda w: w.add_add_bos_token(True))
        processor = json.loads((self.out / "tokenizer.json").read_text())["post_processor"]
        self.assertEqual(processor["special_tokens"], {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}})

    def test_plain_bpe_merges_by_rank(self):
        metadata = {f"tokenizer.ggml.{key}": value for key, value in {
            "model": "gpt2", "pre": "smollm", "tokens": TOKENS, "token_type": [3, 3] + [1] * (len(TOKENS) - 2),
            "merges": MERGES}.items()}
        ids = PlainBpe(read_tokenizer(metadata)).encode("hello w12</s>")
        self.assertEqual([TOKENS[i] for i in ids], ["hello", "Ġw", "1", "2", "</s>"])


if __name__ == "__main__":
    unittest.main()
