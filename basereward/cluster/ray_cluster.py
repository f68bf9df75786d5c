"""A Ray cluster: starts one on this machine, or joins one that runs. Needs `pip install basereward[ray]`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any, Self

from basereward.cluster.shared_place import missing_files
from basereward.errors import ClusterError, format_bytes, sentence
from basereward.io.progress import phase

CONNECT_TIMEOUT_S = 10.0
"""Ray itself tries a wrong address for minutes."""
START_ATTEMPTS = 3
"""A busy machine may miss Ray's own limit of 30 s; at the next attempt the files of Ray are in the memory."""
AUTO = "auto"
ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Environment variable of Ray with the address of the cluster that a job runs on."""
AUTH_MODE = "RAY_AUTH_MODE"
"""Environment variable of Ray: `token`: every request needs a token; `disabled`: none does."""
# As Ray names them.
CPU, GPU, MEMORY = "CPU", "GPU", "memory"
CHECK_ADDRESS = "Give --address HOST:PORT as `ray start --head` prints it, or leave it out to use this machine alone"


class RayCluster:
    """A connection to a Ray cluster; a context manager that closes it. Use `connect` to make one.

    Args:
        ray: the module, connected.
        address: of the cluster; None: it was started for this process, and ends with it.
        auth_mode: value of `AUTH_MODE` before; None: it was not set.

    Attributes:
        ray: the module `ray`, so that only this package imports it.
        address: as given.

    Example:
        with connect(None) as cluster:
            cluster.require({"CPU": 2})
            square = cluster.ray.remote(lambda number: number**2)
            cluster.ray.get(square.remote(3))
    """

    def __init__(self, ray: ModuleType, address: str | None, *, auth_mode: str | None = None) -> None:
        # Any, because types of Ray's decorators would have to be stated at every use.
        self.ray: Any = ray
        self.address = address
        self._auth_mode = auth_mode

    def resources(self) -> dict[str, float]:
        """What all machines of the cluster have, in use or not: `CPU`, `GPU` (0 without one) and `memory` in bytes."""
        found = self.ray.cluster_resources()
        # Ray also counts each machine and each type of accelerator as a resource.
        return {name: float(found.get(name, 0.0)) for name in (CPU, GPU, MEMORY)}

    def largest_machine(self) -> dict[str, float]:
        """The most that one machine of the cluster has of each resource: what a single task can get."""
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        most: dict[str, float] = {}
        for name in (CPU, GPU, MEMORY):
            most[name] = max((float(machine.get(name, 0.0)) for machine in machines), default=0.0)
        return most

    def require(self, needed: Mapping[str, float], *, tasks: int = 1) -> None:
        """Checks that the cluster has what tasks that run at the same time need, used or not.

        Ray leaves a task pending for ever, and says nothing, when no machine has what it asks for.

        Args:
            needed: resources of one task, as `resources` names them.
            tasks: how many run at the same time.

        Raises:
            ClusterError: no machine has enough for one task, or all together have too little.
        """
        total, largest = self.resources(), self.largest_machine()
        for name, amount in needed.items():
            if amount > largest.get(name, 0.0) or amount * tasks > total.get(name, 0.0):
                of_each = f" for each of {tasks} tasks" if tasks > 1 else ""
                raise ClusterError(
                    f"{_quantity(name, amount)}{of_each} is needed, and {self.describe()} has "
                    f"{_quantity(name, total.get(name, 0.0))}, of which {_quantity(name, largest.get(name, 0.0))} on "
                    "its largest machine; ask for less, or add machines with `ray start --address`"
                )

    def missing_files(self, paths: Sequence[str], *, timeout_s: float | None = None) -> dict[str, list[str]]:
        """What machines of the cluster do not see.

        Args:
            paths: files and folders.
            timeout_s: seconds that the machines have to answer; None: no limit.

        Returns:
            The paths that a machine lacks, by its host name; machines that see all of them are left out.
        """
        look = self.ray.remote(num_cpus=0, max_retries=1)(missing_files)
        on_node = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        hosts, looks = [], []
        for node in self.ray.nodes():
            if node["Alive"]:
                hosts.append(node["NodeManagerHostname"])
                looks.append(look.options(scheduling_strategy=on_node(node["NodeID"], soft=False)).remote(list(paths)))
        answers = self.ray.get(looks, timeout=timeout_s)
        return {host: missing for host, missing in zip(hosts, answers, strict=True) if missing}

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error of a task says that its process or its machine is gone, and not that its work raised one."""
        errors = self.ray.exceptions
        return isinstance(error, errors.RayError) and not isinstance(
            error, (errors.RayTaskError, errors.RuntimeEnvSetupError, errors.TaskCancelledError)
        )

    def describe(self) -> str:
        """Names the cluster in a message."""
        return "this machine" if self.address is None else f"the cluster at {self.address}"

    def close(self) -> None:
        """Leaves the cluster; one that was started for this process ends."""
        self.ray.shutdown()
        _restore_auth_mode(self._auth_mode)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def connect(address: str | None, *, cpus: int | None = None) -> RayCluster:
    """Joins a Ray cluster, or starts one on this machine that ends with this process.

    Args:
        address: `HOST:PORT` of the head of a running cluster; `auto` for the one that `ray start` has started on this
            machine; None: the variable RAY_ADDRESS, which `ray job submit` sets, or else a cluster of this machine.
        cpus: CPUs of a cluster that is started; None: those of the machine.

    Raises:
        ClusterError: Ray is not installed, no cluster answers at the address, or none can be started.
    """
    auth_mode = os.environ.get(AUTH_MODE)
    ray = _import_ray()
    if address is None:
        address = os.environ.get(ADDRESS_VARIABLE) or None
    with phase("starting Ray" if address is None else f"joining the Ray cluster at {address}"):
        if address is None:
            _start(ray, cpus)
        else:
            _join(ray, check_address(address))
    return RayCluster(ray, address, auth_mode=auth_mode)


