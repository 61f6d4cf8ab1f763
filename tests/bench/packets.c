// Two ends of a TCP connection in two network namespaces, in turns on one core: what a message's way costs.
//
//     packets NETNS_A ADDRESS_A NETNS_B PORT pong|bulk N BATCHES
//
// pong: N messages of 64 bytes there and back in each batch; bulk: N writes of 16 KiB one way, and one byte back for each
// 64 of them. Prints a JSON object: nanoseconds of one round or write, least and median of the batches. Run by nic_cost.py.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { SMALL = 64, LARGE = 16384, TURN = 64 };

static char data[LARGE];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void enter(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		die(path);
	close(fd);
}

static void get(int fd, size_t n)
{
	while (n) {
		ssize_t r = read(fd, data, n < LARGE ? n : LARGE);
		if (r <= 0)
			die("read");
		n -= (size_t)r;
	}
}

static void put(int fd, size_t n)
{
	size_t at = 0;
	while (at < n) {
		ssize_t r = write(fd, data + at, n - at);
		if (r <= 0)
			die("write");
		at += (size_t)r;
	}
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	if (argc != 8) {
		fprintf(stderr, "usage: packets NETNS_A ADDRESS_A NETNS_B PORT pong|bulk N BATCHES\n");
		return 2;
	}
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[4]))};
	int bulk = strcmp(argv[5], "bulk") == 0, on = 1;
	long n = atol(argv[6]), batches = atol(argv[7]);
	if (inet_pton(AF_INET, argv[2], &at.sin_addr) != 1 || n < TURN || batches < 1)
		return 2;
	enter(argv[1]);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 1) < 0)
		die("listen");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) { // the end that answers
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int fd = accept(listener, NULL, NULL);
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		for (long b = 0; b <= batches; b++)
			for (long i = 0; i < n; i++) {
				get(fd, bulk ? LARGE : SMALL);
				if (!bulk || i % TURN == TURN - 1)
					put(fd, bulk ? 1 : SMALL);
			}
		_exit(0);
	}
	close(listener);
	enter(argv[3]);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		die("connect");
	double *took = calloc((size_t)batches + 1, sizeof(double));
	for (long b = 0; b <= batches; b++) {
		double begin = now();
		for (long i = 0; i < n; i++) {
			put(fd, bulk ? LARGE : SMALL);
			if (!bulk || i % TURN == TURN - 1)
				get(fd, bulk ? 1 : SMALL);
		}
		took[b] = (now() - begin) / (double)n;
	}
	int status = 0;
	waitpid(child, &status, 0);
	qsort(took + 1, (size_t)batches, sizeof(double), by_value); // the first one warms up
	printf("{\"least\": %.1f, \"median\": %.1f}\n", took[1], took[1 + batches / 2]);
	return status != 0;
}
