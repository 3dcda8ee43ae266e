#!/usr/bin/env python3
"""Makes the golden files of the forward pass: tiny random checkpoints, and their logits by Hugging Face transformers.

Per case of cases.py: config.json and weights as transformers saves them, config_v4.json (the same model as transformers 4
and the Hub spell it), golden.safetensors (input_ids, logits in float32 without a cache). A case is written only if
float64 agrees with it, both configurations give the same logits, and every variant gives clearly different ones.
"""
import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from cases import Case, Variant, all_cases

HERE = Path(__file__).resolve().parent
MAX_NOISE = 1e-4  # float32 against float64, over the largest logit
MIN_EFFECT = 0.05  # the largest change of a logit that each variant must bring


def make_model(case: Case, seed: int) -> torch.nn.Module:
    """A model whose logits vary by about 1 to 3 and whose every part contributes."""
    settings = dict(case.settings)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.model_type, **settings))
    generator = torch.Generator().manual_seed(seed)
    gemma = case.model_type.startswith("gemma")  # multiplies by 1 + weight in its norms, scales the embedding
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        owner = name.split(".")[-2]
        if owner == "embed_tokens":
            value = noise * (1.6 / math.sqrt(parameter.shape[1]) if tied else 1.0)
        elif owner == "lm_head":
            value = noise * 1.8 / math.sqrt(parameter.shape[1])
        elif name.endswith(".bias"):
            value = noise * 0.7
        elif owner in ("q_norm", "k_norm"):
            value = case.score_gain + 0.3 * noise - (1 if gemma else 0)
        elif parameter.dim() == 1:
            value = 0.25 * noise + (0 if gemma else 1)
        elif owner in ("q_proj", "k_proj"):
            value = noise * case.score_gain / math.sqrt(parameter.shape[1])
        else:
            value = noise * 1.2 / math.sqrt(parameter.shape[1])
        parameter.data.copy_(value)
    return model.to(getattr(torch, case.dtype)).eval()


def compute_logits(directory: Path, input_ids: torch.Tensor, variant: Variant = Variant(),
                   dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logits of every position, from the weights as they are stored."""
    raw = json.loads((directory / "config.json").read_text()) | variant.settings
    config = AutoConfig.for_model(raw.pop("model_type"), **raw)
    model = AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=dtype, attn_implementation="eager").eval()
    if variant.edit:
        variant.edit(model)
    with torch.no_grad():
        return model(input_ids=input_ids[None], use_cache=False).logits[0]


def make_v4_config(case: Case, config: dict) -> dict:
    """The configuration as transformers 4 spells it: what most checkpoints on the Hub come with."""
    v4 = {key: value for key, value in config.items() if key not in ("dtype", "rope_parameters", "transformers_version")}
    v4["torch_dtype"] = config["dtype"]
    parameters = config["rope_parameters"]
    if "rope_theta" in parameters:
        scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
        v4["rope_theta"] = parameters["rope_theta"]
        v4["rope_scaling"] = scaling if scaling["rope_type"] != "default" else None
    for key, value in case.v4.items():
        if value is None:
            v4.pop(key, None)
        else:
            v4[key] = value
    return dict(sorted(v4.items()))


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def check_v4(directory: Path, input_ids: torch.Tensor, logits: torch.Tensor) -> None:
    with tempfile.TemporaryDirectory() as other:
        shutil.copytree(directory, other, dirs_exist_ok=True)
        shutil.move(Path(other) / "config_v4.json", Path(other) / "config.json")
        model = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            difference = (model(input_ids=input_ids[None], use_cache=False).logits[0] - logits).abs().max().item()
    if difference != 0:
        raise AssertionError(f"{directory.name}: config_v4.json describes another model: logits differ by {difference:.2e}")


def check_variants(case: Case, directory: Path, input_ids: torch.Tensor, logits: torch.Tensor) -> dict[str, float]:
    """The largest change that each variant makes to a logit."""
    effects = {}
    for name, variant in case.variants.items():
        effect = (compute_logits(directory, input_ids, variant) - logits).abs().max().item()
        if variant.same != (effect == 0) or (not variant.same and effect < MIN_EFFECT):
            raise AssertionError(f"{case.name}: '{name}' changes the logits by {effect:.2e}: "
                                 + ("it should change nothing" if variant.same else f"less than {MIN_EFFECT}"))
        effects[name] = effect
    return effects


def make_case(case: Case, directory: Path, seed: int) -> str:
    """Fills `directory`. Returns a line on what was measured."""
    model = make_model(case, seed)
    directory.mkdir()
    shards = {} if case.shard_bytes is None else {"max_shard_size": case.shard_bytes}
    model.save_pretrained(directory, **shards)
    (directory / "generation_config.json").unlink(missing_ok=True)
    write_json(directory / "config_v4.json", make_v4_config(case, json.loads((directory / "config.json").read_text())))
    generator = torch.Generator().manual_seed(seed + 1000)
    input_ids = torch.randint(model.config.vocab_size, (case.num_tokens,), generator=generator)
    logits = compute_logits(directory, input_ids)
    noise = (compute_logits(directory, input_ids, dtype=torch.float64) - logits).abs().max().item()
    if noise > MAX_NOISE * logits.abs().max().item():
        raise AssertionError(f"{case.name}: float32 and float64 differ by {noise:.2e}: the model is too chaotic a golden")
    check_v4(directory, input_ids, logits)
    effects = check_variants(case, directory, input_ids, logits)
    save_file({"input_ids": input_ids.to(torch.int32), "logits": logits.contiguous()}, directory / "golden.safetensors")
    for path in directory.iterdir():
        path.chmod(0o644)
    weakest = min((effect for effect in effects.values() if effect), default=0)
    size = sum(path.stat().st_size for path in directory.iterdir())
    return (f"{case.name}: {case.num_tokens} tokens, logits vary by {logits.std():.2f}, noise {noise:.1e}, "
            f"{len(effects)} variants, the weakest changes {weakest:.2f}, {size / 1000:.0f} kB")


def main() -> None:
    cases = {case.name: case for case in all_cases()}
    parser = argparse.ArgumentParser(prog="make", description="Make the golden files of the forward pass anew.")
    parser.add_argument("names", nargs="*", metavar="CASE", help=f"cases to make (default all): {', '.join(cases)}")
    parser.add_argument("--into", type=Path, default=HERE, metavar="DIR", help="where to write (default: beside this script)")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in cases]
    if unknown:
        parser.error(f"there is no case '{unknown[0]}'; the cases are {', '.join(cases)}")
    args.into.mkdir(parents=True, exist_ok=True)
    for seed, case in enumerate(cases.values(), start=1):
        if args.names and case.name not in args.names:
            continue
        with tempfile.TemporaryDirectory(dir=args.into) as work:
            try:
                line = make_case(case, Path(work) / case.name, seed)
            except AssertionError as error:
                sys.exit(f"make: {error}")
            shutil.rmtree(args.into / case.name, ignore_errors=True)
            shutil.move(Path(work) / case.name, args.into / case.name)
        print(line, flush=True)


if __name__ == "__main__":
    main()
