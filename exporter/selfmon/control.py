"""The control socket: how `zerospan status` asks the running agent.

A UNIX stream socket, agent.sock in the run folder, mode 0600 (the folder 0700). One request line, one answer:
"status" -> the pipeline's status as one line of JSON. Whoever may not open the socket learns nothing.
"""

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

SOCKET = "agent.sock"
REQUEST_MAX = 256
ANSWER_MAX = 16 << 20
TIMEOUT_S = 5.0


class ControlError(Exception):
    """There is no agent to ask, or one runs already."""


class ControlServer:
    """Built with the pipeline: the socket is bound at once, so that a second agent is refused before it starts."""

    def __init__(self, run_dir: str, status: Callable[[], dict[str, object]]) -> None:
        self.path = Path(run_dir) / SOCKET
        self._status = status
        self._thread: threading.Thread | None = None
        self._stopping = False
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _answers(self.path):
                raise ControlError(
                    f"an agent runs already ({self.path} answers); stop it, or give this one another --run-dir"
                )
            self.path.unlink(missing_ok=True)
            self._socket = socket.socket(socket.AF_UNIX)
            umask = os.umask(0o177)
            try:
                self._socket.bind(str(self.path))
            finally:
                os.umask(umask)
            self._socket.listen(8)
        except OSError as e:
            raise ControlError(f"control socket {self.path}: {e}; give another folder with --run-dir") from e

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes and removes the socket. May be called twice."""
        if self._stopping:
            return
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.path.unlink(missing_ok=True)
        if self._thread is not None:
            self._thread.join(TIMEOUT_S)

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer:
                try:
                    peer.settimeout(TIMEOUT_S)
                    self._answer(peer)
                except OSError as e:
                    log.debug("control socket: %s", e)
                except Exception:
                    log.exception("control socket: no answer could be made")

    def _answer(self, peer: socket.socket) -> None:
        request = b""
        while b"\n" not in request and len(request) < REQUEST_MAX:
            piece = peer.recv(REQUEST_MAX)
            if not piece:
                break
            request += piece
        word = request.partition(b"\n")[0].strip().decode("utf-8", "replace")
        answer: dict[str, object] = {"error": f"unknown request {word!r}"}
        if word == "status":
            answer = self._status()
        peer.sendall(json.dumps(answer).encode() + b"\n")


def ask(run_dir: str, request: str = "status") -> dict[str, object]:
    """The running agent's answer. ControlError if there is none."""
    path = Path(run_dir) / SOCKET
    data = bytearray()
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(TIMEOUT_S)
            s.connect(str(path))
            s.sendall(request.encode() + b"\n")
            while piece := s.recv(1 << 16):
                data += piece
                if len(data) > ANSWER_MAX:
                    raise ControlError(f"{path}: an answer of more than {ANSWER_MAX} bytes")
    except OSError as e:
        raise ControlError(
            f"no agent answers at {path} ({e.strerror or e}); start one with `zerospan run`, "
            "or name its folder with --run-dir"
        ) from e
    answer: dict[str, object] = json.loads(data)
    return answer


def _answers(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as s:
        s.settimeout(TIMEOUT_S)
        s.connect(str(path))
        return True
    return False
