#!/usr/bin/env python3
"""Makes the golden files of the tokenizers: little vocabularies and the ids that the reference libraries give.

    python3 tests/golden/tokenizers/make_goldens.py

Runs in a virtual environment of its own under ${XDG_CACHE_HOME:-$HOME/.cache}/varve, made at the first run. Writes, for
each kind of tokenizer, NAME/tokenizer.json (or tokenizer.model), NAME/tokenizer_config.json and NAME/vectors.json: a
list of {text, ids, ids_special?, decoded?, decoded_skip?}. `ids` are without, `ids_special` with special tokens looked for
in the text; the two texts are what the reference decodes `ids_special` to, with special tokens and without.
The chat templates' goldens come from make_chat_goldens.py, in the same environment.
"""
import json
import os
import pathlib
import subprocess
import sys

PACKAGES = ["tokenizers==0.23.3", "sentencepiece==0.2.3", "jinja2==3.1.6"]
HERE = pathlib.Path(__file__).resolve().parent


def enter_environment():
    """Runs this script again inside the environment, unless it is inside already."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    home = cache / "varve" / "tokenizer-goldens"
    if pathlib.Path(sys.prefix).resolve() == home.resolve():
        return
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (home / "complete").touch()
    os.execv(str(python), [str(python), *sys.argv])


if __name__ == "__main__":
    enter_environment()

PROSE = """
The river lays down its mud in thin sheets, one for every spring, and the sheets keep what fell on them. A seed, a wing,
a little ash from a fire that nobody remembers: each lies where it came to rest, under the weight of the years above it.
Whoever cuts into the bank can read them like the pages of a book, from the last page to the first. There are ten
thousand pages in the bank below the mill, and the oldest of them were written before there was a mill, or a name.
We didn't know what we'd find; they've said it's nothing. I'm sure you'll see that she's right, and he'd say so too.
WE DIDN'T ASK. THEY'RE HERE, IT'S LATE, AND I'LL GO. In 1984 there were 365 days, 12 months and 3.14159 reasons.
The numbers 100, 200, 1000 and 123456789 stand for themselves; so do 7, 42 and 2048.

    for index in range(1000):
        if values[index] != other_values[index]:
            return {"status": "error", "index": index}
\tint main(void) { return 0; }  // tabs, braces and semicolons;;

