"""A relay behind a network whose cable can be pulled. Needs root, and `ip`."""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import subprocess
import threading
from pathlib import Path

from tests.relay import Relay

_CLONE_NEWNET = 0x40000000
# Of the range that RFC 2544 keeps for trials.
_HERE, _THERE = "198.18.0.1", "198.18.0.2"
_numbers = itertools.count()


class NetworkRelay(Relay):
    """A Relay that listens in a network namespace of its own, joined to this machine by a cable."""

    def __init__(self, target: str) -> None:
        self._device, self._peer = f"il{os.getpid()}n{next(_numbers)}", "eth0"
        self._name = f"imageload-{self._device}"
        _ip("netns", "add", self._name)
        _ip("link", "add", self._device, "type", "veth", "peer", self._peer, "netns", self._name)
        _ip("addr", "add", f"{_HERE}/30", "dev", self._device)
        _ip("link", "set", self._device, "up")
        _ip("-n", self._name, "addr", "add", f"{_THERE}/30", "dev", self._peer)
        self.join()
        super().__init__(target)

    def cut(self) -> None:
        """No packet passes; no connection is told."""
        _ip("-n", self._name, "link", "set", self._peer, "down")

    def join(self) -> None:
        """Packets pass again."""
        _ip("-n", self._name, "link", "set", self._peer, "up")

    def take_away(self) -> None:
        """Remove the network."""
        super().take_away()
        _ip("link", "del", self._device)  # a namespace lives on while a socket of it is open
        _ip("netns", "del", self._name)

    def _listen(self, port: int) -> socket.socket:
        made: list[socket.socket] = []
        # A namespace is entered by a thread, so one of its own makes the socket.
        thread = threading.Thread(target=lambda: made.append(self._listen_there(port)))
        thread.start()
        thread.join()
        return made[0]

    def _listen_there(self, port: int) -> socket.socket:
        descriptor = os.open(Path("/run/netns") / self._name, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)
        return socket.create_server((_THERE, port))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
