"""Writes a checkpoint as a Hugging Face model folder and checks it against transformers."""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import text
from model import Model, Shape

MAX_POSITIONS = 16 * 1024 * 1024  # global layers have no positions and local ones see 64 tokens: no trained limit
TOLERANCE = 1e-3  # logits in fp32, of order 10, summed in another order

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}<|system|>{{ message['content'] | trim }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|> {{ message['content'] | trim }}<|end|>"
    "{% else %}<|user|>{{ message['content'] | trim }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def model_config(shape: Shape, tokenizer: Tokenizer) -> dict:
    is_local = [kind == "L" for kind in shape.layers]
    return {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": len(shape.layers),
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_eps,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "no_rope_layers": [int(local) for local in is_local],
        "no_rope_layer_interval": 2,
        "layer_types": ["sliding_attention" if local else "full_attention" for local in is_local],
        "use_sliding_window": True,
        "sliding_window": shape.window,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "initializer_range": 0.02,
        "bos_token_id": tokenizer.token_to_id(text.BEGIN),
        "eos_token_id": tokenizer.token_to_id(text.END),
        "pad_token_id": tokenizer.token_to_id(text.END),
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def tokenizer_config() -> dict:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text.BEGIN,
        "eos_token": text.END,
        "pad_token": text.END,
        "additional_special_tokens": [text.USER, text.ASSISTANT, text.SYSTEM],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
        "chat_template": CHAT_TEMPLATE,
    }


def generation_config(tokenizer: Tokenizer) -> dict:
    return {
        "bos_token_id": tokenizer.token_to_id(text.BEGIN),
        "eos_token_id": tokenizer.token_to_id(text.END),
        "pad_token_id": tokenizer.token_to_id(text.END),
        "do_sample": False,
        "max_new_tokens": 64,
    }


def export(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in (("config", model_config(model.shape, tokenizer)), ("tokenizer_config", tokenizer_config()),
                          ("generation_config", generation_config(tokenizer))):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def verify(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Stops unless transformers loads the folder completely, computes the same and renders the trained chat form."""
    from transformers import AutoTokenizer, SmolLM3ForCausalLM

    reference, info = SmolLM3ForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            raise SystemExit(f"train: transformers reports {kind}: {sorted(info[kind])}")
    generator, num_tokens = torch.Generator().manual_seed(3), 5 * model.shape.window + 7  # several windows and a rest
    ids = torch.randint(len(text.SPECIAL_TOKENS), text.VOCAB, (1, num_tokens), generator=generator)
    with torch.inference_mode():
        difference = (reference(ids).logits - model(ids)).abs().max().item()
    if not difference < TOLERANCE:
        raise SystemExit(f"train: logits differ from transformers by {difference}, more than {TOLERANCE}")
    _verify_chat(AutoTokenizer.from_pretrained(folder), tokenizer)
    print(f"verified with transformers: all weights loaded, logits within {difference:.1e}, chat form as trained")


def _verify_chat(loaded, tokenizer: Tokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is locker 12?"},
                {"role": "assistant", "content": "locker 12 is 345."}, {"role": "user", "content": "What is file 0a?"}]
    begin, end, user, assistant, system = ([tokenizer.token_to_id(token)] for token in text.SPECIAL_TOKENS)

    def encode(s: str) -> list[int]:
        return tokenizer.encode(s).ids

    trained = begin + system + encode("Be brief.") + user + encode("What is locker 12?")
    trained += assistant + encode(" locker 12 is 345.") + end + user + encode("What is file 0a?") + assistant
    rendered = loaded.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if loaded.encode(rendered, add_special_tokens=False) != trained:
        raise SystemExit(f"train: the chat template renders another form than the trained one: {rendered!r}")
