"""The tokenizer that a GGUF file describes, as a Hugging Face tokenizer.json, and an independent check of it.

GGUF stores a byte-level BPE as its tokens, its merges and the *name* of its pre-tokenizer; the pattern behind the name is
knowledge of the reader. The names known here are the keys of PRE_TOKENIZERS. Anything else is refused.
"""
import json
import unicodedata
from dataclasses import dataclass, field

import regex

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                  r"|\s+(?!\S)|\s+")
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut into words before the merges, told twice: for tokenizer.json and for the check below."""
    parts: tuple[dict, ...]  # pre_tokenizer entries of tokenizer.json
    patterns: tuple[str, ...]  # applied one after the other: each cuts the pieces left by the one before
    normalizer: str | None = None
    ignore_merges: bool = False  # a word that is a token as a whole is that token, whatever the merges say


def _byte_level(use_regex: bool) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


PRE_TOKENIZERS = {
    "gpt-2": PreTokenizer((_byte_level(True),), (GPT2_PATTERN,)),
    "smollm": PreTokenizer(({"type": "Digits", "individual_digits": True}, _byte_level(True)), (r"\p{N}", GPT2_PATTERN)),
    "llama-bpe": PreTokenizer((_split(LLAMA3_PATTERN), _byte_level(False)), (LLAMA3_PATTERN,), ignore_merges=True),
    "qwen2": PreTokenizer((_split(QWEN2_PATTERN), _byte_level(False)), (QWEN2_PATTERN,), normalizer="NFC"),
}

CHECK_TEXTS = (
    "", " ", "Hello, world!", "The capital of France is Paris.", "  two  spaces   and three ", "a\nb\n\nc\r\n\td",
    "don't I'LL we've it's THEY'RE 'tis", "numbers 1 12 123 1234 12345678901234567890 3.14159 1,000,000", "x²+y³=½ Ⅷ ٣٤٥",
    "naïve café Straße Ångström cafe\u0301", "Привет, как дела? Καλημέρα κόσμε", "中文分词测试。日本語のテスト、한국어",
    "emoji 🙂🙃 👩‍👩‍👧‍👦 🇫🇷", "\u00a0nbsp\u2003em\u200bzero", "if (a[i] != b->c) { return ~0x1F; } // done\n",
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n", "<|begin_of_text|>A<|eot_id|>", "<|endoftext|>",
    "trailing newline\n", "\n\n\n", "\t\t tabs", "supercalifragilisticexpialidocious", "https://example.org/a?b=c&d=%20#e",
    "ALL CAPS AND MixedCase camelCase snake_case", "…—–“quotes”‘single’", "ﬁ ligature ™ © №5", "\u0000\u0001\u007f", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
)


class UnsupportedTokenizer(Exception):
    """The file's tokenizer is one that this tool does not know, or did not rebuild rightly."""


@dataclass
class GgufTokenizer:
    """What the metadata says. Ids of special tokens are None where the file names none."""
    tokens: list[str]
    token_types: list[int]
    merges: list[str]
    pre: str
    add_bos: bool
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unknown_id: int | None
    chat_template: str | None
    stop_ids: list[int] = field(default_factory=list)  # eos first; then the end of a turn, where it is another token

    @property
    def pre_tokenizer(self) -> PreTokenizer:
        return PRE_TOKENIZERS[self.pre]

    def added_ids(self) -> list[int]:
        return [i for i, kind in enumerate(self.token_types) if kind in (CONTROL, USER_DEFINED)]


def read_tokenizer(metadata: dict) -> GgufTokenizer:
    def get(key: str, default=None):
        return metadata.get("tokenizer.ggml." + key, default)

    if get("model") != "gpt2":
        raise UnsupportedTokenizer(f"tokenizer.ggml.model is {get('model')!r}; only 'gpt2' (byte-level BPE) is supported")
    if get("pre") not in PRE_TOKENIZERS:
        raise UnsupportedTokenizer(f"tokenizer.ggml.pre is {get('pre')!r}; supported are {', '.join(PRE_TOKENIZERS)}")
    for key in ("tokens", "token_type", "merges"):
        if not get(key):
            raise UnsupportedTokenizer(f"tokenizer.ggml.{key} is missing")
    tokens, token_types = get("tokens"), get("token_type")
    if len(tokens) != len(token_types):
        raise UnsupportedTokenizer(f"{len(tokens)} tokens but {len(token_types)} entries in tokenizer.ggml.token_type")
    odd = sorted({kind for kind in token_types if kind not in (NORMAL, CONTROL, USER_DEFINED, UNUSED)})
    if odd:
        raise UnsupportedTokenizer(f"tokenizer.ggml.token_type has {odd}, which byte-level BPE does not use")
    eos_id = get("eos_token_id")
    stop_ids = [i for i in (eos_id, get("eot_token_id"), get("eom_token_id")) if i is not None]
    return GgufTokenizer(
        tokens=tokens, token_types=token_types, merges=get("merges"), pre=get("pre"),
        add_bos=get("add_bos_token", get("pre") == "llama-bpe"), bos_id=get("bos_token_id"), eos_id=eos_id,
        pad_id=get("padding_token_id"), unknown_id=get("unknown_token_id"),
        chat_template=metadata.get("tokenizer.chat_template"), stop_ids=list(dict.fromkeys(stop_ids)))