Der Fluss legt seinen Schlamm in d\u00fcnnen Schichten ab, f\u00fcr jeden Fr\u00fchling eine, und gr\u00f6\u00dfere Str\u00f6me tun es auch.
La rivi\u00e8re d\u00e9pose sa boue en feuilles minces, l'\u00e9t\u00e9 comme l'hiver, o\u00f9 qu'elle aille. \u00bfQu\u00e9 a\u00f1o fue, se\u00f1or?
\u0420\u0435\u043a\u0430 \u043e\u0442\u043a\u043b\u0430\u0434\u044b\u0432\u0430\u0435\u0442 \u0441\u0432\u043e\u0439 \u0438\u043b \u0442\u043e\u043d\u043a\u0438\u043c\u0438 \u0441\u043b\u043e\u044f\u043c\u0438, \u043f\u043e \u043e\u0434\u043d\u043e\u043c\u0443 \u043d\u0430 \u043a\u0430\u0436\u0434\u0443\u044e \u0432\u0435\u0441\u043d\u0443.
\u6cb3\u6d41\u5e74\u5e74\u6c89\u79ef\u6de4\u6ce5\uff0c\u6bcf\u4e2a\u6625\u5929\u4e00\u5c42\u3002\u5ddd\u306f\u6bce\u5e74\u3001\u8584\u3044\u6ce5\u306e\u5c64\u3092\u6b8b\u3059\u3002
"""

NASTY = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\t\n", "\r\n", "\r\n\r\n", " \n", "\n ", " \n\n  x", "a\n b\n\n  c  \n",
    "Hello world", " Hello world", "Hello  world", "Hello   world  ", "Hello, y'all! How are you?",
    "The river lays down its mud", "the the the the", "mud" * 40, "a" * 200, " " * 100 + "x", "\n" * 30, "-" * 90, "=====  ====",
    "I'm you're he's we'd they'll I've don't", "I'M YOU'RE HE'S WE'D THEY'LL I'VE DON'T", "'s 't 'RE 'lL x'\u017f",
    "it's 's' ''s l'\u00e9t\u00e9", "0", "00", "000", "0000", "1234567890123", "3.14159", "1,000,000", "a1b22c333", " 7 77 777 7777",
    "\u0663\u0664\u0665 \u2167 \u00bd \u2460\u2461 \uff11\uff12\uff13", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0643\u064a\u0641", "\u05e9\u05dc\u05d5\u05dd",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u6cb3\u6d41\u5e74\u5e74\u6c89\u79ef", "\u4f60\u597d\uff0c\u4e16\u754c\uff01 \u5ddd\u306f\u6bce\u5e74", "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family", "\U0001f1e9\U0001f1ea flags \U0001f44d\U0001f3fd", "\u2764\ufe0f", "x\U0001f680y \U0001f30d\U0001f30d",
    "e\u0301 vs \u00e9, A\u030a vs \u00c5 vs \u212b", "q\u0323\u0307 and q\u0307\u0323", "\u0301leading mark", "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d", "\ufb01ne \u2460 \u00aa \ufdfa",
    "\u00a0nbsp\u00a0\u00a0x", "a\u3000b\u2003c\u2028d\u2029e\u0085f", "\u180eM \u180e\u180e", "\u200bzero\u200bwidth\ufeff", "x\u202edlrow",
    "\x00", "a\x00b", "\x01\x02\x1f\x7f", "bell\x07 esc\x1b[0m", "\x1c\x1d\x1e\x1f \x0b\x0c", "\ufffd\ufffd", "\ufffe\uffff\U0010ffff", "\ue000",
    "\u2581", "\u2581\u2581 x\u2581y", "\u0120the \u010a", "<0x41><0x0A>", "a\\b \"quoted\" `code` $x^2$ {curly} [square] <angle>",
    "for index in range(1000):\n        if values[index] != 7:\n\t\treturn {}\n", "http://example.org/?q=a%20b&c=d#e", "CamelCaseWord snake_case_word",
    "...!!!???---", "( ) [ ] { }", "!\n", "!!\r\n\r\n x", ";;\n\n\n  y", "end \n", "tab\tseparated\tvalues\t", " \t \t ", "\u00bfQu\u00e9?", "na\u00efve caf\u00e9 \u00fcber Stra\u00dfe \u0130stanbul",
    "<s>", "<s>x</s>", "a<s>b", " <s> ", "x <s>y</s> z", "<unk>", "<|im_start|>user\nhi<|im_end|>\n", "<|im_end|><|im_end|>", "<|im_end", "a<|im_end|> b",
    "<think>hm</think> ok", "x <mask> y", "x  <mask>  y", "[WORD] a[WORD] [WORD]b ([WORD])", "a <r>   b", "<r> \n <mask>", "caf\u00e9tok cafe\u0301tok",
    "Mixed \u4e2d\u6587 and English, \u0440\u0443\u0441\u0441\u043a\u0438\u0439 123 \U0001f600!\n\n\tEnd.",
]  # fmt: skip

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def corpus():
    return [line + "\n" for line in (PROSE * 4).split("\n")]


def as_json(tokenizer):
    return json.loads(tokenizer.to_str())


def byte_level_split(pattern):
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_byte_level(pre_tokenizer, vocab_size, special, normalizer=None, **model):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def gpt2():
    from tokenizers import pre_tokenizers

    return train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), 450, ["<|endoftext|>"])


def prefix_space():
    from tokenizers import pre_tokenizers

    return train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), 400, ["<s>", "</s>"])


def llama3():
    from tokenizers import processors

    tokenizer = train_byte_level(byte_level_split(LLAMA3), 600, [], ignore_merges=True)
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    template = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def qwen2():
    from tokenizers import AddedToken, normalizers

    tokenizer = train_byte_level(byte_level_split(QWEN2), 450, [], normalizer=normalizers.NFC())
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<r>", rstrip=True)])
    tokenizer.add_tokens(
        [
            AddedToken("<think>", normalized=False),
            AddedToken("</think>", normalized=False),
            AddedToken("[WORD]", single_word=True),
            AddedToken("cafe\u0301tok", normalized=True),
        ]
    )
    return tokenizer


def smollm():
    from tokenizers import pre_tokenizers

    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return train_byte_level(pre_tokenizers.Sequence(steps), 450, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def train_sentencepiece_style(vocab_size, special):
    """A BPE over \u2581-words, as the JSON that the converters from SentencePiece write: specials, bytes, then the rest."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False, limit_alphabet=120)
    tokenizer.train_from_iterator(corpus(), trainer)
    data = as_json(tokenizer)
    rest = [text for text, _ in sorted(data["model"]["vocab"].items(), key=lambda item: item[1]) if text not in special]
    # Runs of blanks are words of their own in the real vocabularies.
    blanks = ["\u2581" * 2, "\u2581" * 4, "\u2581" * 8]
    data["model"]["merges"] = [[text[: len(text) // 2], text[: len(text) // 2]] for text in blanks] + data["model"]["merges"]
    texts = special + [f"<0x{byte:02X}>" for byte in range(256)] + rest + [text for text in blanks if text not in rest]
    data["model"]["vocab"] = {text: index for index, text in enumerate(texts)}
    for token in data["added_tokens"]:
        token["id"] = data["model"]["vocab"][token["content"]]
    return data


def finish(data, **stages):
    from tokenizers import Tokenizer

    data.update(stages)
    return Tokenizer.from_str(json.dumps(data))


REPLACE_BLANK = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
DECODE_BLANK = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}


def decoder_sequence(strip):
    stages = [DECODE_BLANK, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if strip:
        stages.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": stages}


def template(bos, bos_id):
    text = {"Sequence": {"id": "A", "type_id": 0}}
    pair = {"Sequence": {"id": "B", "type_id": 1}}
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    special = {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}}
    return {"type": "TemplateProcessing", "single": [first, text], "pair": [first, text, pair], "special_tokens": special}


def llama2():
    """Added tokens are normalized, as in the older conversions: they are found with a blank before them only."""
    data = train_sentencepiece_style(500, ["<unk>", "<s>", "</s>"])
    for token in data["added_tokens"]:
        token["normalized"] = True
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, REPLACE_BLANK]}
    return finish(
        data,
        normalizer=normalizer,
        pre_tokenizer=None,
        decoder=decoder_sequence(strip=True),
        post_processor=template("<s>", 1),
    )


