"""Measures an exported model: share of answers with every token right, and loss on text.

Documents are made as the quickstart makes them: held-out facts planted in text that was not trained on, tokenised as a whole.
Each question is asked right behind the document; an answer counts when every token of "{key} is {value}.", the end token
included, is the most likely one, which is what greedy decoding would write.
"""
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

import facts
import text
from model import Model
from reader import Reader

TOKENS_PER_FACT = 18


@dataclass(frozen=True)
class Row:
    tokens: int
    facts: int
    documents: int
    questions: int  # per document


ROWS = (Row(1_024, 30, 12, 25), Row(4_096, 150, 8, 50), Row(32_768, 500, 3, 100), Row(131_072, 1_000, 1, 150))
LONG_ROWS = (Row(524_288, 1_000, 1, 100), Row(1_048_576, 2_000, 1, 100))


def load(folder: Path) -> tuple[Model, Tokenizer]:
    model = Model()
    model.load_state_dict({name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()})
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def slice_of(source: str, tokenizer: Tokenizer, num_tokens: int, rng: random.Random) -> str:
    """About `num_tokens` of the text from a random place, repeated if the text is shorter."""
    sample = source[:200_000]
    num_chars = int(num_tokens * len(sample) / len(tokenizer.encode(sample).ids))
    while len(source) < num_chars + 1:
        source = source + "\n" + source
    start = rng.randrange(len(source) - num_chars)
    return source[start:start + num_chars]


def answers_right(reader: Reader, tokenizer: Tokenizer, fact: facts.Fact) -> bool:
    ask = tokenizer.encode(text.USER + fact.question + text.ASSISTANT).ids
    answer = tokenizer.encode(f" {fact.answer}{text.END}").ids
    return reader.best_next(ask + answer[:-1])[len(ask) - 1:] == answer


def measure_row(model: Model, tokenizer: Tokenizer, source: str, row: Row, seed: int, show_misses: bool = False) -> dict:
    start, right, lengths = time.monotonic(), 0, []
    for document_index in range(row.documents):
        rng = random.Random(f"measure {seed} {row.tokens} {document_index}")
        room = max(64, row.tokens - TOKENS_PER_FACT * row.facts)
        document, asked = facts.plant_document(
            slice_of(source, tokenizer, room, rng), row.facts, row.questions, rng.randrange(1 << 30))
        ids = tokenizer.encode(text.BEGIN + document).ids
        reader = Reader(model, len(ids))
        reader.read(ids)
        lengths.append(len(ids))
        for fact in asked:
            ok = answers_right(reader, tokenizer, fact)
            right += ok
            if show_misses and not ok:
                print(f"    missed: {fact.question} {fact.answer}", flush=True)
    tried = row.documents * row.questions
    return {"tokens": sum(lengths) // len(lengths), "facts": row.facts, "right": right, "tried": tried,
            "seconds": round(time.monotonic() - start, 1)}


@torch.inference_mode()
def text_loss(model: Model, tokenizer: Tokenizer, source: str, windows: int = 16, length: int = 1024) -> float:
    """Nats per token on text, in windows that each start afresh."""
    rng, total = random.Random("text loss"), 0.0
    for _ in range(windows):
        ids = tokenizer.encode(text.BEGIN + slice_of(source, tokenizer, length, rng)).ids
        logits = model(torch.tensor([ids[:-1]]))[0]
        total += F.cross_entropy(logits, torch.tensor(ids[1:])).item()
    return total / windows


def measure(folder: Path, sources: dict[str, str], rows: tuple[Row, ...], seed: int = 7, show_misses: bool = False) -> None:
    """Prints one line per kind of text and length."""
    model, tokenizer = load(folder)
    for name, source in sources.items():
        loss = text_loss(model, tokenizer, source)
        sample = source[:100_000]
        per_byte = loss * len(tokenizer.encode(sample).ids) / len(sample.encode()) / math.log(2)
        print(f"{name}: text loss {loss:.2f} nats per token, {per_byte:.2f} bits per byte", flush=True)
        for row in rows:
            r = measure_row(model, tokenizer, source, row, seed, show_misses)
            print(f"{name}: {r['tokens']} tokens, {r['facts']} facts: {r['right']} of {r['tried']} answers right "
                  f"({100 * r['right'] / r['tried']:.1f} %), {r['seconds']} s", flush=True)
