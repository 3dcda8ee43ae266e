"""The bundled model: SmolLM3's architecture, small, with parameter names as Hugging Face spells them.

Layers alternate between local (sliding window, rotary positions) and global (full attention, no positions). Training does
not find "look up what followed these tokens" from a random start in useful time, so `structured_start` begins near it:
local heads look 1, 2, 3 tokens back, global heads match "the token before" with the token itself and copy what they find.
Everything after that is ordinary training.
"""
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

CONSTANT = 0.1  # value of embedding dimension 0 for every token: what position-only queries and keys read
EMBEDDING_STD = 0.02
START_PAIRS = 16  # fastest rotary pairs, the ones that tell neighbouring positions apart
START_AMPLITUDE = 1.3


@dataclass(frozen=True)
class Shape:
    vocab: int = 4096
    hidden: int = 256
    inner: int = 384
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    window: int = 64
    layers: str = "LGLG"  # L: local, G: global
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6


def rope_tables(shape: Shape, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, each [count, head_dim / 2]; angles in double, so that far positions keep their distances."""
    pairs = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    angles = torch.arange(start, start + count, dtype=torch.float64)[:, None] * shape.rope_theta ** -pairs
    return angles.cos().float(), angles.sin().float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class RmsNorm(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(shape.hidden)), shape.norm_eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, shape: Shape, is_local: bool):
        super().__init__()
        self.shape, self.is_local = shape, is_local
        q_dim, kv_dim = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, q_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_dim, bias=False)
        self.o_proj = nn.Linear(q_dim, shape.hidden, bias=False)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, heads * head_dim] to [batch, heads, tokens, head_dim]."""
        return x.view(*x.shape[:2], -1, self.shape.head_dim).transpose(1, 2)

    def keys_values(self, x: torch.Tensor, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (rotated when local) and values, one row per kv head."""
        k, v = self.split_heads(self.k_proj(x)), self.split_heads(self.v_proj(x))
        return (rotate(k, *rope_tables(self.shape, start, x.shape[1])) if self.is_local else k), v

    def queries(self, x: torch.Tensor, start: int = 0) -> torch.Tensor:
        q = self.split_heads(self.q_proj(x))
        return rotate(q, *rope_tables(self.shape, start, x.shape[1])) if self.is_local else q

    def repeat_kv(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(self.shape.heads // self.shape.kv_heads, dim=1)

    def heads(self, x: torch.Tensor, start: int = 0) -> torch.Tensor:
        """What the heads found, side by side, before the output projection: [batch, tokens, heads * head_dim]."""
        q, (k, v) = self.queries(x, start), self.keys_values(x, start)
        k, v = self.repeat_kv(k), self.repeat_kv(v)
        if self.is_local:
            o = windowed_attention(q, k, v, self.shape.window)
        else:
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return o.transpose(1, 2).flatten(2)


def windowed_attention(q, k, v, window: int):
    """Each query sees itself and the window - 1 tokens before: blocks of `window` queries against two blocks of keys."""
    b, h, t, d = q.shape
    pad = -t % window
    q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
    blocks = (t + pad) // window
    q = q.reshape(b * h * blocks, 1, window, d)

    def pairs(x):  # [b * h * blocks, 1, 2 * window, d]: the block before and the block itself
        before = F.pad(x, (0, 0, window, 0))[:, :, :-window]
        both = torch.stack((before.reshape(b, h, blocks, window, d), x.reshape(b, h, blocks, window, d)), dim=3)
        return both.reshape(b * h * blocks, 1, 2 * window, d)

    row, column = torch.arange(window)[:, None], torch.arange(2 * window)[None]
    seen = (column > row) & (column <= row + window)
    mask = seen.repeat(blocks, 1, 1)
    mask[0] &= column >= window  # the first block has no block before
    mask = mask.repeat(b * h, 1, 1)[:, None]
    o = F.scaled_dot_product_attention(q, pairs(k), pairs(v), attn_mask=mask)
    return o.reshape(b, h, t + pad, d)[:, :, :t]


class Mlp(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape, is_local: bool):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(shape), RmsNorm(shape)
        self.self_attn, self.mlp = Attention(shape, is_local), Mlp(shape)

    def forward(self, x, wanted: torch.Tensor | None = None):
        o = self.self_attn.heads(self.input_layernorm(x))
        if wanted is not None:
            x, o = x[wanted], o[wanted]
        x = x + self.self_attn.o_proj(o)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, kind == "L") for kind in shape.layers)
        self.norm = RmsNorm(shape)


class Model(nn.Module):
    def __init__(self, shape: Shape = Shape()):
        super().__init__()
        self.shape, self.model = shape, Body(shape)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, 0, EMBEDDING_STD if "embed" in name else weight.shape[1] ** -0.5)

    def hidden(self, ids: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """[batch, tokens, hidden]; with `wanted`, a mask [batch, tokens], only those positions: [wanted, hidden]."""
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers[:-1]:
            x = layer(x)
        return self.model.norm(self.model.layers[-1](x, wanted))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.model.embed_tokens.weight.T

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.logits(self.hidden(ids))


@torch.no_grad()
def structured_start(model: Model) -> None:
    """Writes the start described at the top of this file into a randomly initialised model."""
    shape = model.shape
    model.model.embed_tokens.weight[:, 0] = CONSTANT
    token = before = None
    for layer in model.model.layers:
        attention = layer.self_attn
        layer.mlp.down_proj.weight.zero_()
        attention.o_proj.weight.zero_()
        attention.v_proj.weight.zero_()
        attention.q_proj.weight.mul_(0.1)
        attention.k_proj.weight.mul_(0.1)
        if attention.is_local:
            token, before = _orthonormal(shape, shape.head_dim).T, _orthonormal(shape, 3 * shape.head_dim).T
            _start_local(attention, token, before)
        else:
            _start_global(attention, token, before)


def _orthonormal(shape: Shape, columns: int) -> torch.Tensor:
    """[hidden - 1, columns]: every dimension but the constant one."""
    return torch.linalg.qr(torch.randn(shape.hidden - 1, columns))[0]


def _start_local(attention: Attention, token: torch.Tensor, before: torch.Tensor) -> None:
    """Head h attends h + 1 tokens back and writes the token found there into its own rows of `before`."""
    shape, half = attention.shape, attention.shape.head_dim // 2
    theta = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim)[:START_PAIRS]
    for head in range(shape.heads):
        base = head * shape.head_dim
        shift = -theta * (head + 1)
        attention.q_proj.weight[base:base + START_PAIRS, 0] = START_AMPLITUDE * shift.cos()
        attention.q_proj.weight[base + half:base + half + START_PAIRS, 0] = START_AMPLITUDE * shift.sin()
        if base < before.shape[0]:
            attention.o_proj.weight[1:, base:base + shape.head_dim] = 0.03 * before[base:base + shape.head_dim].T
    for head in range(shape.kv_heads):
        base = head * shape.head_dim
        attention.k_proj.weight[base:base + START_PAIRS, 0] = START_AMPLITUDE
        attention.k_proj.weight[base + half:base + half + START_PAIRS, 0] = 0.0
        attention.v_proj.weight[base:base + shape.head_dim, 1:] = token


def _start_global(attention: Attention, token: torch.Tensor, before: torch.Tensor) -> None:
    """First kv head: one before against the token itself; second: two before against one before. Both copy what they find."""
    shape, dim = attention.shape, attention.shape.head_dim
    group = shape.heads // shape.kv_heads
    for kv in range(shape.kv_heads):
        rows = slice(kv * dim, (kv + 1) * dim)
        found = _orthonormal(shape, dim).T
        attention.k_proj.weight[rows, 1:] += before[rows]
        attention.v_proj.weight[rows, 1:] = found
        for head in range(kv * group, (kv + 1) * group):
            columns = slice(head * dim, (head + 1) * dim)
            attention.q_proj.weight[columns, 1:] += token if kv == 0 else before[:dim]
            attention.o_proj.weight[1:, columns] = 0.02 * found.T
