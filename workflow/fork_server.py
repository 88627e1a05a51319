"""A process that has imported what jobs need, and forks them: each is spared seconds of imports.

One belongs to each workflow on one machine. The Snakefile starts it, `fork_client.py` asks it for jobs, and
it ends when the workflow and its last job have ended. It only imports: it has one thread, computes nothing
and has not called CUDA, so that a forked job is as a new process. It refuses where it cannot be sure of that,
and then a new process is started: for another environment than its own, and once code was edited.

Jobs die with their client, and with the server: nobody would know of them any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common import compiler, provenance
from common.installation import IMPORTED_FROM, MODULE, PACKAGE
from common.machine.lock_files import lock_folder
from workflow.fork_client import READY, SERVER, STARTED

THREADS = ("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""The variables by which Snakemake says how many threads a job has. The server has one, whatever they say."""

LATER = {*THREADS, "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "TMPDIR", "TMP", "TEMP", "TEMPDIR"} | {
    *("PWD", "OLDPWD", "SHLVL", "_")
}
"""Variables that nothing looks at before a job has begun."""

FIRST = (
    *(f"{MODULE}.stages.{name}" for name in ("entry", "train", "evaluate", "measure", "controls")),
    "scipy.ndimage",
    "threadpoolctl",
)
"""What is imported before the first job is forked."""

THEN = (f"{MODULE}.stages.tabulate", f"{MODULE}.stages.report", f"{MODULE}.stages.tune")
"""What is imported when no job is asked for."""

SECONDS = 10.0
"""How long a client may take to say what it wants."""

_KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


@dataclass(frozen=True)
class Request:
    """A job that a client asks for.

    Attributes:
        arguments: Those of Python: `-m common VERB …`.
        cwd: The working directory.
        environment: The variables.
        umask: The rights that new files do not get.
    """

    arguments: list[str]
    cwd: str
    environment: dict[str, str]
    umask: int


def start() -> None:
    """Starts the server of this workflow and tells its jobs of it, by the environment.

    There is none if the variable is set already, or if the system has not what it takes.
    """
    if SERVER in os.environ or not hasattr(os, "pidfd_open"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        place = lock_folder(None) / f"forks-{os.getpid()}"
        place.unlink(missing_ok=True)  # of a process that had this number before
        listener.bind(str(place))
        listener.listen(socket.SOMAXCONN)
        paths = [str(IMPORTED_FROM), *filter(None, [os.environ.get("PYTHONPATH")])]
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"{PACKAGE}workflow.fork_server",
                *map(str, (os.getpid(), listener.fileno(), place)),
            ],
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(paths), SERVER: str(place)}
            | dict.fromkeys(THREADS, "1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # a terminal's signals are for the clients, which hand them on
        )
        os.environ[SERVER] = str(place)


@dataclass
class Job:
    """A job that runs.

    Attributes:
        process: Its number.
        end: A descriptor that can be read when it has ended.
        client: The connection to who has asked for it.
    """

    process: int
    end: int
    client: socket.socket


