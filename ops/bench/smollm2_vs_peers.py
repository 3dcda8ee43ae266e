#!/usr/bin/env python3
"""Measures Varve, llama.cpp and Hugging Face transformers side by side on SmolLM2, on this machine.

Prefill is the time from a prompt of N tokens to the logits after it; decode is greedy, from N tokens on. Runs alternate:
each round measures every engine once at every length, so that a busy machine disturbs all alike. The table gives the median
and the best of the rounds. `cpu` is the share of its threads' time that an engine really got (median); below 0.9 the machine
was busy with something else, and tokens per second say little. Tokens per core-second, the best of the rounds, do not count
the time that others took; measure with --busy then, or threads that spin while they wait for a descheduled one count as work.
Varve's processor time is that of the whole process with loading, good for `cpu` only.
"""
import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS = ("llama.cpp-q4_1", "llama.cpp-f16", "transformers-bf16", "transformers-f32")


class Peer:
    """An engine that runs in a process of its own and obeys the orders of peer.py."""

    def __init__(self, name: str, command: list[str], log_dir: Path, environment: dict[str, str]):
        self.name = name
        self._log = log_dir / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                                             env=environment)
        self.version = self._answer()["ready"]

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            sys.exit(f"smollm2_vs_peers: {self.name} ended with code {self._process.returncode}; "
                     f"its last words are in {self._log}")
        return json.loads(line)

    def order(self, **order) -> dict:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def measure(self, num_tokens: int, num_decode: int, threads: int) -> list[dict]:
        ids = random.Random(num_tokens).choices(range(100, 49000), k=num_tokens)
        rows = []
        for phase, count, order in (("prefill", num_tokens, {"prefill": ids}), ("decode", num_decode, {"decode": num_decode})):
            took = self.order(**order)
            rows.append({"engine": self.name, "phase": phase, "tokens": num_tokens,
                         "tokens_per_s": count / took["seconds"], "tokens_per_core_s": count / took["cpu_seconds"],
                         "cpu": took["cpu_seconds"] / (took["seconds"] * threads)})
        return rows

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


class Varve:
    """`varve bench step`, a fresh process per round that measures once, with one worker and with eight."""
    name = "varve"

    def __init__(self, binary: Path, model: Path):
        self._binary, self._model = binary, model
        self.version = self._run(["version"]).strip().splitlines()[0]

    def _run(self, arguments: list[str]) -> str:
        done = subprocess.run([self._binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"smollm2_vs_peers: '{self._binary} {' '.join(arguments)}' ended with code {done.returncode}: "
                     f"{done.stderr.strip()[-500:]}")
        return done.stdout

    @staticmethod
    def _cpu_seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def measure(self, num_tokens: int, num_decode: int, threads: int) -> list[dict]:
        wall, cpu = time.perf_counter(), self._cpu_seconds()
        out = self._run(["bench", "step", "--model", str(self._model), "--tokens", str(num_tokens), "--workers", "1", "8",
                         "--threads", str(threads), "--decode-steps", str(num_decode), "--runs", "1", "--json"])
        share = (self._cpu_seconds() - cpu) / ((time.perf_counter() - wall) * threads)
        found = {(line["bench"], line["workers"]): line
                 for line in map(json.loads, filter(lambda line: line.startswith("{"), out.splitlines()))}
        rows = []
        for bench, phase in (("step_prefill", "prefill"), ("step_decode", "decode")):
            for workers in (1, 8):
                line = found.get((bench, workers))
                if line is None:
                    sys.exit(f"smollm2_vs_peers: 'varve bench step --json' printed no \"{bench}\" of {workers} workers")
                rows.append({"engine": f"varve-{line['codec']} x{workers}", "phase": phase, "tokens": num_tokens,
                             "tokens_per_s": line["tokens_per_s"], "tokens_per_core_s": None, "cpu": share,
                             "bpe": line["bpe"], "roof_fraction": line["roof_fraction"]})
        return rows

    def close(self) -> None:
        pass


def make_engines(args: argparse.Namespace, log_dir: Path) -> list:
    positions = str(max(args.tokens) + args.decode + 8)
    commands = {
        "llama.cpp-q4_1": [args.llama_python, HERE / "peer_llama_cpp.py", args.gguf, str(args.threads), positions],
        "llama.cpp-f16": [args.llama_python, HERE / "peer_llama_cpp.py", args.gguf_f16, str(args.threads), positions],
        "transformers-bf16": [sys.executable, HERE / "peer_transformers.py", args.model, str(args.threads), "bfloat16"],
        "transformers-f32": [sys.executable, HERE / "peer_transformers.py", args.model, str(args.threads), "float32"],
    }
    environment = dict(os.environ)
    if args.busy:
        environment |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
    engines = [Varve(args.varve, args.model)] if args.varve else []
    for name in args.peers:
        print(f"smollm2_vs_peers: loading {name}", file=sys.stderr)
        engines.append(Peer(name, [str(part) for part in commands[name]], log_dir, environment))
    return engines


def describe_machine() -> dict:
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True).stdout.strip()
    return {"cpu": model, "cores": os.cpu_count(), "load": os.getloadavg()[0], "commit": commit or None}


