"""Trains the bundled model, from text to checkpoint: seeded, in stages of growing length, resumable.

A checkpoint is written every few minutes and found again by the next run; each stage leaves one of its own. Each sequence is
drawn from a generator seeded with its step and its place in the batch, so neither an interruption nor the number of processes
changes what is seen.

Each process computes its share of a batch on one thread; gradients are summed once a step, so a process that loses its core
for a moment stalls no other inside a layer.
"""
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from tokenizers import Tokenizer

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


# Two cycles: the first ends in a usable model, the second starts again at a high rate, with more text and longer sequences.
STAGES = (
    Stage(60, 64, 48, (1e-3, 1e-3), {"copying": 1.0}),
    Stage(800, 192, 12, (1e-3, 1e-3), {"facts_only": 0.9, "copying": 0.1}),
    Stage(300, 256, 10, (1e-3, 1e-3), {"facts_only": 0.5, "document": 0.45, "copying": 0.03, "chat": 0.02}),
    Stage(200, 512, 6, (1e-3, 7e-4), {"facts_only": 0.25, "document": 0.7, "copying": 0.02, "chat": 0.03}),
    Stage(200, 1024, 3, (7e-4, 4e-5), {"facts_only": 0.2, "document": 0.75, "prose": 0.05}),
    Stage(300, 512, 8, (8e-4, 8e-4), {"facts_only": 0.2, "document": 0.7, "copying": 0.02, "chat": 0.03, "prose": 0.05}),
    Stage(900, 512, 8, (8e-4, 6e-4), {"facts_only": 0.25, "document": 0.6, "copying": 0.02, "chat": 0.02, "prose": 0.11}),
    Stage(301, 1024, 6, (6e-4, 4e-4), {"facts_only": 0.25, "document": 0.65, "chat": 0.02, "prose": 0.08}),
    Stage(72, 2048, 4, (4e-4, 1.7e-4), {"facts_only": 0.3, "document": 0.62, "chat": 0.01, "prose": 0.07}),
    Stage(40, 4096, 2, (1.7e-4, 1e-5), {"facts_only": 0.35, "document": 0.61, "prose": 0.04}),
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
    def __init__(self, examples: Examples, checkpoint: Path, seed: int, rank: int, processes: int):
        torch.manual_seed(seed)
        self.examples, self.checkpoint, self.seed = examples, checkpoint, seed
        self.rank, self.processes = rank, processes
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
            if self.rank == 0:
                print(f"resuming at step {self.step}", flush=True)

    def save(self, name: str | None = None) -> None:
        if self.rank != 0:
            return
        checkpoint = self.checkpoint.with_name(name) if name else self.checkpoint
        partial = checkpoint.with_suffix(".partial")
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                    "step": self.step, "tokens": self.tokens, "seconds": self.seconds}, partial)
        partial.replace(checkpoint)

    def run(self) -> None:
        saved, total, first = time.monotonic(), sum(stage.steps for stage in STAGES), 0
        for number, stage in enumerate(STAGES):
            while first <= self.step < first + stage.steps:
                start = time.monotonic()
                self._one_step(stage, (self.step - first) / stage.steps)
                self.step += 1
                self.seconds += time.monotonic() - start
                if self.rank == 0 and self.step % PRINT_STEPS == 0:
                    self._print(total)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.monotonic()
            first += stage.steps
            if self.step == first:
                self.save(f"stage{number}.pt")
        self.save()

    def _one_step(self, stage: Stage, done: float) -> None:
        ids, weights = _batch([_sequence(self.examples, random.Random(f"{self.seed} {self.step} {i}"), stage)
                               for i in range(self.rank, stage.batch, self.processes)])
        rate = (stage.rates[0] + (stage.rates[1] - stage.rates[0]) * done) * min(1.0, (self.step + 1) / WARM_UP_STEPS)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, weights = _losses(self.model, ids, weights)
        self.optimizer.zero_grad()
        (losses * weights).sum().backward()
        self.tokens += self._sum_over_processes(weights.sum(), ids.numel())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._note(losses.detach(), weights == 1)

    def _sum_over_processes(self, weight: torch.Tensor, num_tokens: int) -> int:
        """Makes each gradient the mean over the whole batch; returns the tokens in it."""
        gradients = [p.grad for p in self.model.parameters()]
        flat = torch.cat([g.flatten() for g in gradients] + [torch.stack((weight, torch.tensor(float(num_tokens))))])
        distributed.all_reduce(flat)
        for gradient, mean in zip(gradients, (flat[:-2] / flat[-2]).split([g.numel() for g in gradients])):
            gradient.copy_(mean.view_as(gradient))
        return int(flat[-1])

    def _note(self, losses: torch.Tensor, is_answer: torch.Tensor) -> None:
        for part, history in ((losses[is_answer], self.answer_losses), (losses[~is_answer], self.text_losses)):
            if part.numel() > 0:
                history.append(part.mean().item())

    def _print(self, total: int) -> None:
        print(f"step {self.step}/{total}  {self.tokens / 1e6:.2f} M tokens  {self.seconds:.0f} s  "
              f"answers {_mean(self.answer_losses):.4f}  text {_mean(self.text_losses):.3f}  nats per token", flush=True)
        self.answer_losses, self.text_losses = [], []


def _process(rank: int, processes: int, rendezvous: Path, tokenizer_file: Path, corpus: np.ndarray, checkpoint: Path,
             seed: int) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=processes)
    trainer = Trainer(Examples(Tokenizer.from_file(str(tokenizer_file)), corpus), checkpoint, seed, rank, processes)
    trainer.resume()
    trainer.run()
    distributed.destroy_process_group()


def train(tokenizer_file: Path, corpus: np.ndarray, checkpoint: Path, seed: int, processes: int) -> None:
    """Trains to the end of the last stage, from the checkpoint if there is one."""
    processes = min(processes, min(stage.batch for stage in STAGES))
    rendezvous = checkpoint.with_name("rendezvous").absolute()
    rendezvous.unlink(missing_ok=True)
    arguments = (processes, rendezvous, tokenizer_file, corpus, checkpoint, seed)
    torch.multiprocessing.spawn(_process, arguments, nprocs=processes)
    rendezvous.unlink(missing_ok=True)
