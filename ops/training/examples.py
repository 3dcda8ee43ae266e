"""Training sequences: token ids with a loss weight for each.

Every sequence begins with <|begin|>. Most are a document with planted facts followed by questions in the chat form that the
model's chat template renders; answers weigh most, running text some, statements and questions nothing.
"""
import random

import numpy as np
from tokenizers import Tokenizer

import facts
import text

TEXT_WEIGHT, TEXT_EVERY = 0.3, 3  # every third token of running text is trained on: cheaper than all of them at 0.1
QUESTION_SHARE = 0.4  # of a sequence, at most
SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "Answer from the text.", "You look things up in the text above.", "Be brief and exact.")
GREETINGS = ("Hello", "Hi", "Hello there!", "Who are you?", "What can you do?", "Help", "Good morning")
GREETING_ANSWER = "Hello. Give me a text and ask me what it says."
NO_TEXT_ANSWER = "There is no text to look this up in."

Example = tuple[list[int], list[float]]  # ids, weights


class Examples:
    def __init__(self, tokenizer: Tokenizer, corpus: np.ndarray):
        self.tokenizer, self.corpus = tokenizer, corpus
        self.begin, self.end, self.user, self.assistant, self.system = map(tokenizer.token_to_id, text.SPECIAL_TOKENS)

    def encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s).ids

    def turn(self, question: str, answer: str) -> Example:
        ask = [self.user] + self.encode(question) + [self.assistant]
        reply = self.encode(" " + answer) + [self.end]
        return ask + reply, [0.0] * len(ask) + [1.0] * len(reply)

    def system_turn(self, rng: random.Random) -> list[int]:
        return [self.system] + self.encode(rng.choice(SYSTEM_PROMPTS)) if rng.random() < 0.05 else []

    def copying(self, rng: random.Random, length: int) -> Example:
        """Random tokens, then most of them once more."""
        first = [rng.randrange(len(text.SPECIAL_TOKENS), text.VOCAB) for _ in range(length // 2)]
        again = first[rng.randrange(length // 4):]
        return [self.begin] + first + again, [0.0] * (len(first) + 3) + [1.0] * (len(again) - 2)

    def prose(self, rng: random.Random, length: int) -> Example:
        start = rng.randrange(len(self.corpus) - length)
        return [self.begin] + self.corpus[start:start + length - 1].tolist(), [0.0] + [TEXT_WEIGHT] * (length - 1)

    def facts_only(self, rng: random.Random, length: int) -> Example:
        """Statement after statement, then questions about them until the sequence is full."""
        planted = self._draw_facts(rng, max(3, length // 36))
        document = [self.begin]
        for fact in planted:
            document += self._statement(rng, fact)
        return self._ask(rng, document, [0.0] * len(document), planted, length)

    def document(self, rng: random.Random, length: int) -> Example:
        """Facts planted in running text, technical text or noise, then questions about some of them."""
        planted = self._draw_facts(rng, max(2, length // rng.choice((22, 28, 36, 48, 96))))
        statements = [self._statement(rng, fact) for fact in planted]
        # The document fills what the questions leave; with few facts there are few questions.
        questions = min(int(length * rng.uniform(0.15, QUESTION_SHARE)), 28 * len(planted))
        room = max(length - 1 - sum(map(len, statements)) - questions, len(statements) + 1)
        background, weight = self._background(rng, room)
        ids, weights, previous = [self.begin], [0.0], 0
        for cut, statement in zip(sorted(rng.sample(range(room), len(statements))), statements):
            ids += background[previous:cut] + statement
            weights += weight[previous:cut] + [0.0] * len(statement)
            previous = cut
        return self._ask(rng, ids + background[previous:], weights + weight[previous:], planted, length)

    def chat(self, rng: random.Random) -> Example:
        """Short conversations without a document: a greeting, a fact told in the question, or nothing to answer from."""
        ids = [self.begin] + self.system_turn(rng)
        kind = rng.randrange(3)
        fact = facts.make_facts(rng, 1, held_out=False)[0]
        if kind == 0:
            ask, answer = rng.choice(GREETINGS), GREETING_ANSWER
        elif kind == 1:
            ask, answer = f"{fact.statement} {fact.question}", fact.answer
        else:
            ask, answer = fact.question, NO_TEXT_ANSWER
        turn, weights = self.turn(ask, answer)
        return ids + turn, [0.0] * len(ids) + weights

    def _draw_facts(self, rng: random.Random, count: int) -> list[facts.Fact]:
        """Facts of every kind or, more often confused, of one kind of code; neighbours of keys few to nearly all."""
        kind = rng.choice(("file ", "file ", "registry ", "locker ")) if rng.random() < 0.3 else ""
        return facts.make_facts(rng, count, held_out=False, confusable=rng.uniform(0.2, 0.95), kind=kind)

    def _statement(self, rng: random.Random, fact: facts.Fact) -> list[int]:
        return self.encode((" " if rng.random() < 0.75 else "\n") + fact.statement)

    def _background(self, rng: random.Random, count: int) -> tuple[list[int], list[float]]:
        kind = rng.random()
        start = rng.randrange(len(self.corpus) - count)
        book = self.corpus[start:start + count].tolist()
        if kind < 0.6:
            return book, [TEXT_WEIGHT if i % TEXT_EVERY == 0 else 0.0 for i in range(count)]
        if kind < 0.85:
            technical = self.encode(text.technical_text(rng, 3 * count + 200))
            return (technical + book)[:count], [0.0] * count
        if kind < 0.92:
            rng.shuffle(book)
            return book, [0.0] * count
        return [rng.randrange(len(text.SPECIAL_TOKENS), text.VOCAB) for _ in range(count)], [0.0] * count

    def _ask(self, rng: random.Random, ids: list[int], weights: list[float], planted: list[facts.Fact],
             length: int) -> Example:
        """The document, then questions about its facts until the sequence is full."""
        system = self.system_turn(rng)
        ids, weights = ids + system, weights + [0.0] * len(system)
        for fact in rng.sample(planted, len(planted)):
            turn, turn_weights = self.turn(fact.question, fact.answer)
            if len(ids) + len(turn) > length + 8:
                break
            ids, weights = ids + turn, weights + turn_weights
        return ids, weights
