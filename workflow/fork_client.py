"""Starts a job of `stage.sh`: forked from the prepared process of the workflow, or else as a new one.

Called as `python fork_client.py -m common VERB …`. It stands for its job: it hands on the signals that it
gets, it ends as the job ends, and if it is killed the job is killed. Without a server, or if that refuses, it
becomes `python -m common VERB …`. It imports little, so that it starts in hundredths of a second.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys

SERVER = "STRUCTSEG_FORKS"
"""The environment variable with the socket of the server."""

SECONDS = 120.0
"""How long a server may take until it is ready."""

READY, STARTED = b"r", b"s"
"""What the server says, before the four bytes of the exit status."""

QUICK = ("prepare",)
"""Verbs that start faster than a server."""

FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGTSTP", "SIGCONT")


class Signals:
    """Hands signals on to a job; those that come before it has started are kept."""

    def __init__(self, connection: socket.socket) -> None:
        """Catches the signals from now on.

        Args:
            connection: To the server, which sends them on.
        """
        self.connection = connection
        self.kept: list[int] | None = []
        self.before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in FORWARDED}
        for number, handler in self.before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, self._catch)

    def _catch(self, number: int, _: object) -> None:
        if self.kept is None:
            self._send(number)
        else:
            self.kept.append(number)

    def _send(self, number: int) -> None:
        """A job without a terminal is not stopped by SIGTSTP."""
        stop = number == signal.SIGTSTP
        try:
            self.connection.sendall(bytes([signal.SIGSTOP if stop else number]))
        except OSError:  # it has ended
            return
        if stop:
            os.kill(os.getpid(), signal.SIGSTOP)

    def begin(self) -> None:
        """The job has started."""
        kept, self.kept = self.kept or [], None
        for number in kept:
            self._send(number)

    def release(self) -> None:
        """There is no job: the signals are this process's own."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        for number in self.kept or []:
            os.kill(os.getpid(), number)


def main() -> None:
    """Runs the job that the arguments describe, and ends as it does."""
    arguments = sys.argv[1:]
    status = None if arguments[2] in QUICK else _forked(arguments)
    if status is None:
        os.execv(sys.executable, [sys.executable, *arguments])
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _forked(arguments: list[str]) -> int | None:
    """Runs a job in the server; returns its status as `waitpid` does, or None if it was not started."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS)
        try:
            connection.connect(os.environ.get(SERVER, ""))
            if connection.recv(1) != READY:
                return None
        except OSError:  # no server, or one that is not ready
            return None
        connection.settimeout(None)
        signals = Signals(connection)
        if not _asked(connection, arguments):
            signals.release()
            return None
        signals.begin()
        status = _status(connection)
    return status


def _asked(connection: socket.socket, arguments: list[str]) -> bool:
    """Asks for a job; returns whether it was started."""
    umask = os.umask(0)
    os.umask(umask)
    request = {
        "arguments": arguments,
        "cwd": os.getcwd(),  # noqa: PTH109 - pathlib takes longer to import
        "environment": dict(os.environ),
        "umask": umask,
    }
    text = json.dumps(request).encode()
    try:
        socket.send_fds(connection, [struct.pack("!I", len(text))], [0, 1, 2])
        connection.sendall(text)
        return connection.recv(1) == STARTED
    except OSError:  # it has refused, or died
        return False


def _status(connection: socket.socket) -> int:
    """The exit status of the job; that of one that was killed if it died together with the server."""
    answer = b""
    try:
        while len(answer) < 4:
            part = connection.recv(4 - len(answer))
            if not part:
                break
            answer += part
    except OSError:
        pass
    return struct.unpack("!i", answer)[0] if len(answer) == 4 else int(signal.SIGKILL)


if __name__ == "__main__":
    main()