def mistral():
    data = train_sentencepiece_style(500, ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    return finish(data, pre_tokenizer=metaspace, decoder=decoder_sequence(strip=True), post_processor=template("<s>", 1))


def metaspace():
    data = train_sentencepiece_style(450, ["<unk>", "<s>", "</s>"])
    stage = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    return finish(data, pre_tokenizer=stage, decoder=stage)


def gemma():
    data = train_sentencepiece_style(500, ["<unk>", "<s>", "</s>"])
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    tokenizer = finish(data, normalizer=REPLACE_BLANK, pre_tokenizer=split, decoder=decoder_sequence(strip=False))
    tokenizer.add_tokens(["\n\n", "\n\n\n", "<think>"])
    return tokenizer


def unknown():
    """No byte fallback: unknown characters become <unk>, adjacent ones a single one. NFKC and the other Split behaviours."""
    data = train_sentencepiece_style(450, ["<unk>"])
    data["model"]["byte_fallback"] = False
    data["model"]["vocab"] = {t: i for i, t in enumerate(t for t in data["model"]["vocab"] if not t.startswith("<0x"))}
    splits = [
        {"type": "Split", "pattern": {"Regex": r"[.,!?]+"}, "behavior": "MergedWithPrevious", "invert": False},
        {"type": "Split", "pattern": {"Regex": r"[(\[{]"}, "behavior": "MergedWithNext", "invert": False},
        {"type": "Split", "pattern": {"Regex": r"[\x{0}-\x{1f}]"}, "behavior": "Removed", "invert": False},
        {"type": "Split", "pattern": {"Regex": r"[a-z]"}, "behavior": "Contiguous", "invert": True},
    ]
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, REPLACE_BLANK]}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": splits}
    return finish(data, normalizer=normalizer, pre_tokenizer=pre_tokenizer, decoder=decoder_sequence(strip=False))


