#!/usr/bin/env python3
"""Facts to plant in a document and to ask back: keys, values, statements, questions.

A fact is a sentence that ends "... {key} is {value}."; its question is asked in chat form and its answer restates the key:
"{key} is {value}.". Documents also hold confusable neighbours of the keys, one character or one word apart.

One key in eight, chosen by a checksum of its text, is held out: training draws only from the other seven, and `plant`
draws only held-out keys. Standard library only, so that everything that plants facts can import this file:

    python3 facts.py plant --text manual.txt --out document.txt --questions questions.json --facts 200 --seed 7

writes the document and a list of {"question", "key", "answer", "expected"}.
"""
import argparse
import bisect
import json
import random
import re
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

ADJECTIVES = (
    "amber ancient bitter black blue bold brass brave bright broken bronze brown calm clear cold copper crimson crooked "
    "dark deep distant dusty early empty fallen false fierce final foreign forgotten frozen gentle gilded golden grand gray "
    "green heavy hidden hollow humble iron ivory lonely lost lucky marble narrow noble northern open orange pale patient "
    "plain proud purple quick quiet rapid red royal rusty sacred scarlet secret sharp silent silver simple slow small solid "
    "southern stone strange sudden tall velvet violet warm western white wild winter wooden yellow young").split()
NOUNS = (
    "anchor apple arrow barrel basket bell bird boat book bottle bridge butter button cabin candle castle chain chair chapel "
    "clock cloud coat coin compass cottage crown cup desk diamond door drum eagle engine falcon feather field fire flag "
    "flower forest fountain garden gate glass glove hammer harbor hat horse house island key king ladder lake lamp lantern "
    "leaf ledger letter lion map market meadow mirror moon mountain needle oak orchard paper path pearl piano pillar pocket "
    "queen rabbit ring river road rope rose saddle sail shadow shield ship spring star station stone storm street sword table "
    "temple tent tiger torch tower train tree valley violin wagon wall wheel whistle window wolf").split()
ATTRIBUTES = "passcode number code price weight address rank signal license permit".split()
OFFICES = (
    "warden mayor bishop captain doctor governor judge keeper librarian master pilot porter secretary steward teacher "
    "treasurer").split()
PLACES = (
    "Arden Ashford Belmont Bristol Camden Carlisle Chester Corwin Dalton Derby Dover Dunmore Durham Elgin Exeter Farley "
    "Gresham Halden Harlow Hudson Ilford Jarrow Kelso Kingston Lanark Lincoln Ludlow Malden Marlow Melrose Milton Newark "
    "Norwich Oakham Oxford Penrith Preston Quarley Ripon Salem Selby Stanton Tarbet Truro Upton Vernon Walton Warwick "
    "Weston Winslow York").split()
FIRST_NAMES = (
    "Ada Agnes Alan Albert Alice Amos Anna Arthur Basil Clara Conrad Cora Daniel David Dora Edgar Edith Edwin Ellen Emma "
    "Felix Flora Frank George Grace Hannah Harold Helen Henry Hugo Ida Irene Isaac Jacob James Jane Joseph Julia Laura Leo "
    "Louis Lucy Mabel Martha Martin Mary Maud Miles Nathan Nora Oliver Oscar Paul Peter Philip Ralph Rose Ruth Samuel Sarah "
    "Simon Stella Thomas Victor Walter").split()
LAST_NAMES = (
    "Abbot Archer Baker Barlow Becker Bishop Carter Chandler Cooper Crane Dawson Draper Ellis Fisher Fletcher Foster Fuller "
    "Gardner Gibson Grant Green Hale Harper Hawkins Hayes Holmes Hunter Jordan Keller Knight Lambert Lawson Marsh Mason "
    "Mercer Miller Morgan Morris Nash Nelson Norris Osborne Page Palmer Parker Payne Porter Potter Quinn Reed Rivers Sawyer "
    "Shaw Slater Stone Sutton Taylor Thorne Turner Wade Walker Ward Webb Whitfield Wood").split()
UPPER, DIGITS, HEX = "ABCDEFGHJKLMNPQRSTUVWXYZ", "0123456789", "0123456789abcdef"

