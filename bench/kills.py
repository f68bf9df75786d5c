"""Kill commands with SIGKILL at their events, run them again, and compare with an undisturbed run.

python -m bench.kills                               200 kills: about 18 of each of eleven scenarios, two at a time
python -m bench.kills --scenarios train probe --kills 10 --jobs 1 --seed 3

An event is an effect on a file, a connection or a step of training, validation or test, in any process of the command:
see `bench/kill_hook`. Kills are spread evenly over the events of the undisturbed command, so that each named moment (a
new folder, lengths, a part of a checkpoint, a validation, a merge, the model, the result, a delivery) is met. After a
kill the command is run again until it ends well, at most three times. Then are compared: the bits of models, scores and
results; every metric of every run in MLflow, by name and step; and what is left over. The last line prints counts, and
the exit code is 1 when any comparison fails.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("--profile", str(ROOT / "tests" / "small.yaml"))
# Metrics that no two runs share.
TIMED = ("time/", "mem/", "perf/", "system/", "train/step_s", "train/profiling")
# Outputs of the stages of a pipeline: rows of data, and the pairs of an evaluation with their verdicts.
ROWS = ("rows.jsonl", "rows.disagreed.jsonl", "items.jsonl")
LEFT_OVER = ("*.new", "*.part", "*.tmp", ".model-*", ".making.*", ".*.new", ".*.tmp", ".*.part", ".*.partial")
TRIES = 3
LIMIT_S = 600.0


@dataclass(frozen=True)
class Scenario:
    """A command, and how it continues after a kill.

    Args:
        name: for the table.
        first: the command line after `basereward`.
        prepare: commands that are run once, before any kill.
        resumes: whether `--resume RUN` continues a killed run.
        outputs: files to compare, as patterns below the folder.
        judge: whether the command calls an endpoint, whose address replaces URL in `first`.

    >>> Scenario("list", ("ls", "runs")).resumes
    False
    """

    name: str
    first: tuple[str, ...]
    prepare: tuple[tuple[str, ...], ...] = ()
    resumes: bool = False
    outputs: tuple[str, ...] = ("runs/*/model/**/*.safetensors", "runs/*/scores/*.jsonl")
    judge: bool = False


TRAIN = ("train", "basereward", *SMALL)
VALIDATED = ("trainer.steps=8", "trainer.validations=2", "data.sources.numbers.val_size=200")
SCENARIOS = (
    Scenario("train", (*TRAIN, *VALIDATED), resumes=True),
    Scenario("train, checkpoint_every", (*TRAIN, *VALIDATED, "trainer.checkpoint_every=2"), resumes=True),
    Scenario("train, LoRA merged", (*TRAIN, "model.lora={rank: 2, merge: true}"), resumes=True),
    Scenario(
        "train, critic",
        (
            *(*TRAIN, "model.head={_target_: critic, prompt: critique_brief, max_tokens: 8}"),
            "data.sources.numbers=null",
            "data.sources.digits={include: sources/digits, size: 24, copies: 1, val_size: 12, test_size: 12}",
        ),
        resumes=True,
    ),
    Scenario("train, probe", (*TRAIN, "probe=true"), resumes=True),
    Scenario(
        "train, streaming with workers",
        (
            *(*TRAIN, "data.streaming={buffer: 8, held_out: 4}", "data.workers=2"),
            *("data.sources.numbers=null", "data.sources.pairs={_target_: jsonl, path: pairs.jsonl}"),
        ),
        resumes=True,
    ),
    Scenario("sweep with an ensemble", ("sweep", "kills.yaml", *SMALL), outputs=("runs/*/scores/*.jsonl",)),
    Scenario(
        "eval",
        ("eval", "MODEL", "--benchmark", "vl_rewardbench", "data=rows.json", "--allow-partial", "--out", "evaluation"),
        prepare=(TRAIN,),
        outputs=("evaluation/**/scores.jsonl",),
    ),
    Scenario(
        "annotate",
        (
            *("annotate", "pairs.jsonl", "val=0", "test=0", "--model", "judge", "--endpoint", "URL"),
            *("--out", "annotated.jsonl", "--concurrency", "4"),
        ),
        outputs=("annotated.jsonl",),
        judge=True,
    ),
    Scenario(
        "pipeline",
        ("train", "pipeline.yaml", *SMALL, "--trust", "stages.annotate.endpoint=URL"),
        # Without the stored answers, whose order is that in which they arrive.
        outputs=("runs/*/outputs/rows.jsonl", "runs/*/outputs/rows.disagreed.jsonl", "runs/*/model/**/*.safetensors"),
        judge=True,
    ),
    Scenario(
        "report",
        ("report", "kills.yaml", *SMALL, "--out", "page.html"),
        prepare=(("sweep", "kills.yaml", *SMALL),),
        outputs=("**/numbers.csv",),
    ),
)

# The chain of R1-Reward at its smallest: the judge annotates with up to three attempts. A tiny one learns from its
# texts, then by reinforcement on the pairs that took several attempts, and is asked in both orders and for votes.
PIPELINE = """# A judge whose texts a tiny one learns.
include: basereward
model: {head: {_target_: generative, thinking: true, max_tokens: 6, prompt: pairwise_brief}}
data: {sources: {numbers: null}}
trainer: {steps: 2, validations: 1}
stages:
  annotate:
    _target_: annotate
    source: {_target_: jsonl, path: pairs.jsonl, val: 0.0, test: 0.0}
    model: judge
    endpoint: URL
    prompt: pairwise_brief
    attempts: 3
    concurrency: 4
  cold_start:
    _target_: train
    recipe: {data: {sources: {annotated: {_target_: jsonl, path: "${annotate.rows}", val: 0.25, test: 0.25}}}}
  hard: {_target_: select, rows: ["${annotate.rows}", "${annotate.unsolved}"], at_least: 2}
  reinforce:
    _target_: train
    recipe:
      model: {start: "${cold_start.run}"}
      # Without validations, which would keep the weights of the start if no step is better.
      data: {sources: {hard: {_target_: jsonl, path: "${hard.rows}", val: 0.0, test: 0.25}}}
      objective:
        _target_: stable_reinforce
        reward: {_target_: bench.kill_reward.LetterReward}
        rollouts_per_prompt: 2
        max_tokens: 8
        held_out: 2
      batch: {groups: 4, groups_per_forward: 4}
      trainer: {checkpoint_every: 1}
  evaluate: {_target_: evaluate, model: "${reinforce.run}", data: evaluated.jsonl, votes: 3}