CONFIGS = {
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "prefix_space": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False},
    "llama3": {"bos_token": "<s>", "eos_token": "<|im_end|>"},
    "qwen2": {"bos_token": None, "eos_token": "<|im_end|>", "add_bos_token": False},
    "smollm": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "llama2": {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}, "add_bos_token": True},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>"},
    "metaspace": {"bos_token": "<s>", "eos_token": "</s>"},
    "gemma": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
    "unknown": {},
}


def write_json(path, value):
    with open(path, "w", encoding="ascii") as file:
        if isinstance(value, list):
            file.write("[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]\n")
        else:
            file.write(json.dumps(value, indent=None, separators=(",", ":")) + "\n")


def vectors_of(tokenizer):
    # The reference decodes an added token to its normalized form, which it then neither skips as special nor keeps from
    # the byte-level alphabet. Varve gives back the token's own text, so there is nothing to compare.
    added = tokenizer.get_added_tokens_decoder().items()
    normalized = {index for index, token in added if token.normalized and (token.special or not token.content.isascii())}
    vectors = []
    for text in NASTY:
        vector = {"text": text}
        tokenizer.encode_special_tokens = True
        vector["ids"] = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        vector["ids_special"] = tokenizer.encode(text, add_special_tokens=False).ids
        if not normalized & set(vector["ids_special"]):
            vector["decoded"] = tokenizer.decode(vector["ids_special"], skip_special_tokens=False)
            vector["decoded_skip"] = tokenizer.decode(vector["ids_special"], skip_special_tokens=True)
        vectors.append(vector)
    return vectors


def make_json_kinds():
    for make in (gpt2, prefix_space, llama3, qwen2, smollm, llama2, mistral, metaspace, gemma, unknown):
        name = make.__name__
        (HERE / name).mkdir(exist_ok=True)
        tokenizer = make()
        data = as_json(tokenizer)
        if name in ("gpt2", "smollm"):  # the older spelling of merges
            data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
        write_json(HERE / name / "tokenizer.json", data)
        write_json(HERE / name / "tokenizer_config.json", CONFIGS[name])
        write_json(HERE / name / "vectors.json", vectors_of(tokenizer))


def make_model_kind(name, special, **options):
    import io

    import sentencepiece

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=buffer, minloglevel=2, num_threads=1, **options
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())
    (HERE / name).mkdir(exist_ok=True)
    (HERE / name / "tokenizer.model").write_bytes(buffer.getvalue())
    write_json(HERE / name / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": special})
    # The library never finds control symbols in text, so there are no `ids_special`. It drops them when it decodes.
    vectors = []
    for text in NASTY:
        ids = processor.encode(text)
        vectors.append({"text": text, "ids": ids, "decoded_skip": processor.decode(ids)})
    write_json(HERE / name / "vectors.json", vectors)


def main():
    make_json_kinds()
    make_model_kind(
        "spm_bpe",
        True,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        character_coverage=0.99,
        control_symbols=["[INST]", "[/INST]"],
        user_defined_symbols=["<think>"],
    )
    make_model_kind(
        "spm_unigram",
        False,
        model_type="unigram",
        vocab_size=300,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=True,
        character_coverage=0.98,
    )


if __name__ == "__main__":
    main()