# Every statement ends in "{k} is {v}.", the very words of the answer.
STATEMENTS = (
    "Note that {k} is {v}.", "In the ledger, {k} is {v}.", "The record says that {k} is {v}.", "As was agreed, {k} is {v}.",
    "Remember that {k} is {v}.", "It is written that {k} is {v}.", "At present {k} is {v}.", "For reference, {k} is {v}.")
QUESTIONS = (
    "What is {k}?", "What does the text say about {k}?", "Tell me what {k} is.", "Look up {k}.",
    "According to the text, what is {k}?", "Please find {k}.")
WHO_QUESTIONS = ("Who is {k}?", "Tell me who {k} is.", "According to the text, who is {k}?")
HELD_OUT_SHARE = 8  # one key in so many is never seen in training


@dataclass(frozen=True)
class Fact:
    key: str
    value: str
    statement: str
    question: str

    @property
    def answer(self) -> str:
        return f"{self.key} is {self.value}."


def is_held_out(key: str) -> bool:
    return zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0


def _letters(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count))


def _name(rng: random.Random) -> str:
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"


def _draw_key(rng: random.Random) -> str:
    kind = rng.randrange(7)
    if kind < 2:
        return f"the {rng.choice(ATTRIBUTES)} of the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    if kind == 2:
        return f"the {rng.choice(OFFICES)} of {rng.choice(PLACES)}"
    if kind == 3:
        return f"the badge of {_name(rng)}"
    if kind == 4:
        return f"registry entry {_letters(rng, UPPER, 2)}{_letters(rng, DIGITS, 3)}"
    if kind == 5:
        return f"file {_letters(rng, HEX, 6)}"
    return f"locker {_letters(rng, DIGITS, rng.choice((3, 4, 5)))}"


def _draw_value(rng: random.Random, key: str) -> str:
    if any(key.startswith(f"the {office} of ") for office in OFFICES):
        return _name(rng)
    kind = rng.randrange(10)
    if kind < 5:
        return _letters(rng, DIGITS, rng.choice((3, 4, 5, 6)))
    if kind < 7:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    if kind < 9:
        return f"{_letters(rng, UPPER, 2)}{_letters(rng, DIGITS, 3)}"
    return _name(rng)


def _draw_confusable(rng: random.Random, key: str) -> str:
    """The same key with one character of its code, or one of its words, changed."""
    words = key.split()
    if words[0] != "the":
        code = list(words[-1])
        i = rng.randrange(len(code))
        alphabet = HEX if words[0] == "file" else DIGITS if code[i].isdigit() else UPPER
        code[i] = rng.choice(alphabet.replace(code[i], ""))
        return " ".join(words[:-1] + ["".join(code)])
    if words[1] == "badge":
        choices = {3: FIRST_NAMES, 4: LAST_NAMES}
    elif words[1] in OFFICES:
        choices = {1: OFFICES, 3: PLACES}
    else:
        choices = {1: ATTRIBUTES, 4: ADJECTIVES, 5: NOUNS}
    i = rng.choice(sorted(choices))
    words[i] = rng.choice([word for word in choices[i] if word != words[i]])
    return " ".join(words)


def make_key(rng: random.Random, held_out: bool, near: str | None = None, tries: int = 200) -> str | None:
    """A key of the wanted half, next to `near` when given; None if no such neighbour turned up."""
    for _ in range(tries):
        key = _draw_confusable(rng, near) if near else _draw_key(rng)
        if is_held_out(key) == held_out:
            return key
    return None


def make_fact(rng: random.Random, key: str) -> Fact:
    value = _draw_value(rng, key)
    questions = QUESTIONS
    if value.split()[0] in FIRST_NAMES and key.split()[1] in OFFICES:
        questions = WHO_QUESTIONS
    return Fact(key, value, rng.choice(STATEMENTS).format(k=key, v=value), rng.choice(questions).format(k=key))


def make_facts(rng: random.Random, count: int, held_out: bool, confusable: float = 0.6, kind: str = "") -> list[Fact]:
    """`count` facts with distinct keys; each further one is, with that probability, a neighbour of an earlier key.

    With `kind`, only keys that start with it.
    """
    facts: dict[str, Fact] = {}
    keys: list[str] = []
    while len(facts) < count:
        near = rng.choice(keys[-8:]) if keys and rng.random() < confusable else None
        key = make_key(rng, held_out, near)
        if key is not None and key not in facts and key.startswith(kind):
            facts[key] = make_fact(rng, key)
            keys.append(key)
    result = list(facts.values())
    rng.shuffle(result)
    return result


