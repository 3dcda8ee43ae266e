#!/usr/bin/env python3
"""What ops/quickstart does beside starting programs: the text, the questions, the figures. Standard library only.

    quickstart.py text --from MANUAL.txt.gz --out TEXT
    quickstart.py ask --varve BINARY --server URL --context NAME --questions FILE --out FILE
    quickstart.py report --work DIR --server URL --context NAME --reopen-s SECONDS --needed N [--json FILE]
"""
import argparse
import gzip
import json
import re
import statistics
import subprocess
import sys
import urllib.request
from pathlib import Path

LEAST_TOKENS = 32768
USAGE_LINE = re.compile(r"(\d+) answer tokens .* first token after (\d+) ms, then ([0-9.]+) tokens/s")
PREFILL_LINE = re.compile(r'^varve_prefill_tokens_total\{[^}]*kind="document"[^}]*\} ([0-9.e+]+)$', re.MULTILINE)


def make_text(args: argparse.Namespace) -> None:
    """The manual without its table of contents: from the second time that its first heading stands on a line."""
    manual = gzip.open(args.source, "rt", encoding="utf-8", errors="replace").read()
    headings = [m.start() for m in re.finditer(r"^(?:\* )?1\. Scope of This Document$", manual, re.MULTILINE)]
    text = manual[headings[-1]:] if headings else manual
    if len(text) < 200_000:
        sys.exit(f"quickstart.py: {args.source} has only {len(text)} characters of prose")
    args.out.write_text(text, encoding="utf-8")


def is_right(answer: str, value: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", answer) is not None


def ask(args: argparse.Namespace, question: str) -> tuple[str, str]:
    """Streams the answer of `varve ask` to the terminal. Returns it, and the line about its usage."""
    command = [args.varve, "ask", "--server", args.server, "--context", args.context, "--max-tokens", "64", "--usage", question]
    answer = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        while piece := asked.stdout.read1(4096):
            answer += piece
            sys.stdout.write(piece.decode(errors="replace").rstrip("\n"))
            sys.stdout.flush()
        usage = asked.stderr.read().decode(errors="replace")
    if asked.returncode != 0:
        sys.exit(f"\nquickstart.py: varve ask exited with {asked.returncode}: {usage.strip()}")
    return answer.decode(errors="replace").strip(), usage


def ask_all(args: argparse.Namespace) -> None:
    rows = []
    for number, row in enumerate(json.loads(args.questions.read_text()), start=1):
        print(f"{number:3}. {row['question']}\n     ", end="", flush=True)
        answer, usage = ask(args, row["question"])
        right = is_right(answer, row["answer"])
        print("" if right else f"   <- wrong: it is {row['answer']}")
        figures = USAGE_LINE.search(usage)
        if figures is None:
            sys.exit(f"quickstart.py: varve ask --usage printed no figures: {usage.strip()}")
        rows.append({"question": row["question"], "answer": answer, "right": right, "ttft_s": int(figures[2]) / 1000,
                     "tokens_per_s": float(figures[3])})
    args.out.write_text(json.dumps(rows, indent=1))
    print(f"{sum(row['right'] for row in rows)} of {len(rows)} right")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.read().decode()


def print_table(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def report(args: argparse.Namespace) -> None:
    context = json.loads(get(f"{args.server}/v1/contexts/{args.context}"))
    prefilled = PREFILL_LINE.search(get(f"{args.server}/metrics"))
    ingest = json.loads((args.work / "ingest.json").read_text())
    first, second = (json.loads((args.work / f"answers.{name}.json").read_text()) for name in ("first", "second"))
    usage, tokens = context["usage"], context["tokens"]
    durable_bytes = sum(file.stat().st_size for file in (args.work / "data").rglob("*") if file.is_file())
    answers = first + second
    rates = [row["tokens_per_s"] for row in answers if row["tokens_per_s"] > 0]
    figures = {
        "questions": len(first),
        "answers_right": sum(row["right"] for row in first),
        "answers_right_after_restart": sum(row["right"] for row in second),
        "tokens": tokens,
        "bytes_per_token": round(durable_bytes / tokens, 1),
        "bf16_bytes_per_token": round(usage["bf16_bytes"] / tokens, 1),
        "ingest_s": round(ingest["seconds"], 2),
        "reopen_s": args.reopen_s,
        "ttft_s": round(statistics.median(row["ttft_s"] for row in answers), 3),
        "tokens_per_s": round(statistics.median(rates), 1) if rates else 0.0,
    }
    if prefilled is None:
        sys.exit("quickstart.py: the server's metrics do not say how many document tokens it prefilled")
    prefilled_tokens = float(prefilled[1])
    mib = 1 << 20
    print()
    print_table([
        ("right answers", f"{figures['answers_right']} of {figures['questions']}, after the restart "
                          f"{figures['answers_right_after_restart']} of {figures['questions']}"),
        ("document tokens prefilled after the restart", f"{prefilled_tokens:.0f}"),
        ("tokens", f"{tokens:,}"),
        ("pages", f"{usage['pages']:,}"),
        ("host tier", f"{usage['host_bytes'] / mib:.1f} MiB"),
        ("disk tier", f"{usage['disk_bytes'] / mib:.1f} MiB ({durable_bytes / mib:.1f} MiB with the text and all bookkeeping)"),
        ("bytes per token", f"{figures['bytes_per_token']} (bf16: {figures['bf16_bytes_per_token']}, "
                            f"{figures['bf16_bytes_per_token'] / figures['bytes_per_token']:.2f} times as many)"),
        ("ingest", f"{figures['ingest_s']} s ({tokens / figures['ingest_s']:,.0f} tokens/s)"),
        ("reopen after the restart", f"{figures['reopen_s']} s"),
        ("time to first token", f"{figures['ttft_s'] * 1000:.0f} ms (median)"),
        ("answer speed", f"{figures['tokens_per_s']} tokens/s (median)"),
    ])
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if tokens < LEAST_TOKENS:
        sys.exit(f"quickstart: the document has {tokens} tokens; at least {LEAST_TOKENS} are wanted")
    if prefilled_tokens != 0:
        sys.exit(f"quickstart: the restarted server computed {prefilled_tokens:.0f} document tokens again")
    if min(figures["answers_right"], figures["answers_right_after_restart"]) < args.needed:
        sys.exit(f"quickstart: fewer than {args.needed} answers are right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    text = commands.add_parser("text")
    text.add_argument("--from", dest="source", type=Path, required=True)
    text.add_argument("--out", type=Path, required=True)
    text.set_defaults(run=make_text)
    asks = commands.add_parser("ask")
    asks.add_argument("--varve", required=True)
    asks.add_argument("--questions", type=Path, required=True)
    asks.add_argument("--out", type=Path, required=True)
    asks.set_defaults(run=ask_all)
    reports = commands.add_parser("report")
    reports.add_argument("--work", type=Path, required=True)
    reports.add_argument("--reopen-s", type=float, required=True)
    reports.add_argument("--needed", type=int, required=True)
    reports.add_argument("--json", type=Path)
    reports.set_defaults(run=report)
    for command in (asks, reports):
        command.add_argument("--server", required=True)
        command.add_argument("--context", required=True)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
