"""Zeroed memory for large tables, in huge pages where the kernel gives them.

A look-up in a table of tens of MiB misses the TLB as well as the cache, and under a hypervisor a walk of the page tables is
dear (two of them, one inside the other). transparent_hugepage/enabled = madvise is the kernel's usual setting.
"""

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_HUGEPAGE
    void *MAP_FAILED

cdef enum:
    HUGE = 2 << 20

cdef inline void *pages_take(size_t n) noexcept nogil:
    """n bytes of zeros, aligned to a huge page if they fill one; NULL without memory. To be given back with the same n."""
    cdef size_t more = HUGE if n >= HUGE else 0, head
    cdef char *p = <char *>mmap(NULL, n + more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if p == MAP_FAILED:
        return NULL
    if not more:
        return p
    head = (HUGE - <size_t>p % HUGE) % HUGE
    if head:
        munmap(p, head)
    if more - head:
        munmap(p + head + ((n + 4095) & ~<size_t>4095), more - head)
    madvise(p + head, n, MADV_HUGEPAGE)          # without it the pages are small, that is all
    return p + head

cdef inline void pages_give(void *p, size_t n) noexcept nogil:
    if p != NULL:
        munmap(p, n)
