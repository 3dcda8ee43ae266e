"""The golden cases: a tiny model of each family, and what has to matter in it.

Each case names the *variants* of itself that a wrong implementation might compute instead: a feature left out, a window
one token too wide, another rotary base. make_goldens.py refuses a case whose logits do not tell it from its variants.
"""
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

LONG = 320  # more than one page of 128 tokens and the recent window of 128 behind it
COMMON = {"vocab_size": 96, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 1024,
          "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}


@dataclass(frozen=True)
class Variant:
    """A model that differs from the case in settings, or by an edit of the loaded model."""
    settings: dict = field(default_factory=dict)
    edit: Callable[[torch.nn.Module], None] | None = None
    same: bool = False  # the variant has to give the very same logits instead of others


@dataclass(frozen=True)
class Case:
    name: str
    proves: str
    model_type: str
    settings: dict
    variants: dict[str, Variant]
    num_tokens: int = 128
    dtype: str = "float32"
    shard_bytes: int | None = None
    score_gain: float = 1.4  # standard deviation that q and k get; the scores vary by about its square
    v4: dict = field(default_factory=dict)  # keys of config_v4.json that are spelled otherwise; None: left out


def without(*names: str) -> Callable[[torch.nn.Module], None]:
    """An edit that turns every submodule of these names into the identity."""
    def edit(model: torch.nn.Module) -> None:
        for module in list(model.modules()):
            for name, _ in list(module.named_children()):
                if name in names:
                    setattr(module, name, torch.nn.Identity())
    return edit


def zero_biases(*names: str) -> Callable[[torch.nn.Module], None]:
    def edit(model: torch.nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name.endswith(".bias") and name.split(".")[-2] in names:
                parameter.data.zero_()
    return edit


def replaced(settings: dict, *path: str, **changes) -> dict:
    """The top-level setting path[0] with `changes` made in the dictionary that `path` leads to."""
    def change(value: dict, rest: tuple[str, ...]) -> dict:
        if not rest:
            return value | changes
        return value | {rest[0]: change(value[rest[0]], rest[1:])}
    return {path[0]: change(settings[path[0]], path[1:])}


def window_variants(window: int) -> dict[str, Variant]:
    return {"window one wider": Variant({"sliding_window": window + 1}),
            "window one narrower": Variant({"sliding_window": window - 1})}


def rope(theta: float, rope_type: str = "default", **parameters) -> dict:
    return {"rope_theta": theta, "rope_type": rope_type, **parameters}


def _llama_cases() -> list[Case]:
    mha = COMMON | {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 0.01,
                    "rope_parameters": rope(10000.0), "tie_word_embeddings": False}
    gqa = COMMON | {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
                    "rope_parameters": rope(500000.0), "tie_word_embeddings": False}
    scaled = COMMON | {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    linear = scaled | {"rope_parameters": rope(10000.0, "linear", factor=4.0)}
    llama3 = scaled | {"rope_parameters": rope(500000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                               original_max_position_embeddings=256)}
    yarn = scaled | {"hidden_size": 64, "max_position_embeddings": 2048, "rope_parameters": rope(
        10000.0, "yarn", factor=4.0, original_max_position_embeddings=512)}
    dynamic = scaled | {"max_position_embeddings": 256, "rope_parameters": rope(10000.0, "dynamic", factor=4.0)}
    off = {"scaling off": Variant({"rope_parameters": rope(10000.0)})}
    return [
        Case("llama2_mha", "multi-head attention, untied output, an rms_norm_eps large enough to be seen", "llama", mha,
             {"eps of 1e-5": Variant({"rms_norm_eps": 1e-5}), "theta doubled": Variant(replaced(mha, "rope_parameters",
                                                                                                rope_theta=20000.0)),
              "no final norm": Variant(edit=without("norm"))}, v4={"head_dim": None}),
        Case("llama3_gqa", "grouped heads (3 queries to 1 kv), rope_theta 500000, bf16 weights in several shards", "llama", gqa,
             {"theta of 10000": Variant({"rope_parameters": rope(10000.0)})}, LONG, "bfloat16", shard_bytes=16000),
        Case("llama_rope_linear", "rotary positions divided by a factor; tied output", "llama", linear, off,
             v4={"rope_scaling": {"type": "linear", "factor": 4.0}}),
        Case("llama_rope_llama3", "Llama 3.1 scaling: low frequencies divided, high kept, a ramp between", "llama", llama3,
             {"scaling off": Variant({"rope_parameters": rope(500000.0)}),
              "no ramp": Variant(replaced(llama3, "rope_parameters", high_freq_factor=1.001))}, LONG),
        Case("llama_rope_yarn", "YaRN: ramp between interpolated and kept frequencies, attention factor on cos and sin",
             "llama", yarn, off | {
                 "attention factor of 1": Variant(replaced(yarn, "rope_parameters", attention_factor=1.0)),
                 "ramp elsewhere": Variant(replaced(yarn, "rope_parameters", beta_fast=16.0))}, LONG),
        Case("llama_rope_dynamic", "dynamic NTK scaling within the original length, where it must change nothing", "llama",
             dynamic, {"scaling off": Variant({"rope_parameters": rope(10000.0)}, same=True),
                       "scaled from 64 positions": Variant({"max_position_embeddings": 64})},
             v4={"rope_scaling": {"type": "dynamic", "factor": 4.0}}),
    ]


def _mistral_and_qwen_cases() -> list[Case]:
    mistral = COMMON | {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
                        "sliding_window": 48, "rope_parameters": rope(10000.0), "tie_word_embeddings": False}
    qwen2 = COMMON | {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "use_sliding_window": False,
                      "rope_parameters": rope(1000000.0), "tie_word_embeddings": False}
    qwen3 = COMMON | {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
                      "rope_parameters": rope(1000000.0), "tie_word_embeddings": True}
    # What Hub configurations of Qwen2 say: a window that is switched off.
    window_off = {"sliding_window": 16, "use_sliding_window": False, "max_window_layers": 1, "layer_types": None}
    biases = {f"{name} bias off": Variant(edit=zero_biases(f"{name}_proj")) for name in "qkv"}
    del biases["k bias off"]  # softmax does not see a constant added to all scores; rotary makes it visible, but only just
    biases["q and k biases off"] = Variant(edit=zero_biases("q_proj", "k_proj"))
    qk_norm = {"q norm off": Variant(edit=without("q_norm")), "k norm off": Variant(edit=without("k_norm"))}
    return [
        Case("mistral", "sliding window in every layer; heads wider than hidden_size / num_attention_heads; bf16", "mistral",
             mistral, {"window off": Variant({"sliding_window": None})} | window_variants(48), LONG, "bfloat16"),
        Case("qwen2", "biases on q, k and v, none on o; a window in the configuration that is switched off", "qwen2", qwen2,
             biases, v4=window_off),
        Case("qwen2_tied", "the same with the output tied to the embedding; fp16 weights", "qwen2",
             qwen2 | {"tie_word_embeddings": True}, biases, dtype="float16", v4=window_off),
        Case("qwen3", "norms on q and k per head before rotary; heads wider than hidden_size / num_attention_heads", "qwen3",
             qwen3, qk_norm, 160, v4=window_off | {"sliding_window": None}),
    ]


def _gemma_and_smollm_cases() -> list[Case]:
    gemma2 = COMMON | {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "query_pre_attn_scalar": 24, "sliding_window": 32, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0,
        "hidden_activation": "gelu_pytorch_tanh", "rope_parameters": rope(10000.0), "pad_token_id": 0}
    wide = gemma2 | {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256,
                     "query_pre_attn_scalar": 200, "sliding_window": 40}
    gemma3 = COMMON | {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "query_pre_attn_scalar": 24, "sliding_window": 32, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0,
        "sliding_window_pattern": 2, "rope_parameters": {
            "sliding_attention": rope(10000.0), "full_attention": rope(100000.0, "linear", factor=8.0)}}
    smollm3 = COMMON | {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rope_parameters": rope(10000.0), "use_sliding_window": True, "sliding_window": 32, "no_rope_layers": [1, 0, 1, 0],
        "layer_types": ["sliding_attention", "full_attention"] * 2, "tie_word_embeddings": True}

    gemma2_v4 = {"layer_types": None, "use_bidirectional_attention": None, "hidden_act": "gelu_pytorch_tanh"}

    def soft_capped(window: int, head_dim: int) -> dict[str, Variant]:
        return window_variants(window) | {
            "attention cap off": Variant({"attn_logit_softcapping": None}),
            "logit cap off": Variant({"final_logit_softcapping": None}),
            "scale from head_dim": Variant({"query_pre_attn_scalar": head_dim}),
            "silu instead of gelu": Variant({"hidden_activation": "silu"})}

    norms = ("post_attention_layernorm", "post_feedforward_layernorm")
    post_norms = {f"{name} off": Variant(edit=without(name)) for name in norms}
    qk_norm = {"q norm off": Variant(edit=without("q_norm")), "k norm off": Variant(edit=without("k_norm"))}
    return [
        Case("gemma2", "soft-capped scores and logits, local and global layers in turn, norms before and after each block, "
             "a score scale of its own, embedding scaled by sqrt(hidden_size)", "gemma2", gemma2,
             soft_capped(32, 16) | post_norms | {"no local layers": Variant({"layer_types": ["full_attention"] * 4}),
                                                 "no global layers": Variant({"layer_types": ["sliding_attention"] * 4})},
             160, v4=gemma2_v4),
        Case("gemma2_wide", "the same with head_dim 256 and bf16 weights", "gemma2", wide, soft_capped(40, 256), 96,
             "bfloat16", v4=gemma2_v4),
        Case("gemma3", "norms on q and k, local layers with a rotary base of their own, global layers with linear scaling",
             "gemma3_text", gemma3, window_variants(32) | post_norms | qk_norm | {
                 "scale from head_dim": Variant({"query_pre_attn_scalar": 16}),
                 "one rotary base": Variant(replaced(gemma3, "rope_parameters", "sliding_attention", rope_theta=100000.0)),
                 "scaling off": Variant(replaced(gemma3, "rope_parameters", "full_attention", rope_type="default", factor=None)),
                 "scaling in local layers": Variant(replaced(gemma3, "rope_parameters", "sliding_attention",
                                                             rope_type="linear", factor=8.0)),
                 "no local layers": Variant({"layer_types": ["full_attention"] * 4})},
             LONG, v4={"layer_types": None, "_sliding_window_pattern": None, "use_bidirectional_attention": None,
                       "rope_theta": 100000.0, "rope_local_base_freq": 10000.0,
                       "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        Case("smollm3", "layers without rotary positions, sliding layers among full ones", "smollm3", smollm3,
             window_variants(32) | {"rotary in every layer": Variant({"no_rope_layers": [1] * 4}),
                                    "rotary in no layer": Variant({"no_rope_layers": [0] * 4}),
                                    "no sliding layers": Variant({"layer_types": ["full_attention"] * 4})}, LONG),
    ]


def all_cases() -> list[Case]:
    return _llama_cases() + _mistral_and_qwen_cases() + _gemma_and_smollm_cases()