def _cut_text(text: str, min_bytes: int, max_bytes: int | None) -> str:
    """The text, repeated to at least `min_bytes` and cut at a line end below `max_bytes`."""
    size = len(text.encode())
    if min_bytes > size:
        text = "\n".join([text] * -(-min_bytes // size))
    if max_bytes is not None and len(text.encode()) > max_bytes:
        text = text.encode()[:max_bytes].decode(errors="ignore")
        text = text[:text.rfind("\n") + 1] or text
    return text


def plant_facts(text: str, facts: list[Fact], rng: random.Random) -> str:
    """The text with each statement inserted after a sentence, or as a line of its own, spread evenly."""
    places = [m.start() for m in re.finditer(r"(?<=[.!?])\s|\n", text)] or [len(text)]
    pieces, previous = [], 0
    for i, fact in enumerate(facts):
        wish = int((i + rng.random()) * len(text) / len(facts))
        place = max(previous, places[min(bisect.bisect_left(places, wish), len(places) - 1)])
        joint = " " if text[place - 1:place] in (".", "!", "?") else "\n"
        pieces += [text[previous:place], joint, fact.statement]
        previous = place
    pieces.append(text[previous:])
    return "".join(pieces)


def choose_questions(facts: list[Fact], count: int) -> list[Fact]:
    """`count` of the facts, evenly spaced through the document."""
    return [facts[(2 * i + 1) * len(facts) // (2 * count)] for i in range(count)]


def plant_document(text: str, num_facts: int, num_questions: int, seed: int, min_bytes: int = 0,
                   max_bytes: int | None = None) -> tuple[str, list[Fact]]:
    """A document with held-out facts planted in `text`, and the facts to ask about."""
    rng = random.Random(f"held-out {seed}")
    facts = make_facts(rng, num_facts, held_out=True)
    room = None if max_bytes is None else max_bytes - sum(len(fact.statement) + 1 for fact in facts)
    document = plant_facts(_cut_text(text, min_bytes, room), facts, rng)
    return document, choose_questions(facts, num_questions)


def _plant_command(args: argparse.Namespace) -> None:
    if not 1 <= args.num_questions <= args.facts:
        sys.exit(f"facts.py: --num-questions must be between 1 and the number of facts ({args.facts})")
    try:
        text = args.text.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        sys.exit(f"facts.py: cannot read the text {args.text}: {error.strerror}")
    if not text.strip():
        sys.exit(f"facts.py: the text {args.text} is empty")
    planted_bytes = 80 * args.facts  # a statement takes about 60
    if args.max_bytes is not None and args.max_bytes < max(planted_bytes, args.min_bytes):
        sys.exit(f"facts.py: --max-bytes must be at least --min-bytes, and {planted_bytes} to hold {args.facts} facts")
    document, asked = plant_document(text, args.facts, args.num_questions, args.seed, args.min_bytes, args.max_bytes)
    args.out.write_text(document, encoding="utf-8")
    rows = [{"question": f.question, "key": f.key, "answer": f.value, "expected": f.answer} for f in asked]
    args.questions.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(document.encode())} bytes, {args.facts} facts; {args.questions}: {len(rows)} questions")


def main() -> None:
    parser = argparse.ArgumentParser(description="Plant facts with known answers in a text.")
    commands = parser.add_subparsers(dest="command", required=True)
    plant = commands.add_parser("plant", help="write a document with planted facts, and questions about them")
    plant.add_argument("--text", type=Path, required=True, help="text to plant the facts in")
    plant.add_argument("--out", type=Path, required=True, help="document to write")
    plant.add_argument("--questions", type=Path, required=True, help="JSON list of questions and answers to write")
    plant.add_argument("--facts", type=int, default=200, help="facts in the document (default 200)")
    plant.add_argument("--num-questions", type=int, default=20, help="questions asked about them (default 20)")
    plant.add_argument("--seed", type=int, default=1, help="same seed, same document (default 1)")
    plant.add_argument("--min-bytes", type=int, default=0, help="repeat the text up to at least this size")
    plant.add_argument("--max-bytes", type=int, help="cut the text so that the document stays below this size")
    _plant_command(parser.parse_args())


if __name__ == "__main__":
    main()