def check_address(address: str) -> str:
    """Checks that an address has the right form; nothing is connected.

    Raises:
        ClusterError: it is neither `auto` nor `HOST:PORT`.

    >>> check_address("head:6379"), check_address("auto")
    ('head:6379', 'auto')
    >>> check_address("ray://head:10001")
    Traceback (most recent call last):
        ...
    basereward.errors.ClusterError: the address 'ray://head:10001' is that of a Ray client, which cannot ... files...
    """
    if address == AUTO:
        return address
    if address.startswith("ray://"):
        raise ClusterError(
            f"the address '{address}' is that of a Ray client, which cannot see the files of the cluster. Run the "
            "command on a machine of the cluster with --address auto, or by `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ClusterError(f"the address '{address}' is neither HOST:PORT nor auto. {CHECK_ADDRESS}")
    return address


def _import_ray() -> ModuleType:
    # Ray reads both when it is imported. Nothing is sent to its makers.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Else a task without a GPU sees all of them in a later release of Ray, and this one warns about that at each start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    # Else a call after the end of the connection, as by a thread of Ray Data, starts a cluster of its own.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    # Its parts in C++ write warnings about Ray Data's own actors to standard error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"Ray is not installed ({error}): pip install 'basereward[ray]'") from error
    return ray


def _options() -> dict[str, Any]:
    # Output of tasks on other machines would be mixed with the command's own; what they raise arrives anyway.
    return {"log_to_driver": False, "logging_level": logging.CRITICAL, "ignore_reinit_error": False}


def _start(ray: Any, cpus: int | None) -> None:
    """
    Raises:
        ClusterError: Ray does not start.
    """
    auth_mode = os.environ.get(AUTH_MODE)
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **_options())
        # Ray raises `Exception` itself when its processes do not start in time.
        except Exception as error:
            ray.shutdown()
            _restore_auth_mode(auth_mode)
            if attempt == START_ATTEMPTS:
                raise ClusterError(
                    f"Ray does not start on this machine, in {attempt} attempts: {sentence(error)} Its log is in "
                    "/tmp/ray/session_latest/logs; the machine may be too busy or have too little memory"
                ) from error
        else:
            return


def _restore_auth_mode(before: str | None) -> None:
    """Restore the mode of authentication that Ray has changed: a local cluster makes this process require tokens.

    A cluster without tokens that this process joins later could not ask it which actors it still uses. It would take
    the actors of Ray Data for unused, and end them before they begin.
    """
    if os.environ.get(AUTH_MODE) == before:
        return
    if before is None:
        del os.environ[AUTH_MODE]
    else:
        os.environ[AUTH_MODE] = before
    raylet: Any = importlib.import_module("ray._raylet")
    # Ray caches the mode and the token. It resets the cache with these calls itself; they are not public API.
    with contextlib.suppress(AttributeError):
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def _join(ray: Any, address: str) -> None:
    """
    Raises:
        ClusterError: no cluster answers, or it cannot be joined.
    """
    if address != AUTO:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise ClusterError(f"no Ray cluster answers at '{address}': {sentence(error)} {CHECK_ADDRESS}") from error
    try:
        ray.init(address=address, **_options())
    # RuntimeError for another version of Ray or Python, ConnectionError for a missing cluster, and `Exception` itself.
    except Exception as error:
        ray.shutdown()
        raise ClusterError(
            f"the Ray cluster at '{address}' cannot be joined: {sentence(str(error).strip())} {CHECK_ADDRESS}. For a "
            "cluster that asks for a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where ~/.ray/auth_token is "
            "another one"
        ) from error


def _quantity(name: str, amount: float) -> str:
    return f"{format_bytes(amount)} of memory" if name == MEMORY else f"{amount:g} {name}"
