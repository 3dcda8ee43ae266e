"""What a peer process is told and answers, one JSON object a line: {"prefill": ids} or {"decode": count} -> seconds.

The peers stay loaded while the others are measured, so that runs can alternate; they wait without using the processor.
"""
import json
import os
import sys
import time
from collections.abc import Callable


def timed(work: Callable[[], None]) -> dict[str, float]:
    """Wall time of `work`, and the processor time that all threads of this process spent on it."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def serve(version: str, prefill: Callable[[list[int]], None], decode: Callable[[int], None], answers) -> None:
    """Obeys stdin until it ends. `prefill` starts over with these tokens; `decode` adds that many, greedily."""
    print(json.dumps({"ready": version}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "prefill" in order:
            answer = timed(lambda: prefill(order["prefill"]))
        else:
            answer = timed(lambda: decode(order["decode"]))
        print(json.dumps(answer), file=answers, flush=True)


def claim_stdout():
    """The real stdout, for answers only: what libraries print goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers
