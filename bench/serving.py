"""Load a server: many clients, one image prompt in eight requests, and thousands of requests in a row.

    python -m bench.serving [--requests 2000] [--long 10000] [--clients 64] [--work FOLDER]

Three parts, each with a server of its own that runs as `basereward serve`:

- load: clients send requests about 20 prompts in bursts, with pauses, and check every score; those that get status 429
  try again. Printed are lost and wrong answers, and percentiles of latency.
- window: eight responses to one prompt with a picture of 896 x 896 pixels as eight requests at once, and one after the
  other, without kept prompts. Printed is how much faster they are at once.
- memory: the resident memory of the server's processes after each tenth of many requests, and how much it grew for each
  request of the second half.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import requests

from basereward.inference.scorer import Scorer, load_scorer
from bench.scoring import prepare
from bench.workloads import read_rows
from tests.helpers.served_model import save_scored_model, served_model

LOCAL = threading.local()


def post(address: str, body: dict[str, object]) -> tuple[list[float], int]:
    """The scores of a request, and how often it was refused before, because too many waited."""
    # A connection for each thread, as an RL trainer keeps one.
    if not hasattr(LOCAL, "session"):
        LOCAL.session = requests.Session()
    refused = 0
    while (answer := LOCAL.session.post(f"{address}/score", json=body, timeout=120)).status_code == 429:
        refused += 1
        time.sleep(random.uniform(0.5, 1.0) * float(answer.headers["Retry-After"]))
    answer.raise_for_status()
    scores: list[float] = answer.json()["scores"]
    return scores, refused


def load(model: Path, scorer: Scorer, *, number: int, clients: int) -> dict[str, float]:
    """Lost and wrong answers, requests that were refused and sent again, and latencies in milliseconds."""
    rng = random.Random(0)
    pairs = [(f"What is {rng.randint(0, 19)} + 1?", f"It is {rng.randint(0, 30)}.") for _ in range(number)]
    expected = {pair: scorer.score(pair[0], [pair[1]])[0] for pair in set(pairs)}
    latencies: list[float] = []
    results: list[float | None] = []
    refusals: list[int] = []

    def send(pair: tuple[str, str]) -> float | None:
        began = time.perf_counter()
        try:
            scores, refused = post(server.address, {"prompt": pair[0], "responses": [pair[1]]})
        except requests.RequestException:
            return None
        latencies.append(1000 * (time.perf_counter() - began))
        refusals.append(refused)
        return scores[0]

    with served_model(model) as server, ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        while len(results) < number:
            burst = rng.randint(clients, 4 * clients)
            results += pool.map(send, pairs[len(results) : len(results) + burst])
            time.sleep(0.05)
        seconds = time.perf_counter() - began
    wrong = sum(
        score is not None and abs(score - expected[pair]) > 1e-5 for score, pair in zip(results, pairs, strict=True)
    )
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "requests": number,
        "lost": results.count(None),
        "wrong": wrong,
        "refused_and_sent_again": sum(refusals),
        "requests_per_s": number / seconds,
        "ms_50": cuts[49],
        "ms_95": cuts[94],
        "ms_99": cuts[98],
    }


def window(work: Path, *, rounds: int) -> dict[str, float]:
    """Seconds of eight responses to one image prompt as requests at once and one after the other, and their ratio."""
    prepare(work).save(work / "model")
    rows = read_rows(work / "groups.jsonl")
    bodies: list[list[dict[str, object]]] = []
    for row in rows[:rounds]:
        contents = [base64.b64encode((work / path).read_bytes()).decode() for path in row["images"]]
        pictures = [f"data:image/png;base64,{content}" for content in contents]
        texts = [response[0]["content"] if isinstance(response, list) else response for response in row["responses"]]
        of_prompt: list[dict[str, object]] = []
        for number, text in enumerate((*texts, *texts)):
            # Distinct responses: equal ones would be scored once.
            of_prompt.append({"prompt": row["prompt"], "responses": [f"{text} {number}"], "images": pictures})
        bodies.append(of_prompt)
    times: dict[str, list[float]] = {"at once": [], "one by one": []}
    with (
        served_model(work / "model", "--window", "50", "--prefix-cache", "0") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        post(server.address, bodies[0][0])
        for of_prompt in bodies:
            began = time.perf_counter()
            list(pool.map(lambda body: post(server.address, body), of_prompt))
            times["at once"].append(time.perf_counter() - began)
            began = time.perf_counter()
            for body in of_prompt:
                post(server.address, body)
            times["one by one"].append(time.perf_counter() - began)
    at_once, one_by_one = (statistics.median(seconds) for seconds in times.values())
    return {"at_once_s": at_once, "one_by_one_s": one_by_one, "times_faster": one_by_one / at_once}


def memory(model: Path, *, number: int, clients: int) -> dict[str, Any]:
    """Resident memory of all processes of the server in MiB, after each tenth of the requests."""

    def send(index: int) -> None:
        # Every prompt comes three times, so that prompts are kept and dropped.
        post(server.address, {"prompt": f"Question {index // 3}?", "responses": [f"answer {index}"]})

    tenth = number // 10
    resident: list[float] = []
    # A small cache, which is full of prompts after the first tenths: with a large one, its filling looks like a leak.
    with served_model(model, "--prefix-cache", "4") as server, ThreadPoolExecutor(clients) as pool:
        for begin in range(0, number, tenth):
            list(pool.map(send, range(begin, begin + tenth)))
            resident.append(round(resident_mib(server.process.pid), 1))
    # The first half fills the cache of prompts and the pools of the allocators.
    half = resident[len(resident) // 2 :]
    kib_per_request = 1024 * (half[-1] - half[0]) / (tenth * (len(half) - 1))
    return {"requests": number, "mib": resident, "kib_per_request_of_second_half": kib_per_request}


def resident_mib(pid: int) -> float:
    """Resident memory of a process and its children in MiB.

    >>> import os
    >>> resident_mib(os.getpid()) > 0
    True
    """
    process = psutil.Process(pid)
    return float(sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one JSON object for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="of the first part (default: 2000)")
    parser.add_argument("--long", type=int, default=10_000, help="requests of the last part (default: 10000)")
    parser.add_argument("--clients", type=int, default=64, help="(default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="prompts of the second part (default: 5)")
    parser.add_argument("--work", type=Path, help="folder for models and rows (default: a temporary one)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        model = save_scored_model(work / "small", head="mlp")
        parts: dict[str, dict[str, Any]] = {
            "load": load(model, load_scorer(model), number=options.requests, clients=options.clients),
            "window": window(work, rounds=options.rounds),
            "memory": memory(model, number=options.long, clients=options.clients),
        }
        for name, figures in parts.items():
            rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
            print(json.dumps({"part": name} | rounded), flush=True)


if __name__ == "__main__":
    main()
