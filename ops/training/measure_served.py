#!/usr/bin/env python3
"""Measures the bundled model as it is served: one document that grows, asked at each length. Standard library only.

    measure_served.py --varve BINARY --text BOOK.txt --work DIR [--server URL] [--parts N] [--part-facts N] [--part-bytes N]

Cuts the text into parts, plants held-out facts in each, ingests them one behind the other into one context of a running
`varve serve --model ops/models/mini`, and asks questions, spread over all parts so far, after each. An answer is right when
it is "{key} is {value}." to the letter. Run it again after an interruption: the ingest resumes, finished lengths are not
asked again.
"""
import argparse
import json
import random
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


def answer_of(args: argparse.Namespace, model: str, question: str) -> str:
    body = {"model": model, "context": args.context, "temperature": 0, "max_tokens": 64,
            "messages": [{"role": "user", "content": question}]}
    request = urllib.request.Request(f"{args.server}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.loads(response.read())["choices"][0]["message"]["content"].strip()


def measure(args: argparse.Namespace, files: list[Path], known: list[facts.Fact]) -> dict:
    start = time.monotonic()
    subprocess.run([args.varve, "ingest", "--server", args.server, "--name", args.context, "--quiet", *map(str, files)], check=True)
    ingested = time.monotonic()
    context = get(f"{args.server}/v1/contexts/{args.context}")
    model = get(f"{args.server}/v1/models")["data"][0]["id"]
    misses = []
    asked = facts.choose_questions(known, args.questions)
    for fact in asked:
        answer = answer_of(args, model, fact.question)
        if answer != fact.answer:
            misses.append({"expected": fact.answer, "answer": answer})
    return {"tokens": context["tokens"], "facts": len(known), "right": len(asked) - len(misses), "tried": len(asked),
            "ingest_s": round(ingested - start, 1), "ask_s": round(time.monotonic() - ingested, 1), "usage": context["usage"],
            "misses": misses}


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
        print(f"{row['tokens']:,} tokens, {row['facts']} facts: {row['right']} of {row['tried']} right "
              f"({100 * row['right'] / row['tried']:.1f} %), ingest {row['ingest_s']} s", flush=True)


if __name__ == "__main__":
    main()
