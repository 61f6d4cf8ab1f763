// SPDX-License-Identifier: Apache-2.0
/*
 * A receiver that costs as little as it can: reads HTTP/1.1 requests and answers each with 200 and no body.
 *
 * Stands for a Collector and a Loki: an empty body is a whole answer of OTLP/HTTP. Listens on a free port of
 * 127.0.0.1 and prints it; at SIGTERM it prints what came as one JSON object, by the last part of the path.
 * Assumes a Content-Length, as the agent always sends one. One thread, poll().
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_PEERS 64
#define HEAD_MAX  8192

struct peer {
	char head[HEAD_MAX + 1];
	size_t n;		 /* bytes of the head so far */
	unsigned long long left; /* bytes of the body that are still to come */
	int kind;		 /* of the request whose body comes */
};

static const char *const kinds[] = {"traces", "logs", "push", "other"};
static unsigned long long posts[4], bytes[4];
static struct peer peers[MAX_PEERS + 1];
static struct pollfd fds[MAX_PEERS + 1];
static volatile sig_atomic_t stop;

static void on_signal(int number)
{
	(void)number;
	stop = 1;
}

static void answer(int fd, struct peer *p)
{
	static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

	posts[p->kind]++;
	p->n = 0;
	if (write(fd, ok, sizeof(ok) - 1) < 0)
		fprintf(stderr, "sink: write: %s\n", strerror(errno));
}

/* What there is of requests in the head buffer; -1: no HTTP that is understood here. */
static int understand(int fd, struct peer *p)
{
	for (;;) {
		char *end, *length, *line;
		size_t extra;

		p->head[p->n] = 0;
		end = strstr(p->head, "\r\n\r\n");
		if (end == NULL)
			return p->n == HEAD_MAX ? -1 : 0;
		length = strcasestr(p->head, "\r\nContent-Length:");
		line = strstr(p->head, "\r\n");
		if (length == NULL || length > end)
			return -1;
		p->left = strtoull(length + 17, NULL, 10);
		*line = 0;
		for (p->kind = 0; p->kind < 3; p->kind++) {
			char path[16];

			snprintf(path, sizeof(path), "/%s ", kinds[p->kind]);
			if (strstr(p->head, path) != NULL)
				break;
		}
		bytes[p->kind] += p->left;
		end += 4;
		extra = p->n - (size_t)(end - p->head);
		if (extra < p->left) {
			p->left -= extra;
			return 0;
		}
		extra -= p->left;
		end += p->left;
		p->left = 0;
		answer(fd, p);
		memmove(p->head, end, extra);
		p->n = extra;
		if (extra == 0)
			return 0;
	}
}

/* -1: the peer is gone. */
static int serve(int fd, struct peer *p)
{
	static char body[1 << 20];
	ssize_t n;

	if (p->left == 0) {
		n = read(fd, p->head + p->n, HEAD_MAX - p->n);
		if (n <= 0)
			return -1;
		p->n += (size_t)n;
		return understand(fd, p);
	}
	n = read(fd, body, p->left < sizeof(body) ? p->left : sizeof(body));
	if (n <= 0)
		return -1;
	p->left -= (unsigned long long)n;
	if (p->left == 0)
		answer(fd, p);
	return 0;
}

static void welcome(int listener, int *n_peers)
{
	int one = 1, fd = accept(listener, NULL, NULL);

	if (fd < 0)
		return;
	if (*n_peers == MAX_PEERS) {
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	++*n_peers;
	fds[*n_peers] = (struct pollfd){.fd = fd, .events = POLLIN};
	peers[*n_peers].n = 0;
	peers[*n_peers].left = 0;
}

int main(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t size = sizeof(at);
	struct sigaction action = {.sa_handler = on_signal};
	int n_peers = 0, listener = socket(AF_INET, SOCK_STREAM, 0);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 64) < 0 ||
	    getsockname(listener, (struct sockaddr *)&at, &size) < 0) {
		perror("sink: listen");
		return 1;
	}
	sigaction(SIGTERM, &action, NULL); /* no SA_RESTART: poll() returns */
	signal(SIGPIPE, SIG_IGN);
	printf("%d\n", ntohs(at.sin_port));
	fflush(stdout);
	fds[0] = (struct pollfd){.fd = listener, .events = POLLIN};
	while (!stop) {
		/* the time-out: a signal may come between the test above and poll() */
		if (poll(fds, (nfds_t)n_peers + 1, 1000) < 0 && errno != EINTR)
			break;
		for (int i = n_peers; i > 0; i--) {
			if (!fds[i].revents || serve(fds[i].fd, &peers[i]) == 0)
				continue;
			close(fds[i].fd);
			if (i != n_peers) {
				fds[i] = fds[n_peers];
				peers[i] = peers[n_peers];
			}
			n_peers--;
		}
		if (fds[0].revents)
			welcome(listener, &n_peers);
	}
	printf("{\"posts\": %llu, \"bytes\": %llu", posts[0] + posts[1] + posts[2] + posts[3],
	       bytes[0] + bytes[1] + bytes[2] + bytes[3]);
	for (int i = 0; i < 4; i++)
		printf(", \"%s_posts\": %llu, \"%s_bytes\": %llu", kinds[i], posts[i], kinds[i], bytes[i]);
	printf("}\n");
	return 0;
}
