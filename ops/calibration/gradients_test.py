"""The gradients of gradients.py against differences of the loss, for families that norm keys and those that do not."""
import unittest
from pathlib import Path

import numpy
import torch
from transformers import AutoModelForCausalLM

import gradients

STEP = 1e-2
MODELS = Path(__file__).resolve().parents[2] / "tests" / "golden" / "models"


def loss_of(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    logits = model(input_ids=tokens[None].long(), use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, tokens[1:].long(), reduction="sum").item()


class GradientsTest(unittest.TestCase):
    def check(self, name: str) -> None:
        model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float64).eval()
        generator = torch.Generator().manual_seed(7)
        tokens = torch.randint(0, model.config.get_text_config().vocab_size, (19,), generator=generator, dtype=torch.int32)
        squares = gradients.squared_gradients(model, [tokens, tokens[:1], tokens[:7]])
        attention = model.get_decoder().layers[1].self_attn
        for side, module in (("k", getattr(attention, "k_norm", attention.k_proj)), ("v", attention.v_proj)):
            found = squares[f"layer.1.{side}"]
            config = model.config.get_text_config()
            self.assertEqual(list(found.shape), [27, config.num_key_value_heads, found.shape[2]])
            self.assertTrue((found[19] == 0).all(), "of a sequence of one token nothing depends on it")
            # transformers norms in float32 whatever it is told: only gradients that are large can be told from rounding.
            places = torch.topk(found[:19].float().flatten(), 5).indices.tolist()
            for token, head, channel in (numpy.unravel_index(place, found[:19].shape) for place in places):
                expected = (self.slope(model, tokens, module, token, head, channel)) ** 2
                self.assertAlmostEqual(found[token, head, channel].item() / expected, 1, delta=0.03)

    @staticmethod
    def slope(model, tokens, module, token, head, channel) -> float:
        """What the loss gains for each unit that is added to one output of the module."""
        def nudge(module, inputs, output):
            moved = output.clone()
            if moved.dim() == 3:
                moved.unflatten(-1, (model.config.get_text_config().num_key_value_heads, -1))[0, token, head, channel] += step
            elif moved.shape[1] == len(tokens):
                moved[0, token, head, channel] += step
            else:
                moved[0, head, token, channel] += step
            return moved
        losses = []
        for step in (STEP, -STEP):
            handle = module.register_forward_hook(nudge)
            losses.append(loss_of(model, tokens))
            handle.remove()
        return (losses[0] - losses[1]) / (2 * STEP)

    def test_keys_without_a_norm(self):
        self.check("llama3_gqa")

    def test_keys_normed_by_token(self):
        self.check("qwen3")

    def test_keys_normed_by_head_and_a_softcap_of_logits(self):
        self.check("gemma3")
        self.check("gemma2")


if __name__ == "__main__":
    unittest.main()
