"""Text to train on: the tokenizer, the encoded corpus, and made-up technical text.

Books alone would tie look-up to book vocabulary. `technical_text` writes lines in the manner of manuals, logs, tables, source
code and Markdown, with invented words, so that the background of the facts is never a known one.
"""
import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import facts

BEGIN, END, USER, ASSISTANT, SYSTEM = "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL_TOKENS = (BEGIN, END, USER, ASSISTANT, SYSTEM)
VOCAB = 4096
TOKENIZER_BYTES = 12_000_000  # book text the tokenizer is trained on, taken evenly from all files
HELD_OUT_FILES = 20  # one file in so many is not trained on
SYLLABLES = "al ba cor den el fin gro hex il jam kor lin mar net os par qu rel sys tor un vex wan xi yo zet".split()
TYPES = "int char* size_t bool void uint32_t double struct const auto float long".split()


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise SystemExit(f"train: no .txt files in {folder}; --text takes a folder of plain text files")
    return files


def _fingerprint(folder: Path) -> str:
    return "".join(f"{file.name} {file.stat().st_size}\n" for file in _files(folder))


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((1, 2, 2, 3))))


def _identifier(rng: random.Random) -> str:
    return rng.choice(("_", "-", ".", "::", "")).join(_word(rng) for _ in range(rng.choice((1, 2, 3))))


def _number(rng: random.Random) -> str:
    return str(rng.randrange(10 ** rng.choice((1, 2, 3, 5, 8))))


def _code_line(rng: random.Random) -> str:
    a, b, c = _identifier(rng), _identifier(rng), _number(rng)
    indent = " " * rng.choice((0, 2, 4, 4, 8))
    return indent + rng.choice((
        f"{rng.choice(TYPES)} {a} = {b}({c});", f"if ({a} != {b}) return {c};", f"def {a}({b}, {_word(rng)}={c}):",
        f"for (int i = 0; i < {a}; ++i) {{", "}", f"{a}->{b}[{c}] = 0x{rng.randrange(1 << 32):08x};", f"#define {a.upper()} {c}",
        f"my ${_word(rng)} = shift @{_word(rng)};", f"print \"{a}: %d\\n\", {b};", f"import {a}", f"return {a} + {b};"))


def _manual_line(rng: random.Random, words: list[str]) -> str:
    prose = " ".join(rng.choice(words) for _ in range(rng.randrange(4, 14)))
    flag, name = _word(rng), _identifier(rng)
    return rng.choice((
        f"       -{flag[0]}, --{flag}={name.upper()}", f"              {prose}.", f"       {prose},",
        f"{name.upper()}({rng.randrange(1, 9)})", f"## {prose}", f"* `{name}` - {prose}",
        f"{rng.randrange(1, 20)}.{rng.randrange(1, 20)}.  {prose}", f"The {name} option is {prose}.",
        f"    $ {flag} --{_word(rng)} {name}", f"[{rng.randrange(1, 99)}] {prose}.", f"=item {name}",
        f"{flag.capitalize()} is {prose}.", ""))


def _log_line(rng: random.Random) -> str:
    n = [rng.randrange(60) for _ in range(4)]
    return rng.choice((
        f"2024-0{n[0] % 9 + 1}-{n[1] % 28 + 1:02} {n[2] % 24:02}:{n[3]:02}:{n[0]:02} "
        f"{_identifier(rng)}[{_number(rng)}]: {_word(rng)} {_number(rng)}",
        "\t".join(_number(rng) for _ in range(rng.randrange(3, 9))),
        "| " + " | ".join(_word(rng) for _ in range(4)) + " |",
        f"{_identifier(rng)}={_number(rng)}",
        f"{rng.randrange(1 << 24):06x}: " + " ".join(f"{rng.randrange(256):02x}" for _ in range(12)),
        f"10.{n[0]}.{n[1]}.{n[2]} {_identifier(rng)} {_number(rng)}", f"  {_word(rng)}: \"{_identifier(rng)}\","))


def technical_text(rng: random.Random, num_chars: int) -> str:
    """Lines of one or two kinds, as a page of documentation has."""
    words = [_word(rng) for _ in range(40)] + "the a of to is and in for with by be not this that file when".split() * 3
    kinds = rng.sample((_code_line, lambda r: _manual_line(r, words), _log_line), rng.choice((1, 2, 3)))
    lines, size = [], 0
    while size < num_chars:
        for _ in range(rng.randrange(1, 12)):
            lines.append(kinds[0](rng))
            size += len(lines[-1]) + 1
        rng.shuffle(kinds)
    return "\n".join(lines)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE with single digits, on book text, planted facts and technical text."""
    rng = random.Random("tokenizer")
    share = TOKENIZER_BYTES // len(texts)
    sample = [text[len(text) // 4:len(text) // 4 + share] for text in texts]
    for _ in range(60):
        sample.append(" ".join(f"{f.statement} {f.question}" for f in facts.make_facts(rng, 250, held_out=False)))
    sample += [technical_text(rng, 20_000) for _ in range(20)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def prepare(folder: Path, work: Path) -> tuple[Tokenizer, np.ndarray, np.ndarray]:
    """The tokenizer and the encoded training and held-out text; made once, kept in `work`."""
    tokenizer_file, train_file, held_file = work / "tokenizer.json", work / "train.npy", work / "held_out.npy"
    source_file, source = work / "source.txt", _fingerprint(folder)
    if source_file.exists() and source_file.read_text(encoding="utf-8") != source:
        raise SystemExit(f"train: {work} was made from another text; name an empty folder with --work")
    if not held_file.exists():
        print(f"reading {folder}, training the tokenizer, encoding the text", flush=True)
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in _files(folder)]
        held = {i for i in range(len(texts)) if i % HELD_OUT_FILES == HELD_OUT_FILES // 2} or {len(texts) - 1}
        tokenizer = train_tokenizer([text for i, text in enumerate(texts) if i not in held or len(texts) == 1])
        encoded = [np.array(tokenizer.encode(text).ids, dtype=np.uint16) for text in texts]
        if len(texts) == 1:  # a single file: its last tenth is held out
            cut = len(encoded[0]) * 9 // 10
            parts = [encoded[0][:cut]], [encoded[0][cut:]]
        else:
            parts = [e for i, e in enumerate(encoded) if i not in held], [encoded[i] for i in sorted(held)]
        tokenizer.save(str(tokenizer_file))
        np.save(train_file, np.concatenate(parts[0]))
        source_file.write_text(source, encoding="utf-8")
        np.save(held_file, np.concatenate(parts[1]))
    return Tokenizer.from_file(str(tokenizer_file)), np.load(train_file), np.load(held_file)