def make_tokenizer_json(tokenizer: GgufTokenizer) -> dict:
    pre = tokenizer.pre_tokenizer
    added = [{"id": i, "content": tokenizer.tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": tokenizer.token_types[i] == CONTROL} for i in tokenizer.added_ids()]
    vocab = {token: i for i, (token, kind) in enumerate(zip(tokenizer.tokens, tokenizer.token_types)) if kind == NORMAL}
    # Special tokens below the first normal one belong to the vocabulary itself: added tokens get ids behind it.
    vocab.update({entry["content"]: entry["id"] for entry in added})
    post_processor = None
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        bos = tokenizer.tokens[tokenizer.bos_id]
        first = {"SpecialToken": {"id": bos, "type_id": 0}}
        post_processor = {
            "type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": bos, "type_id": 1}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
        }
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": pre.normalizer} if pre.normalizer else None,
        "pre_tokenizer": pre.parts[0] if len(pre.parts) == 1 else {"type": "Sequence", "pretokenizers": list(pre.parts)},
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": pre.ignore_merges,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": [merge.split(" ") for merge in tokenizer.merges],
        },
    }


def make_tokenizer_config(tokenizer: GgufTokenizer, max_positions: int) -> dict:
    def name(token_id: int | None) -> str | None:
        return None if token_id is None else tokenizer.tokens[token_id]

    config = {
        "add_bos_token": tokenizer.add_bos, "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": tokenizer.tokens[i], "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False, "special": tokenizer.token_types[i] == CONTROL}
            for i in tokenizer.added_ids()},
        "bos_token": name(tokenizer.bos_id), "clean_up_tokenization_spaces": False, "eos_token": name(tokenizer.eos_id),
        "model_max_length": max_positions, "pad_token": name(tokenizer.pad_id), "unk_token": name(tokenizer.unknown_id),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    return config


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


class PlainBpe:
    """Byte-level BPE written from its definition, quadratic and obvious: what tokenizer.json is checked against."""

    def __init__(self, tokenizer: GgufTokenizer):
        self._pre = tokenizer.pre_tokenizer
        self._ids = {token: i for i, token in enumerate(tokenizer.tokens)}
        self._ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(tokenizer.merges)}
        self._symbols = _byte_symbols()
        added = sorted((tokenizer.tokens[i] for i in tokenizer.added_ids()), key=len, reverse=True)
        self._added = set(added)
        self._added_pattern = "(" + "|".join(map(regex.escape, added)) + ")" if added else "(?!)()"

    def encode(self, text: str) -> list[int]:
        ids = []
        for piece in regex.split(self._added_pattern, text):
            if piece in self._added:
                ids.append(self._ids[piece])
            elif piece:
                ids += self._encode_piece(piece)
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        if self._pre.normalizer == "NFC":
            piece = unicodedata.normalize("NFC", piece)
        words = [piece]
        for pattern in self._pre.patterns:
            words = [part for word in words for part in self._cut(pattern, word)]
        return [i for word in words for i in self._encode_word(word)]

    @staticmethod
    def _cut(pattern: str, text: str) -> list[str]:
        parts, end = [], 0
        for match in regex.finditer(pattern, text):
            parts += [text[end:match.start()], match.group()]
            end = match.end()
        return [part for part in [*parts, text[end:]] if part]

    def _encode_word(self, word: str) -> list[int]:
        symbols = [self._symbols[byte] for byte in word.encode()]
        if self._pre.ignore_merges and "".join(symbols) in self._ids:
            return [self._ids["".join(symbols)]]
        while len(symbols) > 1:
            rank, at = min((self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(zip(symbols, symbols[1:])))
            if rank == len(self._ranks):
                break
            symbols[at:at + 2] = [symbols[at] + symbols[at + 1]]
        return [self._ids[symbol] for symbol in symbols]


def check_tokenizer(tokenizer: GgufTokenizer, directory: str, texts: tuple[str, ...] = CHECK_TEXTS) -> int:
    """Loads the directory, compares ids with PlainBpe, and decodes them. Returns the number of ids.

    transformers and tokenizers are asked both: for some model types the former replaces what tokenizer.json says.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(directory)
    file = Tokenizer.from_file(directory + "/tokenizer.json")
    plain = PlainBpe(tokenizer)
    num_ids = 0
    for text in texts:
        ours = plain.encode(text)
        for name, theirs in (("tokenizers", file.encode(text, add_special_tokens=False).ids),
                             ("transformers", loaded.encode(text, add_special_tokens=False))):
            if theirs != ours:
                raise UnsupportedTokenizer(
                    f"the rebuilt tokenizer is wrong on {json.dumps(text)}: plain BPE gives {ours}, {name} {theirs}")
        decoded = loaded.decode(ours)
        if tokenizer.pre_tokenizer.normalizer is None and decoded != text:
            raise UnsupportedTokenizer(f"the rebuilt tokenizer decodes {json.dumps(text)} to {json.dumps(decoded)}")
        num_ids += len(ours)
    if tokenizer.chat_template is not None:
        chat = loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
        if "Hi" not in chat:
            raise UnsupportedTokenizer(f"tokenizer.chat_template drops the user's message: {json.dumps(chat)}")
    return num_ids
