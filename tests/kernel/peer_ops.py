"""The program of a traffic process: does what the test asks, one system call at a time.

Started by peer.Peer with pipes as stdin and stdout (pipes are no sockets, so they do not show in a capture).
Each message is a pickled (operation, arguments), answered with (True, result) or (False, error text).
Standard library only: the same file runs as an unprivileged process, in another cgroup or network namespace.
"""

import contextlib
import ctypes
import errno
import os
import pickle
import resource
import select
import socket
import struct
import subprocess
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000
SO_RCVBUF_SMALL = 4096


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class Mmsghdr(ctypes.Structure):
    _fields_ = [("hdr", Msghdr), ("len", ctypes.c_uint32)]


def vector(buffers):
    """A mmsghdr array of one iovec a message, and what must stay alive beside it."""
    vec = (Mmsghdr * len(buffers))()
    iovs = (Iovec * len(buffers))()
    for i, buffer in enumerate(buffers):
        iovs[i] = Iovec(ctypes.cast(buffer, ctypes.c_void_p), len(buffer))
        vec[i].hdr.iov = ctypes.pointer(iovs[i])
        vec[i].hdr.iovlen = 1
    return vec, iovs


def checked(n):
    if n < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return n


class Ops:
    """Sockets are named by their descriptor's number."""

    def __init__(self):
        self.socks = {}
        self.vectors = {}

    def keep(self, sock):
        self.socks[sock.fileno()] = sock
        return sock.fileno()

    # ---- life of a connection

    def listen(self, host, backlog=512, dual=False):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if dual:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, 0))
        sock.listen(backlog)
        return self.keep(sock), sock.getsockname()[1]

    def adopt(self, fd):
        """A descriptor that this process was born with."""
        return self.keep(socket.socket(fileno=fd))

    def connect(self, host, port):
        """(descriptor, local port)"""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.connect((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.keep(sock), sock.getsockname()[1]

    def reconnect(self, host, refused, port):
        """One socket that is refused first and accepted then."""
        sock = socket.socket()
        with contextlib.suppress(ConnectionRefusedError):
            sock.connect((host, refused))
            raise AssertionError("the port was expected to refuse")
        sock.connect((host, port))
        return self.keep(sock), sock.getsockname()[1]

    def accept(self, fd):
        sock, _ = self.socks[fd].accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.keep(sock)

    def shutdown(self, fd, how=socket.SHUT_WR):
        self.socks[fd].shutdown(how)

    def linger0(self, fd):
        self.socks[fd].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def cork(self, fd, on):
        self.socks[fd].setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)

    def close(self, fd):
        self.socks.pop(fd).close()

    def close_all(self):
        for sock in self.socks.values():
            sock.close()
        self.socks.clear()

    # ---- one call each

    def send(self, fd, data, flags=0):
        return self.socks[fd].send(data, flags)

    def write(self, fd, data):
        return os.write(fd, data)

    def writev(self, fd, parts):
        return os.writev(fd, parts)

    def sendmsg(self, fd, parts):
        return self.socks[fd].sendmsg(parts)

    def sendmmsg(self, fd, datas):
        """Bytes of each message that was sent."""
        vec, _alive = vector([ctypes.create_string_buffer(d, len(d)) for d in datas])
        n = checked(libc.sendmmsg(fd, vec, len(vec), 0))
        return [vec[i].len for i in range(n)]

    def send_zerocopy(self, fd, data):
        self.socks[fd].setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        n = self.socks[fd].send(data, MSG_ZEROCOPY)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:  # the kernel says when the pages are free again
            try:
                self.socks[fd].recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
                return n
            except BlockingIOError:
                select.select([], [], [], 0.001)
        raise TimeoutError("no zerocopy notification")

    def sendfile(self, fd, data):
        with memory_file(data) as f:
            done = 0
            while done < len(data):
                done += os.sendfile(fd, f, done, len(data) - done)
        return done

    def splice_from_pipe(self, fd, data):
        r, w = os.pipe()
        try:
            os.write(w, data)
            return os.splice(r, fd, len(data))
        finally:
            os.close(r)
            os.close(w)

    def splice_to_pipe(self, fd, n):
        r, w = os.pipe()
        try:
            got = os.splice(fd, w, n)
            return os.read(r, got)
        finally:
            os.close(r)
            os.close(w)

    def recv(self, fd, n=65536, flags=0):
        return self.socks[fd].recv(n, flags)

    def recv_trunc(self, fd, n):
        """MSG_TRUNC with a buffer of 4 bytes: TCP throws n away, UDP says how long the datagram was."""
        buffer = ctypes.create_string_buffer(b"\xaa" * 4096, 4096)
        got = checked(libc.recv(fd, buffer, n, socket.MSG_TRUNC))
        return got, buffer.raw[: min(n, 64)]

    def read(self, fd, n=65536):
        return os.read(fd, n)

    def readv(self, fd, sizes):
        buffers = [bytearray(n) for n in sizes]
        return os.readv(fd, buffers)

    def recvmsg(self, fd, sizes, flags=0):
        buffers = [bytearray(n) for n in sizes]
        return self.socks[fd].recvmsg_into(buffers, 0, flags)[0]

    def recvmmsg(self, fd, count, size=2048):
        """What was received, without waiting for `count`; into the same array each time, as servers do."""
        key = fd, count, size
        if key not in self.vectors:
            buffers = [ctypes.create_string_buffer(size) for _ in range(count)]
            self.vectors[key] = (buffers, *vector(buffers))
        buffers, vec, _ = self.vectors[key]
        MSG_WAITFORONE = 0x10000
        n = checked(libc.recvmmsg(fd, vec, count, MSG_WAITFORONE, None))
        return [buffers[i].raw[: vec[i].len] for i in range(n)]

    def recv_all(self, fd, n, piece=65536):
        """n bytes, in as many calls as it takes; the number of calls."""
        left, calls = n, 0
        while left:
            got = len(self.socks[fd].recv(min(left, piece)))
            if not got:
                raise EOFError(f"{n - left} of {n} bytes came")
            left -= got
            calls += 1
        return calls

    def send_all(self, fd, n, head=b"", piece=65536):
        """head and then n bytes of a body."""
        body = memoryview(b"b" * piece)
        if head:
            self.socks[fd].sendall(head)
        while n:
            n -= self.socks[fd].send(body[: min(n, piece)])

    # ---- many of them

    def ask(self, fd, n, request, answer_len):
        """n requests one after the other. request: bytes with one %d place, or without."""
        sock = self.socks[fd]
        for i in range(n):
            sock.sendall(request % i if b"%" in request else request)
            self.recv_all(fd, answer_len)

    def ask_split(self, fd, n, request, answer_len):
        """As ask(), each request in three calls."""
        sock = self.socks[fd]
        for i in range(n):
            whole = request % i
            for part in (whole[:2], whole[2:9], whole[9:]):
                sock.sendall(part)
            self.recv_all(fd, answer_len)

    def ask_fresh(self, host, port, n, request, answer_len):
        """n requests, each on a connection of its own."""
        for i in range(n):
            with socket.create_connection((host, port)) as sock:
                sock.sendall(request % i)
                left = answer_len
                while left:
                    got = len(sock.recv(left))
                    if not got:
                        raise EOFError
                    left -= got

    def answer(self, fd, n, request_len, answer):
        sock = self.socks[fd]
        for _ in range(n):
            self.recv_all(fd, request_len)
            sock.sendall(answer)

    def answer_sized(self, fd, request_len, head, body_len):
        self.recv_all(fd, request_len)
        self.send_all(fd, body_len, head)

    def serve(self, fd, request_len, answer):
        """Answers on every connection of a listening socket, in a thread, until stop_serving()."""
        self.stopping = False
        self.server = threading.Thread(target=self._serve, args=(fd, request_len, answer))
        self.server.start()

    def _serve(self, fd, request_len, answer):
        poll = select.epoll()
        listener = self.socks[fd]
        listener.setblocking(False)
        poll.register(fd, select.EPOLLIN)
        conns, have = {}, {}
        while not self.stopping:
            for ready, _ in poll.poll(0.02):
                if ready == fd:
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            sock, _ = listener.accept()
                            conns[sock.fileno()], have[sock.fileno()] = sock, 0
                            poll.register(sock.fileno(), select.EPOLLIN)
                    continue
                data = conns[ready].recv(request_len - have[ready])
                if not data:
                    conns.pop(ready).close()
                    continue
                have[ready] += len(data)
                if have[ready] == request_len:
                    have[ready] = 0
                    conns[ready].sendall(answer)
        for sock in conns.values():
            sock.close()

    def stop_serving(self):
        self.stopping = True
        self.server.join()

    def ask_many(self, host, port, conns, each, request, answer_len):
        """`conns` connections open at once, `each` requests on each, from 4 threads; their local ports."""
        raise_limit(conns + 1000)
        ports, lock = [], threading.Lock()

        def worker(count):
            socks = [socket.create_connection((host, port)) for _ in range(count)]
            with lock:
                ports.extend(s.getsockname()[1] for s in socks)
            for i in range(each):
                for sock in socks:
                    sock.sendall(request % i)
                for sock in socks:
                    left = answer_len
                    while left:
                        left -= len(sock.recv(left)) or left
            for sock in socks:
                sock.close()

        threads = [threading.Thread(target=worker, args=(conns // 4,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ports

    def crowd(self, host, port, n):
        """n connections that say nothing."""
        raise_limit(n + 1000)
        return [self.connect(host, port)[0] for _ in range(n)]

    def accept_crowd(self, fd, n):
        raise_limit(n + 1000)
        return [self.accept(fd) for _ in range(n)]

    def ask_two_threads(self, fd, n, request, answer_len):
        """One thread writes, another one reads, as HTTP clients of some languages do."""
        answered = threading.Semaphore(1)

        def write():
            for i in range(n):
                answered.acquire()
                self.socks[fd].sendall(request % i)

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(n):
            self.recv_all(fd, answer_len)
            answered.release()
        writer.join()

    def raise_files(self, n):
        raise_limit(n)

    # ---- processes

    def fork_and_answer(self, fd, request_len, answer):
        """A child reads a request on an accepted connection and answers it. Its pid."""
        pid = os.fork()
        if pid == 0:
            try:
                self.recv_all(fd, request_len)
                self.socks[fd].sendall(answer)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        if status:
            raise ChildProcessError(f"the child ended with {status}")
        return pid

    def run(self, program, fd):
        """A program that is given one of the sockets. What it prints."""
        done = subprocess.run([program, str(fd)], pass_fds=(fd,), capture_output=True, text=True)
        if done.returncode:
            raise ChildProcessError(f"{program} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def enter_netns(self, path):
        with open(path) as f:
            checked(libc.setns(f.fileno(), 0x40000000))

    # ---- UDP

    def udp(self, host, connect_port=0):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        if connect_port:
            sock.connect((host, connect_port))
        else:
            sock.bind((host, 0))
        return self.keep(sock), sock.getsockname()[1]

    def sendto(self, fd, data, host, port):
        return self.socks[fd].sendto(data, (host, port))

    def recvfrom(self, fd, n=2048):
        return self.socks[fd].recvfrom(n)

    def resolve(self, fd, queries):
        """As glibc does: both questions in one sendmmsg; the answers one by one."""
        self.sendmmsg(fd, queries)


@contextlib.contextmanager
def memory_file(data):
    fd = os.memfd_create("body")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


def raise_limit(n):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, max(hard, n)))


def main():
    ops, read, write = Ops(), sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            name, args, kwargs = pickle.load(read)
        except EOFError:
            return
        try:
            answer = True, getattr(ops, name)(*args, **kwargs)
        except BaseException as e:
            code = errno.errorcode.get(e.errno, "") if isinstance(e, OSError) and e.errno else ""
            answer = False, f"{name}: {type(e).__name__} {code}: {e}"
        pickle.dump(answer, write)
        write.flush()


if __name__ == "__main__":
    main()
