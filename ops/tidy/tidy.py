#!/usr/bin/env python3
"""House rules that a machine can check. Run as a test (tests/tidy) and by `ops/format --check`.

Rules: includes point down the layers; files and functions stay short (the allow-list below may only shrink); no banned
calls outside the seams; no unfinished-work markers; every header starts with its purpose and uses #pragma once; no large
files; no paths of one machine; every test file mirrors a source file.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70
MAX_FILE_BYTES = 250_000

# What a folder may include beside itself.
LAYERS = {
    "proto": set(),
    "kernels": {"proto"},
    "kvstore": {"proto", "kernels"},
    "worker": {"proto", "kernels", "kvstore"},
    "coordinator": {"proto"},
    "ops": {"proto", "kernels", "kvstore", "worker", "coordinator"},
    "tests": {"proto", "kernels", "kvstore", "worker", "coordinator", "ops"},
}

# Files and functions over the limits, with the reason. May only shrink.
LONG_FILES = {
    "coordinator/http_connection.cc": "one connection's state machine: reading, answering, streaming, closing",
    "tests/coordinator/completions_api_test.cc": "one table of refusals",
    "tests/coordinator/engine_test.cc": "one rig, many behaviours",
}
LONG_FUNCTIONS = {
    "kernels/cpu/attend_few.cc:AttendTileFew": "two switches over the number of rows that share registers",
    "tests/coordinator/contexts_api_test.cc:TEST": "one life of a context, from creation to deletion",
}
# Tests of a whole folder's behaviour rather than of one file.
NO_MIRROR = {
    "tests/coordinator/tokenizer/golden_test.cc",
    "tests/coordinator/tokenizer/published_vectors_test.cc",
}

BANNED = {
    r"\bsystem_clock::now|\bsteady_clock::now": ("ask proto/base/clock.h", {"proto/base/os_clock.cc", "ops/cli/bench/roofs.cc", "ops/cli/bench/median_ms.h"}),
    r"\bstd::rand\b|\bsrand\(|\brandom_device\b|\bmt19937": ("use proto/base/rng.h", set()),
    r"\bprintf\(": ("use proto/base/log.h, or fmt in ops/cli", {"proto/base/check.cc", "ops/cli/bench/attention_bench.cc"}),
    r"\bcudaMalloc\b": ("memory comes from the device tier", set()),
}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(root|home/\w+|work)/")
LARGE_ALLOWED = {"ops/models/mini/model.safetensors", "ops/models/mini/tokenizer.json"}


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file() and not p.parts[len(ROOT.parts)] == "build"]
    else:
        names = listed.stdout.splitlines()
    return sorted(n for n in names if (ROOT / n).is_file())


def check_includes(name, lines):
    layer = name.split("/")[0]
    if layer not in LAYERS:
        return
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#include "([^"]+)"', line)
        if not match:
            continue
        target = match.group(1).split("/")[0]
        if "/" not in match.group(1):
            yield f"{name}:{number}: include \"{match.group(1)}\" does not start with a top-level folder"
        elif target not in LAYERS:
            continue  # a library
        elif target != layer and target not in LAYERS[layer]:
            yield f"{name}:{number}: {layer} may not include {target}: layers point down"


def check_lengths(name, lines):
    if len(lines) > MAX_FILE_LINES and name not in LONG_FILES:
        yield f"{name}: {len(lines)} lines; the limit is {MAX_FILE_LINES}: split it by purpose"
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and line.rstrip().endswith("{") and re.match(r"[A-Za-z_~]|    ", line):
            first = number  # of the signature, which may take several lines
            while first > 1 and not re.match(r"[A-Za-z_~]", lines[first - 1]):
                first -= 1
            if not re.match(r"(namespace|class|struct|enum|union|extern|const|constexpr|static const|template|HWY_)", lines[first - 1]):
                start = first
        if line.startswith("}"):
            if start and number - start + 1 > MAX_FUNCTION_LINES and f"{name}:{function_name(lines, start)}" not in LONG_FUNCTIONS:
                yield f"{name}:{start}: function {function_name(lines, start)} has {number - start + 1} lines; the limit is {MAX_FUNCTION_LINES}"
            start = None


def function_name(lines, start):
    text = " ".join(lines[max(0, start - 6):start])
    names = re.findall(r"([\w:~]+)\(", text)
    return names[-1] if names else "?"


def check_text(name, lines):
    code = name.endswith((".cc", ".h", ".cu", ".cuh"))
    for number, line in enumerate(lines, 1):
        if UNFINISHED.search(line) and name != "ops/tidy/tidy.py":
            yield f"{name}:{number}: unfinished work is an issue, not a comment"
        if MACHINE_PATH.search(line) and name != "ops/tidy/tidy.py":
            yield f"{name}:{number}: a path of one machine"
        if code and not name.startswith("tests/"):
            for pattern, (instead, allowed) in BANNED.items():
                if name not in allowed and re.search(pattern, line.split("//")[0]):
                    yield f"{name}:{number}: banned call; {instead}"


def check_header(name, lines):
    if not lines or not lines[0].startswith("// "):
        yield f"{name}: a header starts with its purpose"
    if "#pragma once" not in lines and not name.endswith("-inl.h"):
        yield f"{name}: #pragma once is missing"


def check_mirror(names):
    have = set(names)
    for name in names:
        match = re.fullmatch(r"tests/((?:proto|kernels|kvstore|worker|coordinator)/.*)_test\.cc", name)
        if match and name not in NO_MIRROR and not any(f"{match.group(1)}{suffix}" in have for suffix in (".cc", ".h", ".def")):
            stem = pathlib.PurePath(match.group(1))
            candidates = [n for n in have if not n.startswith("tests/") and n.startswith(str(stem.parts[0])) and pathlib.PurePath(n).stem == stem.name]
            if not candidates:
                yield f"{name}: there is no {match.group(1)}.cc or .h that it tests"


def main():
    problems = []
    names = tracked_files()
    for name in names:
        path = ROOT / name
        if path.stat().st_size > MAX_FILE_BYTES and name not in LARGE_ALLOWED:
            problems.append(f"{name}: {path.stat().st_size} bytes; the limit is {MAX_FILE_BYTES}")
        if not name.endswith((".cc", ".h", ".cu", ".cuh", ".py", ".md", ".txt", ".cmake", ".sh", ".yaml")) and "." in pathlib.PurePath(name).name:
            continue
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        problems += check_text(name, lines)
        if name.endswith((".cc", ".h", ".cu", ".cuh")):
            problems += check_includes(name, lines)
            problems += check_lengths(name, lines)
        if name.endswith(".h"):
            problems += check_header(name, lines)
    problems += check_mirror(names)
    for problem in problems:
        print(problem)
    print(f"tidy: {len(names)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
