# cython: language_level=3, boundscheck=True, wraparound=False
"""Keeps the agent's threads at SCHED_IDLE while they keep up with what comes, so that no program waits for the agent's work.

sched(7): a thread of SCHED_IDLE runs when no other wants its CPU, and gives way at once. That would starve an agent whose
machine is full, so a thread without the GIL looks every few milliseconds: do records pile up in the rings, does a sink's
queue grow, has the drain thread not come round for a while? Then all threads become ordinary ones for a time.

Started and stopped by pipeline.py. Leaves everything alone if somebody chose another policy for the agent, or if the way back to
SCHED_OTHER is barred (CAP_SYS_NICE, or RLIMIT_NICE of at least 20). Across cgroups the kernel compares their weights instead: there
a low CPUWeight= or cpu.idle does the same.
"""

import logging
import threading

from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec

cdef extern from * nogil:
    """
    #include <dirent.h>
    #include <sched.h>
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* All threads of this process but the calling one. */
    static void zs_set_policy(int policy)
    {
        struct sched_param none = {0};
        struct dirent *e;
        long self = syscall(SYS_gettid), tid;
        DIR *d = opendir("/proc/self/task");

        if (!d)
            return;
        while ((e = readdir(d)))
            if ((tid = atol(e->d_name)) > 0 && tid != self)
                sched_setscheduler(tid, policy, &none);
        closedir(d);
    }
    /* Whether a thread may go to SCHED_IDLE and come back: tried on the calling one. */
    static int zs_may_go_and_return(void)
    {
        struct sched_param none = {0};

        return sched_getscheduler(0) == SCHED_OTHER && !sched_setscheduler(0, SCHED_IDLE, &none) &&
               !sched_setscheduler(0, SCHED_OTHER, &none);
    }
    """
    void zs_set_policy(int policy)
    bint zs_may_go_and_return()

cdef extern from "<sched.h>" nogil:
    int SCHED_OTHER, SCHED_IDLE

cdef enum:
    LOOK_NS = 4000000
    CALM_NS = 50000000       # so long nothing may press before the threads step behind again
    LATE_NS = 100000000      # a drain thread that has not come round for so long starves
    RECOVER_NS = 2000000000  # and is not made to starve again for so long
    FULL_SHARE = 8           # the rings press when this part of them is full

cdef double QUEUE_PRESSES = 0.25

log = logging.getLogger(__name__)


cdef class Pace:
    """rings: whose records must not pile up."""

    def __init__(self, Rings rings not None):
        self.rings = rings

    def start(self):
        """Begins to step behind the other programs."""
        self.beat(0.0)
        self.thread = threading.Thread(target=self._run, name="zs-pace", daemon=True)
        self.thread.start()

    def stop(self):
        """All threads are ordinary ones again. Repeatable."""
        self.stopping = True
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def beat(self, double queues):
        """The drain thread has come round; queues: share of the fullest sink's queue, 0 to 1."""
        cdef timespec now
        clock_gettime(CLOCK_MONOTONIC, &now)
        self.beat_ns = nanoseconds(&now)
        self.queues = queues

    @property
    def idle(self):
        """Whether the threads run at SCHED_IDLE now."""
        return bool(self.behind)

    def _run(self):
        if not zs_may_go_and_return():
            log.info("the agent keeps its scheduling policy: another one was chosen, or CAP_SYS_NICE is missing")
            return
        with nogil:
            self.watch()

    cdef void watch(self) noexcept nogil:
        cdef timespec pause, at
        cdef uint64_t now, calm_from = 0
        cdef bint late, pressed
        pause.tv_sec = 0
        pause.tv_nsec = LOOK_NS
        while not self.stopping:
            nanosleep(&pause, NULL)
            clock_gettime(CLOCK_MONOTONIC, &at)
            now = nanoseconds(&at)
            late = now > self.beat_ns + LATE_NS
            pressed = self.rings.waiting() > self.rings.nbytes // FULL_SHARE or self.queues > QUEUE_PRESSES
            if late or pressed:
                calm_from = now + (RECOVER_NS if late else CALM_NS)
                if self.behind:
                    self.behind = False
                    self.hurried += 1
                    zs_set_policy(SCHED_OTHER)
            elif not self.behind and now > calm_from:
                self.behind = True
                zs_set_policy(SCHED_IDLE)
        self.behind = False
        zs_set_policy(SCHED_OTHER)


cdef inline uint64_t nanoseconds(const timespec *t) noexcept nogil:
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec
