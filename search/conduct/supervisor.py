"""Runs a search in a process of its own, and reports how that process ended.

When a raylet or the GCS is gone, Ray's C++ threads end the driver at once, without running any
Python. So does the kernel when memory runs out. Another process must be there to say so, to close
the runs and to return the exit code. It forks before anything heavy is imported, so it is cheap.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from search.execute.processes import children
from search.execute.stop_signal import RELAYED

# prctl(2)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# a terminal that is closed ends a search as SIGTERM does, and so do batch systems' warnings
ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
HANDLED = (*ENDING, signal.SIGTSTP, signal.SIGCONT)
LEAVE_S = 30.0  # for a process that has ended its work to exit


@dataclass(frozen=True)
class Death:
    """How the process ended that should have returned an exit code."""

    cause: str  # "SIGKILL", "exit code 1"
    was_signalled: bool  # the user had asked it to end


def supervised(work: Callable[[], int], died: Callable[[Death], int]) -> int:
    """Run ``work`` in a forked process and return the exit code that it returns.

    If the process ends without one, ``died`` says what to return. Whatever it leaves running is
    killed. Signals are forwarded. If this process is killed, the other one is, too.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    supervisor = os.getpid()
    reading, writing = os.pipe()  # closed on exec, so that no daemon holds it open
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(reading)
        _leave_group(supervisor)
        _reported(work, writing)
    os.close(writing)
    signals = _forward(child)
    try:
        code = _exit_code(reading, child)
        status = _wait(child, LEAVE_S if code is not None else None)
        _kill_orphans()
        if code is not None:
            return code
        return died(Death(_cause(status), bool(signals)))
    finally:
        os.close(reading)


def _leave_group(supervisor: int) -> None:
    """Leave the terminal's process group: a signal to it reaches the supervisor, which forwards."""
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it was killed before prctl
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def _reported(work: Callable[[], int], writing: int) -> NoReturn:
    """Run ``work``, report its exit code, and end this process."""
    code = 1  # of an exception, whose traceback Python prints
    try:
        code = work()
    finally:
        os.write(writing, bytes([code]))
        os.close(writing)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)  # Python would take a second to take the libraries apart


def _forward(child: int) -> list[int]:
    """Forward signals to the process; return the list to which those are added that end it."""
    ending: list[int] = []

    def tell(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    def end(number: int, _: FrameType | None) -> None:
        ending.append(number)
        tell(RELAYED)

    def pause(_number: int, _frame: FrameType | None) -> None:
        tell(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)

    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # by `nohup`
            signal.signal(number, end)
    signal.signal(signal.SIGTSTP, pause)
    signal.signal(signal.SIGCONT, lambda _number, _frame: tell(signal.SIGCONT))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    return ending


def _exit_code(reading: int, child: int) -> int | None:
    """Wait until the process reports its exit code; None if it ends without.

    Its own children may hold the pipe open after its end, so its end is watched, too.
    """
    if sys.platform == "linux":
        ended = os.pidfd_open(child)
        poll = select.poll()
        for descriptor in (reading, ended):
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        os.close(ended)
        if reading not in ready:
            return None
    code = os.read(reading, 1)
    return code[0] if code else None


def _wait(child: int, within_s: float | None) -> int:
    """Wait for the process's end; kill it after ``within_s``. Return its wait status."""
    if within_s is not None and sys.platform == "linux":
        descriptor = os.pidfd_open(child)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)  # it has ended
        if not poll.poll(1000 * within_s):
            os.kill(child, signal.SIGKILL)
        os.close(descriptor)
    return os.waitpid(child, 0)[1]


def _kill_orphans() -> None:
    """Kill what the process left: Ray's daemons, which are this process's children now."""
    while left := children():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
