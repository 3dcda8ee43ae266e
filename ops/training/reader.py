"""Reads a document of any length once, then answers many questions about it.

The document goes through the model in chunks. Local layers carry the last window of inputs along; global layers keep keys and
values, and each chunk's attention is two parts, the past and the chunk itself, merged by their log-sum-exps. The last layer
reads nothing out while the document goes by, so its queries are skipped.
"""
import torch

from model import Attention, Model

CHUNK = 1024
QUESTION_ROOM = 512  # tokens of a question and its answer, at most


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and the log-sum-exp of its scores; [1, heads, rows, head_dim] and [1, heads, rows]."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)


def _merge(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    share = torch.sigmoid(a[1] - b[1])[..., None]
    return a[0] * share + b[0] * (1 - share)


class Reader:
    def __init__(self, model: Model, capacity: int):
        self.model, self.shape, self.length = model, model.shape, 0
        room = (1, model.shape.kv_heads, capacity + QUESTION_ROOM, model.shape.head_dim)
        # One entry per layer: inputs of the last window (local), or keys and values of every token (global).
        self.windows = [torch.empty(1, 0, model.shape.hidden) for _ in model.model.layers]
        self.keys = [None if layer.self_attn.is_local else torch.empty(room) for layer in model.model.layers]
        self.values = [None if layer.self_attn.is_local else torch.empty(room) for layer in model.model.layers]

    @torch.inference_mode()
    def read(self, ids: list[int]) -> None:
        for start in range(0, len(ids), CHUNK):
            self._forward(torch.tensor([ids[start:start + CHUNK]]), keep=True)

    @torch.inference_mode()
    def best_next(self, ids: list[int]) -> list[int]:
        """The most likely token after each of `ids`, asked behind the document; the document stays as it was."""
        return self.model.logits(self._forward(torch.tensor([ids]), keep=False))[0].argmax(-1).tolist()

    def _forward(self, ids: torch.Tensor, keep: bool) -> torch.Tensor | None:
        count = ids.shape[1]
        x = self.model.model.embed_tokens(ids)
        for index, layer in enumerate(self.model.model.layers):
            h = layer.input_layernorm(x)
            skip_output = keep and index == len(self.windows) - 1
            if layer.self_attn.is_local:
                o = self._local(index, layer.self_attn, h, keep)
            else:
                o = self._global(index, layer.self_attn, h, skip_output)
            if skip_output:
                self.length += count
                return None
            x = x + layer.self_attn.o_proj(o)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.model.model.norm(x)

    def _local(self, index: int, attention: Attention, h: torch.Tensor, keep: bool) -> torch.Tensor:
        before = self.windows[index]
        both = torch.cat((before, h), dim=1)
        if keep:
            self.windows[index] = both[:, -self.shape.window:]
        return attention.heads(both, self.length - before.shape[1])[:, before.shape[1]:]

    def _global(self, index: int, attention: Attention, h: torch.Tensor, skip_output: bool) -> torch.Tensor | None:
        count, past = h.shape[1], self.length
        k, v = attention.keys_values(h)
        self.keys[index][:, :, past:past + count] = k
        self.values[index][:, :, past:past + count] = v
        if skip_output:
            return None
        q = attention.queries(h)
        here = _attend(q, attention.repeat_kv(k), attention.repeat_kv(v), causal=True)
        o = here[0]
        if past > 0:
            # Without a mask the heads that share a kv head are simply more rows.
            rows = q.reshape(1, self.shape.kv_heads, -1, self.shape.head_dim)
            o_past, lse_past = _attend(rows, self.keys[index][:, :, :past], self.values[index][:, :, :past], causal=False)
            o = _merge((o_past.reshape(q.shape), lse_past.reshape(here[1].shape)), here)
        return o.transpose(1, 2).flatten(2)
