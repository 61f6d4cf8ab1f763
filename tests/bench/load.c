// SPDX-License-Identifier: Apache-2.0
/*
 * A client that asks at a fixed rate: load PORT PATH CONNECTIONS RATE SECONDS WARMUP_SECONDS
 *
 * Requests are due in groups of CONNECTIONS / 4, as many a second as make RATE, request k on connection k modulo
 * CONNECTIONS, whatever became of those before it. A request whose connection is still busy waits and its latency counts
 * from when it was due, so that a server that stands still cannot hide it (coordinated omission). Latencies from the
 * moment of sending are kept beside them. Every sample is kept: percentiles are exact. Where the machine itself stands
 * still for 20 ms now and then, the 99th percentile of a run tells of that alone; so that of a tenth of a second is told,
 * too, the median of all.
 *
 * An answer is there when the kernel has received its last byte (SO_TIMESTAMPNS), and is read when the next group is due.
 * So the client wakes once a group: a client that is woken by each answer takes 80 % of a core for 45,000 requests/s in a
 * virtual machine, and what is measured then is its own queue.
 *
 * Prints one JSON object; times in microseconds. Exit 1: the server did not answer as it should.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 1024
#define GRACE_NS	2000000000ull /* for the last answers */

struct connection {
	int fd;
	int busy;
	uint64_t next; /* number of the next request that is due here */
	uint64_t sent; /* number of the request under way */
	uint64_t at; /* when it was sent */
	size_t got; /* bytes of its answer so far */
};

static struct connection connections[MAX_CONNECTIONS];
static char request[512];
static size_t request_len;
static size_t answer_len; /* of every answer: the file is always the same */
static uint64_t start;
static double gap_ns;
static uint64_t group; /* a quarter of the connections: an answer that is not read yet must not hold up a request */
static uint64_t *from_due, *from_send;
static uint64_t samples, warm_requests;

static uint64_t ns_of(const struct timespec *t)
{
	return (uint64_t)t->tv_sec * 1000000000ull + (uint64_t)t->tv_nsec;
}

/* The clock of the kernel's receive timestamps. */
static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return ns_of(&t);
}