"""


@dataclass
class Outcome:
    """The result of one kill: no faults when everything equals the undisturbed run.

    >>> Outcome("train", "step training_step").faults
    []
    """

    scenario: str
    event: str
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


class CommandServer:
    """Runs commands in forks of `bench.fork_server`, one at a time for each thread."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def run(self, words: list[str], *, folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
        """Exit code, standard output and standard error; the code is -9 for a killed command, 124 after `LIMIT_S`."""
        server = self._server()
        files = {name: folder.with_suffix(f".{name}") for name in ("out", "error")}
        request = {"words": words, "folder": str(folder), "environment": environment}
        request |= {name: str(path) for name, path in files.items()}
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        process = int(server.stdout.readline())
        expired = threading.Event()

        def end() -> None:
            expired.set()
            os.killpg(process, signal.SIGKILL)

        timer = threading.Timer(LIMIT_S, end)
        timer.start()
        code = int(server.stdout.readline())
        timer.cancel()
        out, error = (path.read_text(errors="replace") for path in files.values())
        return (124, out, f"longer than {LIMIT_S:.0f} s\n{error}") if expired.is_set() else (code, out, error)

    def _server(self) -> subprocess.Popen[str]:
        """The server of the current thread."""
        if not hasattr(self._of_thread, "server"):
            server = subprocess.Popen(
                [sys.executable, "-m", "bench.fork_server"],
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            self._of_thread.server = server
        running: subprocess.Popen[str] = self._of_thread.server
        return running


class Workspace:
    """A folder in which a scenario runs: its own runs, cache and tracking store.

    >>> workspace = Workspace(Path("/tmp/kill-1"), server=CommandServer())
    >>> workspace.environment(None, hooked=False)["BASEREWARD_RUNS"]
    '/tmp/kill-1/runs'
    """

    def __init__(self, folder: Path, *, server: CommandServer, url: str = "") -> None:
        self.folder = folder
        self.server = server
        self.url = url

    def environment(self, at: int | None, *, hooked: bool) -> dict[str, str]:
        """The variables of a command."""
        variables = {
            "BASEREWARD_RUNS": str(self.folder / "runs"),
            "BASEREWARD_CACHE": str(self.folder / "cache"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "BASEREWARD_EXPERIMENTS": str(ROOT / "experiments"),
            "HF_HUB_OFFLINE": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([*([str(ROOT / "bench" / "kill_hook")] if hooked else []), str(ROOT)]),
        }
        if hooked:
            hook = {"folder": str(self.folder), "events": str(self.events), "at": at}
            variables["BENCH_KILL"] = json.dumps(hook)
        return {**os.environ, **variables}

    @property
    def events(self) -> Path:
        """The file that all processes of a command append their events to."""
        return self.folder.with_suffix(".events")

    def run(self, words: tuple[str, ...], *, at: int | None = None, hooked: bool = False) -> tuple[int, str]:
        """Exit code and standard error of a command; -9 when it was killed."""
        model = (self.folder / "model.txt").read_text() if (self.folder / "model.txt").exists() else ""
        command = [word.replace("URL", self.url) if word.endswith("URL") else word for word in words]
        command = [model if word == "MODEL" else word for word in command]
        code, out, error = self.server.run(
            [*command, "--json"], folder=self.folder, environment=self.environment(at, hooked=hooked)
        )
        result = json.loads(out) if code == 0 and words[0] == "train" else {}
        if "run_id" in result:
            (self.folder / "model.txt").write_text(result["run_id"])
        return code, error

    def unfinished(self) -> list[str]:
        """Ids of training runs that are not finished, by their folders."""
        names = []
        for path in self.folder.glob("runs/*/status.json"):
            status = json.loads(path.read_text())
            if status["state"] != "finished" and status.get("kind", "run") == "run":
                names.append(path.parent.name)
        return names


def comparable(scenario: Scenario, workspace: Workspace) -> dict[str, Any]:
    """What must be equal after a kill: hashes of outputs, and the metrics of every finished run in MLflow.

    >>> comparable(Scenario("list", ("ls", "runs")), Workspace(Path("/not/there"), server=CommandServer()))
    {'outputs': [], 'metrics': [], 'counts': []}
    """
    hashes: list[str] = []
    for pattern in scenario.outputs:
        for path in sorted(workspace.folder.glob(pattern)):
            kind = path.name
            hashes.append(f"{kind} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}")
    # Runs are compared by their content, since their names and times differ.
    metrics = sorted(set(map(str, _metrics(workspace).values())))
    return {"outputs": sorted(set(hashes)), "metrics": metrics, "counts": _counts(workspace)}


def _counts(workspace: Workspace) -> list[str]:
    """How many rows were annotated and selected, steps trained and verdicts recorded, in the finished runs."""
    counts: list[str] = []
    for path in sorted(workspace.folder.glob("runs/*/outputs/**/*.jsonl")):
        if path.name in ROWS:
            counts.append(f"{path.parent.name}/{path.name}: {len(path.read_text().splitlines())} rows")
    for records in _metrics(workspace).values():
        steps = [step for name, step, _ in records if name == "train/loss"]
        if steps:
            counts.append(f"trained: {len(steps)} steps")
    return sorted(counts)


def _metrics(workspace: Workspace) -> dict[str, list[tuple[str, int, str]]]:
    """Every record of a metric, by run: name, step, value."""
    metrics: dict[str, list[tuple[str, int, str]]] = {}
    if not (workspace.folder / "mlflow.db").exists():
        return metrics
    with contextlib.closing(sqlite3.connect(workspace.folder / "mlflow.db")) as store:
        runs = store.execute("select run_uuid from runs where status = 'FINISHED'").fetchall()
        for (run,) in runs:
            rows = store.execute("select key, step, value, is_nan from metrics where run_uuid = ?", (run,)).fetchall()
            records = []
            for key, step, value, is_nan in rows:
                # The step of an evaluation is the time at which it was recorded.
                comparable_step = 0 if key.startswith(("eval/", "eval_partial/")) else step
                if not key.startswith(TIMED):
                    records.append((key, comparable_step, "nan" if is_nan else repr(value)))
            metrics[run] = sorted(records)
    return metrics


def faults_of(scenario: Scenario, workspace: Workspace, expected: dict[str, Any]) -> list[str]:
    """Differences from an undisturbed run, and leftovers."""
    faults = []
    reached = comparable(scenario, workspace)
    for name, value in expected.items():
        if reached[name] != value:
            faults.append(f"{name} differ: {_difference(value, reached[name])}")
    faults += _recorded_twice(workspace)
    faults += _still_running(workspace)
    faults += _done_twice(workspace)
    leftovers: set[str] = set()
    for pattern in LEFT_OVER:
        leftovers |= {path.relative_to(workspace.folder).as_posix() for path in workspace.folder.rglob(pattern)}
    if leftovers:
        faults.append(f"left over: {', '.join(sorted(leftovers)[:4])}")
    return faults


def _recorded_twice(workspace: Workspace) -> list[str]:
    """Metrics that MLflow has more than once for one step: the records of a killed run were sent again."""
    faults = []
    for run, records in _metrics(workspace).items():
        counts = collections.Counter((name, step) for name, step, _ in records)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            faults.append(f"recorded twice in {run}: {twice[:3]}")
    return faults


def _still_running(workspace: Workspace) -> list[str]:
    """Runs that MLflow or their own folder shows as running."""
    faults = []
    if (workspace.folder / "mlflow.db").exists():
        with contextlib.closing(sqlite3.connect(workspace.folder / "mlflow.db")) as store:
            running = store.execute("select count(*) from runs where status = 'RUNNING'").fetchone()[0]
        if running:
            faults.append(f"{running} RUNNING in MLflow")
    for path in workspace.folder.glob("runs/*/status.json"):
        if json.loads(path.read_text())["state"] == "running":
            faults.append(f"{path.parent.name} is running")
    return faults


def _done_twice(workspace: Workspace) -> list[str]:
    """Recipes and stages with two finished runs, and answers that a judge gave twice."""
    finished: collections.Counter[tuple[str, str]] = collections.Counter()
    for path in workspace.folder.glob("runs/*/status.json"):
        status = json.loads(path.read_text())
        if status["state"] == "finished" and status["recipe_sha256"]:
            finished[status["name"], status["recipe_sha256"]] += 1
    faults = [f"{name} was finished {count} times" for (name, _), count in finished.items() if count > 1]
    return faults + _answers_twice(workspace) + _rows_twice(workspace)


def _rows_twice(workspace: Workspace) -> list[str]:
    """Rows that a stage has written more than once into one file."""
    faults = []
    for path in workspace.folder.glob("runs/*/outputs/**/*.jsonl"):
        if path.name in ROWS:
            rows = collections.Counter(path.read_text().splitlines())
            twice = [row for row, count in rows.items() if count > 1]
            if twice:
                faults.append(f"{len(twice)} rows twice in {path.parent.name}/{path.name}: {twice[0]:.80}")
    return faults


def _answers_twice(workspace: Workspace) -> list[str]:
    faults = []
    for path in workspace.folder.glob("**/*.answers.jsonl"):
        answers = collections.Counter(json.loads(line).get("id") for line in path.read_text().splitlines()[1:])
        twice = [name for name, count in answers.items() if count > 1]
        if twice:
            faults.append(f"{len(twice)} answers twice in {path.name}: {twice[:3]}")
    return faults


def _difference(expected: list[str], reached: list[str]) -> str:
    missing, more = set(expected) - set(reached), set(reached) - set(expected)
    return f"{len(missing)} missing {sorted(missing)[:1]!s:.200}, {len(more)} more {sorted(more)[:1]!s:.200}"


def prepared(scenario: Scenario, base: Path, workspace: Workspace) -> Workspace:
    """Copy the inputs into a workspace, and run there what the scenario needs before its command.

    The runs of a copied folder would still be recorded in the store of the original, whose path they hold.
    """
    shutil.copytree(base, workspace.folder)
    for words in scenario.prepare:
        code, error = workspace.run(words)
        if code:
            raise SystemExit(f"{scenario.name}: {' '.join(words)} ended with exit code {code}\n{error[-2000:]}")
    return workspace


def undisturbed(
    scenario: Scenario, base: Path, work: Path, url: str, *, server: CommandServer
) -> tuple[dict[str, Any], list[str]]:
    """Run the command without a kill; return what is compared later, and its events in their order."""
    workspace = prepared(scenario, base, Workspace(work / "undisturbed", server=server, url=url))
    code, error = workspace.run(scenario.first, hooked=True)
    if code:
        raise SystemExit(f"{scenario.name}: exit code {code} without any kill\n{error[-2000:]}")
    lines = workspace.events.read_text(errors="replace").split("\n")
    return comparable(scenario, workspace), [line.strip() for line in lines if line.strip()]


def kill(
    scenario: Scenario, base: Path, work: Path, url: str, *, server: CommandServer, at: int, event: str, expected: Any
) -> Outcome:
    """Kill the command at one event, run it again, and compare."""
    began = time.perf_counter()
    outcome = Outcome(scenario.name, event)
    workspace = prepared(scenario, base, Workspace(work / f"kill-{at}", server=server, url=url))
    code, error = workspace.run(scenario.first, at=at, hooked=True)
    if code != -signal.SIGKILL:
        outcome.faults.append(f"not killed: exit code {code} {error[-300:]}")
    else:
        outcome.faults += run_again(scenario, workspace)
        outcome.faults += faults_of(scenario, workspace, expected)
    outcome.seconds = time.perf_counter() - began
    if not outcome.faults:
        shutil.rmtree(workspace.folder, ignore_errors=True)
    return outcome


def run_again(scenario: Scenario, workspace: Workspace) -> list[str]:
    """Run the command again until it succeeds, at most `TRIES` times; return faults."""
    error = ""
    for _ in range(TRIES):
        words = scenario.first
        run_id, is_finished = run_to_resume(workspace) if scenario.resumes else (None, False)
        if run_id is not None:
            words = (*words, "--resume", run_id)
        code, error = workspace.run(words)
        if "Traceback" in error:
            return [f"traceback: {error[-600:]}"]
        if code == 0 or (is_finished and code == 2 and "is finished" in error):
            return []
    return [f"does not end well: {error[-600:]}"]


def run_to_resume(workspace: Workspace) -> tuple[str | None, bool]:
    """The id of the run that a user would resume, and whether it is finished; None if no run has begun.

    A finished run was killed while its last records were uploaded. The next training uploads them, also one that is
    refused because there is nothing to resume.
    """
    stopped = workspace.unfinished()
    if stopped:
        return stopped[-1], False
    finished = [path.parent.name for path in workspace.folder.glob("runs/*/result.json")]
    return (finished[0], True) if finished else (None, False)


@contextlib.contextmanager
def judge() -> Iterator[str]:
    """An endpoint at an address of this machine, whose verdict depends on the request alone."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = self.rfile.read(int(self.headers["Content-Length"]))
            # Right in about half of the attempts, so that some pairs are solved at once, some later and some never.
            number = 1 + hashlib.sha256(request).digest()[0] % 2
            content = f"<think>Answer {number} is right.</think><answer>{number}</answer>"
            message = {"role": "assistant", "content": content}
            body = json.dumps({"choices": [{"message": message}], "usage": {}}).encode()
            # A judge that answers at once would be done before the kill.
            time.sleep(0.02)
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()


def write_inputs(folder: Path) -> None:
    """Writes the inputs of the scenarios: pairs, a benchmark with images, and an experiment with an ensemble.

    >>> folder = Path(tempfile.mkdtemp()) / "base"
    >>> write_inputs(folder)
    >>> len((folder / "pairs.jsonl").read_text().splitlines())
    40
    """
    import PIL.Image

    folder.mkdir(parents=True)
    pairs = [
        {"id": f"p{i}", "prompt": f"Question {i}?", "chosen": f"yes {i}", "rejected": f"no, not {i}"} for i in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "evaluated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs[:6]))
    rows = []
    for i in range(12):
        PIL.Image.new("RGB", (56, 56), (20 * i, 0, 0)).save(folder / f"{i}.png")
        name = ("wildvision", "RLAIF-V", "mathverse")[i % 3]
        answers = [f"There are {i}.", f"There are {i + 20}, I would say."]
        row = {"id": f"{name}-{i}", "query": f"How many are in {i}?", "response": answers, "image": f"{i}.png"}
        rows.append({**row, "human_ranking": [0, 1]})
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "kills.yaml").write_text(
        "# Two heads and their mean.\ninclude: basereward\ngrid: {model.head.layers: [1, 2]}\n"
        "ensembles: {average: {how: mean, members: ['*']}}\n"
    )
    (folder / "pipeline.yaml").write_text(PIPELINE)


def run_scenario(
    scenario: Scenario, work: Path, *, kills: int, seed: int, server: CommandServer, pool: concurrent.futures.Executor
) -> list[Outcome]:
    """All kills of one scenario, evenly spread over its events; `seed` shifts them."""
    base = work / "base"
    write_inputs(base)
    with judge() as url:
        expected, events = pool.submit(undisturbed, scenario, base, work, url, server=server).result()
        if expected["counts"]:
            print(f"{scenario.name}: {'; '.join(expected['counts'])}; {len(events)} events", flush=True)
        tasks = []
        # Evenly spread over the events, so that rare moments are met as well as the many steps of training.
        for number in range(kills):
            at = 1 + (number * len(events) + seed * 7) // kills % len(events)
            options: dict[str, Any] = {"server": server, "at": at, "event": events[at - 1], "expected": expected}
            tasks.append(pool.submit(kill, scenario, base, work / str(number), url, **options))
        outcomes = []
        for task in concurrent.futures.as_completed(tasks):
            outcomes.append(task.result())
            _print(outcomes[-1])
    return outcomes


def _print(outcome: Outcome) -> None:
    state = "; ".join(outcome.faults) if outcome.faults else "same"
    print(f"{outcome.scenario:32} {outcome.event:60.60} {outcome.seconds:5.0f} s  {state}", flush=True)


def table(outcomes: list[Outcome]) -> Iterator[str]:
    """Kills and exact outcomes by scenario.

    >>> list(table([Outcome("train", "step training_step")]))[-1]
    '| train | 1 | 1 | 1 |'
    """
    yield "| scenario | kills | the same | moments |"
    yield "|---|---|---|---|"
    for name in dict.fromkeys(outcome.scenario for outcome in outcomes):
        of_scenario = [outcome for outcome in outcomes if outcome.scenario == name]
        same = sum(not outcome.faults for outcome in of_scenario)
        events = {outcome.event for outcome in of_scenario}
        yield f"| {name} | {len(of_scenario)} | {same} | {len(events)} |"


def main() -> int:
    """Runs the scenarios and prints the table; 1 when a comparison fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="*", help="beginnings of the names of scenarios (default: all)")
    parser.add_argument("--kills", type=int, default=200, help="number of kills over all scenarios (default: 200)")
    parser.add_argument("--jobs", type=int, default=2, help="commands that run at the same time (default: 2)")
    parser.add_argument(
        "--seed", type=int, default=0, help="shifts the events at which commands are killed (default: 0)"
    )
    args = parser.parse_args()
    prefixes = tuple(args.scenarios or [scenario.name for scenario in SCENARIOS])
    chosen = [scenario for scenario in SCENARIOS if scenario.name.startswith(prefixes)]
    outcomes: list[Outcome] = []
    server = CommandServer()
    with (
        tempfile.TemporaryDirectory(prefix="basereward-kills-") as folder,
        concurrent.futures.ThreadPoolExecutor(args.jobs) as pool,
    ):
        for number, scenario in enumerate(chosen):
            # Whole numbers that differ by at most one and add up to the number of kills.
            share = args.kills * (number + 1) // len(chosen) - args.kills * number // len(chosen)
            work = Path(folder) / f"scenario-{number}"
            work.mkdir()
            outcomes += run_scenario(scenario, work, kills=share, seed=args.seed, server=server, pool=pool)
    print("\n".join(table(outcomes)))
    different = [outcome for outcome in outcomes if outcome.faults]
    print(f"{len(outcomes)} kills, {len(outcomes) - len(different)} the same, {len(different)} not")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
