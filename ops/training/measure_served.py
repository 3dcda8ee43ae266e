#!/usr/bin/env python3
"""Measures the bundled model as it is served: one document that grows, asked at each length. Standard library only.

    measure_served.py --varve BINARY --text BOOK.txt --work DIR [--server URL] [--parts N] [--part-facts N] [--part-bytes N]
                      [--kv JSON]...

Cuts the text into parts, plants held-out facts in each, ingests them one behind the other into one context of a running
`varve serve --model ops/models/mini`, and asks questions, spread over all parts so far, after each. An answer is right when
it is "{key} is {value}." to the letter. Run it again after an interruption: the ingest resumes, finished lengths are not
asked again. With --kv the same questions are asked once more with each, for example
--kv '{"attention": "select", "budget_tokens": 16384}': how many pages were read is then printed, too, and, where the
server runs with --quality-sample 1, the median error of attention outputs against exact attention.
"""
import argparse
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import facts


def make_parts(args: argparse.Namespace) -> list[tuple[Path, list[facts.Fact]]]:
    """Writes the parts of the document. All keys differ, across parts too."""
    source, parts = args.text.read_text(encoding="utf-8", errors="replace"), []
    if len(source) < args.parts * args.part_bytes:
        sys.exit(f"measure_served.py: {args.text} has {len(source)} characters; {args.parts * args.part_bytes} are needed")
    rng = random.Random(f"measure served {args.seed}")
    all_facts = facts.make_facts(rng, args.parts * args.part_facts, held_out=True)
    for index in range(args.parts):
        own = all_facts[index * args.part_facts:(index + 1) * args.part_facts]
        path = args.work / f"part{index}.txt"
        path.write_text(facts.plant_facts(source[index * args.part_bytes:(index + 1) * args.part_bytes], own, rng), encoding="utf-8")
        parts.append((path, own))
    return parts


def get(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.loads(response.read())


def answer_of(args: argparse.Namespace, model: str, question: str, kv: dict) -> tuple[str, dict]:
    body = {"model": model, "context": args.context, "temperature": 0, "max_tokens": 64,
            "messages": [{"role": "user", "content": question}], **({"kv": kv} if kv else {})}
    request = urllib.request.Request(f"{args.server}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        answer = json.loads(response.read())
    return answer["choices"][0]["message"]["content"].strip(), answer["usage"]


def error_buckets(args: argparse.Namespace) -> dict[float, float]:
    """The quality meter's counts of sampled errors so far, by upper bound."""
    with urllib.request.urlopen(f"{args.server}/metrics", timeout=60) as response:
        lines = re.findall(r'^varve_sampled_attention_error_bucket\{[^}]*le="([^"]+)"[^}]*\} (\S+)$', response.read().decode(), re.MULTILINE)
    counts: dict[float, float] = {}
    for bound, count in lines:
        counts[float(bound)] = counts.get(float(bound), 0) + float(count)
    return counts


def median_of(before: dict[float, float], after: dict[float, float]) -> float | None:
    """Of what was counted between two looks, evenly spread within a bucket."""
    bounds = sorted(after)
    counts = [after[bound] - before.get(bound, 0) for bound in bounds]
    if not counts or counts[-1] == 0:
        return None
    at = next(i for i, count in enumerate(counts) if count >= counts[-1] / 2)
    low, below = (bounds[at - 1], counts[at - 1]) if at else (0.0, 0.0)
    return low + (bounds[at] - low) * (counts[-1] / 2 - below) / (counts[at] - below)


def ask_all(args: argparse.Namespace, model: str, asked: list[facts.Fact], kv: dict) -> dict:
    """Asks every question in one way."""
    start, errors, usages, misses = time.monotonic(), error_buckets(args), [], []
    for fact in asked:
        answer, usage = answer_of(args, model, fact.question, kv)
        usages.append(usage)
        if answer != fact.answer:
            misses.append({"expected": fact.answer, "answer": answer})
    row = {"kv": kv, "right": len(asked) - len(misses), "tried": len(asked), "ask_s": round(time.monotonic() - start, 1), "misses": misses}
    if all("pages_total" in usage for usage in usages):
        row["read_share"] = sum(usage["pages_read"] for usage in usages) / sum(usage["pages_total"] for usage in usages)
        row["median_error"] = median_of(errors, error_buckets(args))
    return row


def measure(args: argparse.Namespace, files: list[Path], known: list[facts.Fact]) -> dict:
    start = time.monotonic()
    subprocess.run([args.varve, "ingest", "--server", args.server, "--name", args.context, "--quiet", *map(str, files)], check=True)
    ingested = time.monotonic()
    context = get(f"{args.server}/v1/contexts/{args.context}")
    model = get(f"{args.server}/v1/models")["data"][0]["id"]
    asked = facts.choose_questions(known, args.questions)
    return {"tokens": context["tokens"], "facts": len(known), "ingest_s": round(ingested - start, 1), "usage": context["usage"],
            "ways": [ask_all(args, model, asked, kv) for kv in [{}, *args.kv]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--varve", required=True, help="the varve binary")
    parser.add_argument("--server", default="http://127.0.0.1:8080", help="URL of the server")
    parser.add_argument("--context", default="measure", help="name of the context (default measure)")
    parser.add_argument("--text", type=Path, required=True, help="text that the model was not trained on")
    parser.add_argument("--work", type=Path, required=True, help="folder for the parts and the figures")
    parser.add_argument("--parts", type=int, default=2, help="lengths to measure (default 2)")
    parser.add_argument("--part-facts", type=int, default=1000, help="facts in each part (default 1000)")
    parser.add_argument("--part-bytes", type=int, default=1_560_000, help="characters of text in each part (default 1560000: 512K tokens)")
    parser.add_argument("--questions", type=int, default=150, help="questions at each length (default 150)")
    parser.add_argument("--kv", type=json.loads, action="append", default=[], help="ask once more with this kv object")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same document (default 7)")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    parts = make_parts(args)
    for count in range(1, len(parts) + 1):
        done = args.work / f"figures{count}.json"
        if not done.exists():
            figures = measure(args, [path for path, _ in parts[:count]], [fact for _, own in parts[:count] for fact in own])
            done.write_text(json.dumps(figures, indent=1) + "\n")
        row = json.loads(done.read_text())
        print(f"{row['tokens']:,} tokens, {row['facts']} facts, ingest {row['ingest_s']} s", flush=True)
        for way in row["ways"]:
            print(f"  {json.dumps(way['kv'])}: {way['right']} of {way['tried']} right, {way['ask_s'] / way['tried']:.2f} s each"
                  + (f", {100 * way['read_share']:.1f} % of the pages read" if "read_share" in way else "")
                  + (f", median error {way['median_error']:.3f}" if way.get("median_error") is not None else ""), flush=True)


if __name__ == "__main__":
    main()
