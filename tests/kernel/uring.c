// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Requests and answers over io_uring by the plain system calls, without liburing: one connection to itself.
 *
 *   uring ROUNDS MODE MIXED     MODE: plain, sqpoll (a kernel thread submits)
 *                               MIXED 1: the answers go by send() and recv()
 *
 * Prints the ports "CLIENT SERVER", waits for a byte on stdin, talks, prints "done", waits for a byte, ends.
 */
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ring;
static struct io_uring_params params;
static uint8_t *sq, *cq;
static struct io_uring_sqe *sqes;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static unsigned *at(uint8_t *base, unsigned offset)
{
	return (unsigned *)(base + offset);
}

static void *map(size_t size, off_t offset)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);

	if (p == MAP_FAILED)
		fail("mmap");
	return p;
}

static void set_up(int sqpoll)
{
	params.flags = sqpoll ? IORING_SETUP_SQPOLL : 0;
	params.sq_thread_idle = 1000;
	ring = syscall(SYS_io_uring_setup, 8, &params);
	if (ring < 0)
		fail("io_uring_setup");
	sq = map(params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
	cq = map(params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	sqes = map(params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
}

/* One operation, waited for; its result. */
static int transfer(int opcode, int fd, void *buffer, unsigned len)
{
	unsigned tail = *at(sq, params.sq_off.tail), index = tail & *at(sq, params.sq_off.ring_mask), flags, head;
	struct io_uring_sqe *sqe = &sqes[index];
	struct io_uring_cqe *cqe;
	int result;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = opcode;
	sqe->fd = fd;
	sqe->addr = (uintptr_t)buffer;
	sqe->len = len;
	at(sq, params.sq_off.array)[index] = index;
	__atomic_store_n(at(sq, params.sq_off.tail), tail + 1, __ATOMIC_SEQ_CST);
	flags = IORING_ENTER_GETEVENTS;
	if (__atomic_load_n(at(sq, params.sq_off.flags), __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
		flags |= IORING_ENTER_SQ_WAKEUP;
	if (syscall(SYS_io_uring_enter, ring, 1, 1, flags, NULL, 0) < 0)
		fail("io_uring_enter");
	head = *at(cq, params.cq_off.head);
	while (__atomic_load_n(at(cq, params.cq_off.tail), __ATOMIC_ACQUIRE) == head)
		;
	cqe = (struct io_uring_cqe *)(cq + params.cq_off.cqes) + (head & *at(cq, params.cq_off.ring_mask));
	result = cqe->res;
	__atomic_store_n(at(cq, params.cq_off.head), head + 1, __ATOMIC_RELEASE);
	return result;
}

int main(int argc, char **argv)
{
	char request[] = "GET /uring HTTP/1.1\r\n\r\n", answer[] = "HTTP/1.1 204 No Content\r\n\r\n", buffer[4096];
	int asked = sizeof(request) - 1, answered = sizeof(answer) - 1, rounds, mixed, listener, c, s;
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, from;
	socklen_t n = sizeof(to);

	if (argc != 4)
		return 2;
	rounds = atoi(argv[1]);
	mixed = atoi(argv[3]);
	set_up(!strcmp(argv[2], "sqpoll"));
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (void *)&to, sizeof(to)) || listen(listener, 1) || getsockname(listener, (void *)&to, &n))
		fail("listen");
	c = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(c, (void *)&to, sizeof(to)) || getsockname(c, (void *)&from, &n))
		fail("connect");
	s = accept(listener, NULL, NULL);
	printf("%d %d\n", ntohs(from.sin_port), ntohs(to.sin_port));
	fflush(stdout);
	if (getchar() == EOF)
		return 1;
	for (int i = 0; i < rounds; i++) {
		if (transfer(IORING_OP_SEND, c, request, asked) != asked ||
		    transfer(IORING_OP_RECV, s, buffer, sizeof(buffer)) != asked)
			fail("request");
		if (mixed) {
			if (send(s, answer, answered, 0) != answered || recv(c, buffer, sizeof(buffer), 0) != answered)
				fail("answer");
		} else if (transfer(IORING_OP_SEND, s, answer, answered) != answered ||
			   transfer(IORING_OP_RECV, c, buffer, sizeof(buffer)) != answered) {
			fail("answer");
		}
	}
	puts("done");
	fflush(stdout);
	getchar();
	return 0;
}