def summarise(samples: list[dict]) -> list[dict]:
    """One row per engine, phase and length; ratios are best Varve over best engine."""
    rows = []
    for key in dict.fromkeys((sample["engine"], sample["phase"], sample["tokens"]) for sample in samples):
        own = [sample for sample in samples if (sample["engine"], sample["phase"], sample["tokens"]) == key]
        rates = [sample["tokens_per_s"] for sample in own]
        core_rates = [sample["tokens_per_core_s"] for sample in own if sample["tokens_per_core_s"] is not None]
        rows.append({"engine": key[0], "phase": key[1], "tokens": key[2], "runs": len(own),
                     "median_tokens_per_s": statistics.median(rates), "best_tokens_per_s": max(rates),
                     "best_tokens_per_core_s": max(core_rates, default=None),
                     "cpu": statistics.median(sample["cpu"] for sample in own)})
    for row in rows:
        ours = [other["best_tokens_per_s"] for other in rows if other["engine"].startswith("varve")
                and (other["phase"], other["tokens"]) == (row["phase"], row["tokens"])]
        row["varve_ratio"] = max(ours) / row["best_tokens_per_s"] if ours else None
    return sorted(rows, key=lambda row: (row["phase"] != "prefill", row["tokens"]))


def print_table(rows: list[dict]) -> None:
    print(f"{'phase':8} {'tokens':>6}  {'engine':18} {'median tok/s':>12} {'best tok/s':>10} {'best tok/core-s':>15} "
          f"{'cpu':>5} {'varve best / its best':>21}")
    for row in rows:
        core, ratio = row["best_tokens_per_core_s"], row["varve_ratio"]
        print(f"{row['phase']:8} {row['tokens']:6}  {row['engine']:18} {row['median_tokens_per_s']:12.1f} "
              f"{row['best_tokens_per_s']:10.1f} {'' if core is None else f'{core:.1f}':>15} "
              f"{row['cpu']:5.2f} {'' if ratio is None else f'{ratio:.2f}':>21}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="smollm2_vs_peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("varve", nargs="?", type=Path, default=ROOT / "build/release/ops/cli/varve", metavar="VARVE",
                        help="the binary (default build/release/ops/cli/varve)")
    parser.add_argument("--peers-only", action="store_true", help="leave Varve out")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), metavar="PEER",
                        help=f"peers to measure (default all): {', '.join(PEERS)}")
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 7500], metavar="N",
                        help="prompt lengths (default 4096 7500; SmolLM2 has 8192 positions)")
    parser.add_argument("--decode", type=int, default=32, metavar="N", help="tokens to decode per run (default 32)")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="rounds (default 5)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of every engine (default 2)")
    parser.add_argument("--busy", action="store_true",
                        help="the machine is shared: threads of the peers sleep, instead of spinning, while they wait")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, versions, rows and samples")
    for name in ("--model", "--gguf", "--gguf-f16", "--llama-python"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)  # set by the script smollm2_vs_peers
    args = parser.parse_args()
    if args.model is None:
        parser.error("start ops/bench/smollm2_vs_peers, which brings model and peers and calls this")
    if args.peers_only:
        args.varve = None
    elif not args.varve.is_file():
        parser.error(f"there is no binary {args.varve}; build it, name another, or measure with --peers-only")
    if min(args.decode, args.runs, args.threads, *args.tokens) < 1 or max(args.tokens) + args.decode > 8192:
        parser.error("--tokens, --decode, --runs and --threads must be positive, and tokens plus decode at most 8192")
    return args


def main() -> None:
    args = parse_arguments()
    log_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "varve" / "bench"
    log_dir.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    engines = make_engines(args, log_dir)
    samples = []
    for run in range(args.runs):
        for num_tokens in args.tokens:
            for engine in engines:
                started = time.monotonic()
                samples += [row | {"run": run} for row in engine.measure(num_tokens, args.decode, args.threads)]
                print(f"smollm2_vs_peers: run {run + 1} of {args.runs}, {num_tokens} tokens, {engine.name}: "
                      f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    for engine in engines:
        engine.close()
    rows = summarise(samples)
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']:.1f} at the start; {args.threads} threads; "
          f"{args.runs} runs; {args.decode} tokens decoded")
    print("; ".join(f"{engine.name}: {engine.version}" for engine in engines))
    print_table(rows)
    if args.json:
        report = {"machine": machine, "threads": args.threads, "runs": args.runs, "decode": args.decode,
                  "versions": {engine.name: engine.version for engine in engines}, "rows": rows, "samples": samples}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
