"""Trains the bundled model, from text to checkpoint: seeded, in stages of growing length, resumable.

A checkpoint is written every few minutes and found again by the next run. Each step draws its sequences from a generator
seeded with the step's number, so a resumed run sees what an uninterrupted one would have seen.
"""
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from examples import Example, Examples
from model import Model, structured_start

WARM_UP_STEPS = 50
CHECKPOINT_SECONDS = 150
PRINT_STEPS = 25


@dataclass(frozen=True)
class Stage:
    steps: int
    length: int  # of a sequence, in tokens
    batch: int
    rates: tuple[float, float]  # learning rate at the start and at the end of the stage
    mix: dict[str, float]  # share of each kind of sequence


STAGES = (
    Stage(60, 64, 48, (1e-3, 1e-3), {"copying": 1.0}),
    Stage(800, 192, 12, (1e-3, 1e-3), {"facts_only": 0.9, "copying": 0.1}),
    Stage(600, 256, 10, (1e-3, 1e-3), {"facts_only": 0.5, "document": 0.45, "copying": 0.03, "chat": 0.02}),
    Stage(300, 512, 6, (1e-3, 7e-4), {"facts_only": 0.25, "document": 0.7, "copying": 0.02, "chat": 0.03}),
    Stage(300, 1024, 3, (7e-4, 4e-5), {"facts_only": 0.2, "document": 0.75, "prose": 0.05}),
)


def _sequence(examples: Examples, rng: random.Random, stage: Stage) -> Example:
    kind = rng.choices(list(stage.mix), list(stage.mix.values()))[0]
    return examples.chat(rng) if kind == "chat" else getattr(examples, kind)(rng, stage.length)


def _batch(sequences: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [batch, longest] and weights of the same shape, padded with nothing to learn."""
    longest = max(len(ids) for ids, _ in sequences)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in sequences])
    weights = torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in sequences])
    return ids, weights


def _losses(model: Model, ids: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy and weight of each position that has one."""
    wanted = weights[:, 1:] > 0
    logits = model.logits(model.hidden(ids[:, :-1], wanted))
    return F.cross_entropy(logits, ids[:, 1:][wanted], reduction="none"), weights[:, 1:][wanted]


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


class Trainer:
    def __init__(self, examples: Examples, checkpoint: Path, seed: int):
        torch.manual_seed(seed)
        self.examples, self.checkpoint, self.seed = examples, checkpoint, seed
        self.model = Model()
        structured_start(self.model)
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        norms = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.05}, {"params": norms, "weight_decay": 0.0}], betas=(0.9, 0.95), fused=True)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.answer_losses: list[float] = []
        self.text_losses: list[float] = []

    def resume(self) -> None:
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
            print(f"resuming at step {self.step}", flush=True)

    def save(self) -> None:
        partial = self.checkpoint.with_suffix(".partial")
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                    "step": self.step, "tokens": self.tokens, "seconds": self.seconds}, partial)
        partial.replace(self.checkpoint)

    def run(self) -> None:
        saved, total, first = time.monotonic(), sum(stage.steps for stage in STAGES), 0
        for stage in STAGES:
            while first <= self.step < first + stage.steps:
                start = time.monotonic()
                self._one_step(stage, (self.step - first) / stage.steps)
                self.step += 1
                self.seconds += time.monotonic() - start
                if self.step % PRINT_STEPS == 0:
                    self._print(total)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.monotonic()
            first += stage.steps
        self.save()

    def _one_step(self, stage: Stage, done: float) -> None:
        rng = random.Random(f"{self.seed} {self.step}")
        ids, weights = _batch([_sequence(self.examples, rng, stage) for _ in range(stage.batch)])
        rate = (stage.rates[0] + (stage.rates[1] - stage.rates[0]) * done) * min(1.0, (self.step + 1) / WARM_UP_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, weights = _losses(self.model, ids, weights)
        self.optimizer.zero_grad()
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.tokens += ids.numel()
        losses = losses.detach()
        answers = weights == 1
        self.answer_losses.append(losses[answers].mean().item()) if answers.any() else None
        self.text_losses.append(losses[~answers].mean().item()) if (~answers).any() else None

    def _print(self, total: int) -> None:
        print(f"step {self.step}/{total}  {self.tokens / 1e6:.2f} M tokens  {self.seconds:.0f} s  "
              f"answers {_mean(self.answer_losses):.4f}  text {_mean(self.text_losses):.3f}  nats per token", flush=True)
        self.answer_losses, self.text_losses = [], []
