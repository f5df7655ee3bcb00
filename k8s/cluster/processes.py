"""Processes, devices and folders of a run, all of which are gone after it, however it ends."""

import os
import pathlib
import shutil
import signal
import subprocess
import time


class Failed(Exception):
    """A step did not come to what it promises; the text says what was seen."""


class Ended(Failed):
    """A process that was to go on has ended."""


def call(*command, check=True, **options):
    """Runs a program to its end and returns what it wrote; fails with its complaint."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, **{"timeout": 900} | options)
    if check and done.returncode:
        raise Failed(f"{' '.join(words[:6])}: ended with {done.returncode}: {(done.stderr + done.stdout).strip()[-2000:]}")
    return done


def wait_for(what, seconds, condition, pause=0.5):
    """Waits until `condition` gives something, and returns it. It may fail meanwhile; its last complaint is then told."""
    end = time.monotonic() + seconds
    last = ""
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except Ended:
            raise
        except (Failed, OSError, ValueError, KeyError) as error:
            last = f"; {error}"
        time.sleep(pause)
    raise Failed(f"{what}: not within {seconds} seconds{last}")


class Run:
    """A folder for everything that a run writes, and the processes that it started."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.started = []
        self.undo = []

    def later(self, undo, *arguments):
        """Remembers what is to be undone at the end; the last first."""
        self.undo.append((undo, arguments))

    def start(self, name, *command, env=None, wait=0.0):
        """Starts a process that goes on, with its output in the run's folder."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [str(word) for word in command], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=os.environ | (env or {}), start_new_session=True,
            )
        self.started.append((name, process))
        time.sleep(wait)
        return process

    def alive(self):
        """Fails where one of the processes has ended."""
        for name, process in self.started:
            if process.poll() is not None:
                tail = "\n".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-15:])
                raise Ended(f"{name} ended with {process.returncode}:\n{tail}")

    def stop(self, name):
        """Stops one of them, by its own id and that of its group."""
        for entry in [entry for entry in self.started if entry[0] == name]:
            end(entry[1])
            self.started.remove(entry)

    def close(self):
        """Undoes everything, whatever fails on the way."""
        for undo, arguments in reversed(self.undo):
            try:
                undo(*arguments)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                print(f"             left behind: {error}")
        for _, process in reversed(self.started):
            end(process)
        self.started.clear()
        unmount(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def end(process):
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass


def unmount(folder):
    """Unmounts everything under a folder, the deepest first."""
    lines = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].encode().decode("unicode_escape") for line in lines]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), key=len, reverse=True):
        call("umount", "--lazy", point, check=False)