static void fail(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t due(uint64_t k)
{
	return start + (uint64_t)((double)(k - k % group) * gap_ns);
}

static int dial(int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		fail("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one));
	return fd;
}

/* One request before the measuring: how long an answer is. */
static size_t learn(int fd)
{
	char buf[65536];
	size_t got = 0, whole = 0;

	if (write(fd, request, request_len) != (ssize_t)request_len)
		fail("write");
	while (whole == 0 || got < whole) {
		ssize_t n = read(fd, buf + got, sizeof(buf) - 1 - got);
		char *end, *length;

		if (n <= 0)
			fail("read");
		got += (size_t)n;
		buf[got] = 0;
		end = strstr(buf, "\r\n\r\n");
		length = strcasestr(buf, "\r\nContent-Length:");
		if (end != NULL && (length == NULL || length > end || strncmp(buf, "HTTP/1.1 200", 12) != 0)) {
			fprintf(stderr, "load: not the answer that was expected: %.60s\n", buf);
			exit(1);
		}
		if (end != NULL)
			whole = (size_t)(end - buf) + 4 + strtoul(length + 17, NULL, 10);
		if (whole > sizeof(buf) - 1) {
			fprintf(stderr, "load: the answer is too large (%zu bytes)\n", whole);
			exit(1);
		}
	}
	return whole;
}

static void ask(struct connection *c, uint64_t stride)
{
	c->at = now_ns();
	if (write(c->fd, request, request_len) != (ssize_t)request_len)
		fail("write");
	c->busy = 1;
	c->got = 0;
	c->sent = c->next;
	c->next += stride;
}

/* Takes what there is; 1 if the answer is whole. */
static int take(struct connection *c)
{
	static char buf[65536];
	char control[CMSG_SPACE(sizeof(struct timespec))];
	struct iovec iov = {.iov_base = buf, .iov_len = sizeof(buf)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
	struct cmsghdr *stamp;
	struct timespec at;

	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		fail("recvmsg");
	if (c->got == 0 && n >= 12 && memcmp(buf, "HTTP/1.1 200", 12) != 0) {
		fprintf(stderr, "load: not the answer that was expected: %.60s\n", buf);
		exit(1);
	}
	c->got += (size_t)n;
	if (c->got < answer_len)
		return 0;
	stamp = CMSG_FIRSTHDR(&msg);
	if (stamp == NULL || stamp->cmsg_level != SOL_SOCKET || stamp->cmsg_type != SCM_TIMESTAMPNS) {
		fprintf(stderr, "load: the kernel gives no receive timestamps\n");
		exit(1);
	}
	memcpy(&at, CMSG_DATA(stamp), sizeof(at));
	if (c->sent >= warm_requests) {
		from_due[samples] = ns_of(&at) - due(c->sent);
		from_send[samples] = ns_of(&at) - c->at;
		samples++;
	}
	c->busy = 0;
	return 1;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double percentile(const uint64_t *sorted, double share)
{
	uint64_t i = (uint64_t)(share * (double)samples);

	return (double)sorted[i < samples ? i : samples - 1] / 1e3;
}

/* The median, over the windows, of a window's 99th percentile; in us. */
static double window_p99(const uint64_t *values, uint64_t window)
{
	uint64_t *part = malloc(window * sizeof(*part)), *found = malloc((samples / window + 1) * sizeof(*found));
	uint64_t n = 0;
	double median;

	if (part == NULL || found == NULL)
		fail("malloc");
	for (uint64_t at = 0; at + window <= samples; at += window) {
		memcpy(part, values + at, window * sizeof(*part));
		qsort(part, window, sizeof(*part), compare);
		found[n++] = part[window * 99 / 100];
	}
	qsort(found, n, sizeof(*found), compare);
	median = n ? (double)found[n / 2] / 1e3 : 0;
	free(part);
	free(found);
	return median;
}

int main(int argc, char **argv)
{
	uint64_t total, scheduled = 0, done = 0, end, tick = 0;
	int n_connections;
	double rate, due_p99, sent_p99;
	uint64_t window;

	if (argc != 7) {
		fprintf(stderr, "usage: load PORT PATH CONNECTIONS RATE SECONDS WARMUP_SECONDS\n");
		return 2;
	}
	n_connections = atoi(argv[3]);
	rate = atof(argv[4]);
	if (n_connections < 1 || n_connections > MAX_CONNECTIONS || rate <= 0) {
		fprintf(stderr, "load: 1 to %d connections, a rate above 0\n", MAX_CONNECTIONS);
		return 2;
	}
	gap_ns = 1e9 / rate;
	group = n_connections < 8 ? 1 : (uint64_t)n_connections / 4;
	window = rate / 10 < 100 ? 100 : (uint64_t)(rate / 10);
	warm_requests = (uint64_t)(rate * atof(argv[6]));
	total = warm_requests + (uint64_t)(rate * atof(argv[5]));
	request_len = (size_t)snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", argv[2]);
	from_due = malloc((total + 1) * sizeof(*from_due));
	from_send = malloc((total + 1) * sizeof(*from_send));
	if (from_due == NULL || from_send == NULL || request_len >= sizeof(request))
		fail("start");
	memset(from_due, 0, (total + 1) * sizeof(*from_due)); /* no page faults while measuring */
	memset(from_send, 0, (total + 1) * sizeof(*from_send));
	for (int i = 0; i < n_connections; i++) {
		struct connection *c = &connections[i];

		c->fd = dial(atoi(argv[1]));
		c->next = (uint64_t)i;
		answer_len = learn(c->fd);
	}
	prctl(PR_SET_TIMERSLACK, 1ul);
	start = now_ns() + 1000000;
	end = due(total) + GRACE_NS;
	while (done < total && now_ns() < end) {
		uint64_t at = start + (uint64_t)((double)(tick++ * group) * gap_ns);
		struct timespec t = {.tv_sec = (time_t)(at / 1000000000ull), .tv_nsec = (long)(at % 1000000000ull)};

		clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL);
		for (int i = 0; i < n_connections; i++) {
			struct connection *c = &connections[i];

			if (!c->busy || !take(c))
				continue;
			done++;
			/* c->next < scheduled: it was due while the connection was busy */
			if (c->next < scheduled)
				ask(c, (uint64_t)n_connections);
		}
		while (scheduled < total && due(scheduled) <= at) {
			struct connection *c = &connections[scheduled % (uint64_t)n_connections];

			scheduled++;
			if (!c->busy)
				ask(c, (uint64_t)n_connections);
		}
	}
	if (samples == 0) {
		fprintf(stderr, "load: no request was measured\n");
		return 1;
	}
	due_p99 = window_p99(from_due, window);
	sent_p99 = window_p99(from_send, window);
	qsort(from_due, samples, sizeof(*from_due), compare);
	qsort(from_send, samples, sizeof(*from_send), compare);
	printf("{\"requests\": %llu, \"unanswered\": %llu, \"learned\": %d, \"samples\": %llu, "
	       "\"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, "
	       "\"sent_p50_us\": %.1f, \"sent_p99_us\": %.1f, "
	       "\"window_p99_us\": %.1f, \"sent_window_p99_us\": %.1f}\n",
	       (unsigned long long)done, (unsigned long long)(total - done), n_connections, (unsigned long long)samples,
	       percentile(from_due, 0.5), percentile(from_due, 0.9), percentile(from_due, 0.99),
	       percentile(from_due, 0.999), percentile(from_due, 1.0), percentile(from_send, 0.5),
	       percentile(from_send, 0.99), due_p99, sent_p99);
	return 0;
}