class Server:
    """Forks jobs for the clients of one workflow."""

    def __init__(self, listener: socket.socket, place: Path, owner: int) -> None:
        """Begins to serve.

        Args:
            listener: Where clients connect.
            place: The file of that socket.
            owner: The process of the workflow.

        Raises:
            OSError: That has ended.
        """
        self.listener: socket.socket | None = listener
        self.place = place
        self.process = os.getpid()
        self.owner = os.pidfd_open(owner)
        self.code = provenance.all_code()
        self.environment = _early(os.environ)
        self.selector = selectors.DefaultSelector()
        self.jobs: list[Job] = []
        self.left = list(THEN)

    def serve(self) -> Request | None:
        """Forks jobs until workflow and jobs have ended; in a forked job, returns what that is to do."""
        self.selector.register(self.owner, selectors.EVENT_READ)
        self.selector.register(self.listener, selectors.EVENT_READ)
        while self.listener or self.jobs:
            events = self.selector.select(0 if self.left else None)
            for key, _ in events:
                request = self._answer(key.fd)
                if request:
                    return request
            if not events and self.left:
                with contextlib.suppress(Exception), compiler.put_off():  # whoever needs it will say why
                    importlib.import_module(self.left.pop(0))
        return None

    def _answer(self, descriptor: int) -> Request | None:
        """Does what is due when a descriptor can be read."""
        if descriptor == self.owner:
            self._close()
        elif self.listener and descriptor == self.listener.fileno():
            return self._accept()
        for job in list(self.jobs):
            if descriptor == job.end:
                self._ended(job)
            elif descriptor == job.client.fileno():
                self._hand_on(job)
        return None

    def _close(self) -> None:
        """The workflow has ended: no more jobs."""
        self.selector.unregister(self.owner)
        if self.listener:
            self.selector.unregister(self.listener)
            self.listener.close()
        self.place.unlink(missing_ok=True)
        self.listener, self.left = None, []

    def _accept(self) -> Request | None:
        """Forks the job that a client asks for, if it can; in the job, returns what that is to do."""
        assert self.listener
        client, _ = self.listener.accept()
        descriptors: list[int] = []
        request = None
        try:
            client.settimeout(SECONDS)
            client.sendall(READY)
            request = _received(client, descriptors)
            process = os.fork() if self._can_run(request) else None
        except (
            OSError,
            ValueError,
            TypeError,
        ):  # a client that is gone, or none of ours; or no process to be had
            process = None
        if process == 0:
            assert request
            self._become(request, descriptors, client)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        if process is None or not self._started(process, client):
            client.close()  # it starts a new process
        return None

    def _can_run(self, request: Request) -> bool:
        """Whether a forked job would be as a new process."""
        threads = {request.environment.get(name) for name in THREADS}
        same = _early(request.environment) == self.environment and len(threads) == 1
        return same and request.arguments[:2] == ["-m", MODULE] and provenance.all_code() == self.code

    def _started(self, process: int, client: socket.socket) -> bool:
        """Takes note of a job, and tells its client; returns whether that knows."""
        try:
            end = os.pidfd_open(process)
            client.sendall(STARTED)
        except OSError:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return False
        job = Job(process, end, client)
        self.jobs.append(job)
        self.selector.register(job.end, selectors.EVENT_READ)
        self.selector.register(client, selectors.EVENT_READ)
        return True

    def _become(self, request: Request, descriptors: list[int], client: socket.socket) -> None:
        """Makes the forked process what the client would have become; ends it if that fails."""
        try:
            _die_with_parent(self.process)
            os.setpgid(0, 0)
            for standard, descriptor in enumerate(descriptors):
                os.dup2(descriptor, standard)
                os.close(descriptor)
            self._forget(client)
            os.chdir(request.cwd)
            os.umask(request.umask)
            os.environ.clear()
            os.environ.update(request.environment)
            tempfile.tempdir = None
            provenance.forget_code()
            _set_threads(request.environment.get(THREADS[0]))
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _forget(self, client: socket.socket) -> None:
        """Closes what is the server's."""
        self.selector.close()
        os.close(self.owner)
        client.close()
        if self.listener:
            self.listener.close()
        for job in self.jobs:
            os.close(job.end)
            job.client.close()

    def _ended(self, job: Job) -> None:
        """Tells a client how its job has ended."""
        _, status = os.waitpid(job.process, 0)
        with contextlib.suppress(OSError):
            job.client.sendall(struct.pack("!i", status))
        self.jobs.remove(job)
        for descriptor in (job.end, job.client):
            with contextlib.suppress(KeyError):
                self.selector.unregister(descriptor)
        os.close(job.end)
        job.client.close()

    def _hand_on(self, job: Job) -> None:
        """Sends a job the signals that its client gets; kills it if the client is gone."""
        try:
            numbers = job.client.recv(64)
        except OSError:
            numbers = b""
        if not numbers:
            self._kill(job)
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job.process, number)

    def _kill(self, job: Job) -> None:
        """Kills a job and what it has started; it is told of as of any that has ended."""
        with contextlib.suppress(KeyError):
            self.selector.unregister(job.client)
        with contextlib.suppress(ProcessLookupError):
            os.kill(job.process, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.killpg(job.process, signal.SIGKILL)


def _die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(_KILLED_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that modules may have looked at when they were imported."""
    return {name: value for name, value in environment.items() if name not in LATER}


def _received(client: socket.socket, descriptors: list[int]) -> Request:
    """What a client asks for.

    Args:
        client: The connection to it.
        descriptors: Its standard input, output and error output are added to it.

    Raises:
        OSError: It is gone, or too slow.
        ValueError: It is none of ours.
    """
    head, passed, _, _ = socket.recv_fds(client, 4, 3)
    descriptors += passed
    if len(head) < 4 or len(passed) < 3:
        raise ValueError("a client that does not say what it wants")
    (length,) = struct.unpack("!I", head)
    text = b""
    while len(text) < length:
        part = client.recv(min(65536, length - len(text)))
        if not part:
            raise ValueError("a client that is gone")
        text += part
    return Request(**json.loads(text))


def _set_threads(count: str | None) -> None:
    """Has the libraries use as many threads as they would in a new process, and gives NumPy another seed."""
    import numpy as np
    import threadpoolctl
    import torch

    threads = int(count) if count else len(os.sched_getaffinity(0))
    threadpoolctl.threadpool_limits(threads)
    torch.set_num_threads(threads)
    np.random.seed()


def main() -> None:
    """Serves; a forked job goes on as `python -m common VERB …` does."""
    owner, listener, place = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])), Path(sys.argv[3])
    server = Server(listener, place, owner)
    if os.getppid() != owner:  # it has ended, and the number may be another's
        return
    with compiler.put_off():
        for name in FIRST:
            importlib.import_module(name)
    sound = len([*Path("/proc/self/task").iterdir()]) == 1 and provenance.all_code() == server.code
    gc.collect()
    gc.freeze()
    if not sound:
        place.unlink(missing_ok=True)
        return
    request = server.serve()
    if request:
        sys.argv = request.arguments[1:]
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
