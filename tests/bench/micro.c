// SPDX-License-Identifier: Apache-2.0
/*
 * What system calls cost that have nothing to do with sockets: micro CORE BATCHES
 *
 * One pinned thread; prints the cheapest batch of each call as one JSON object, in nanoseconds a call. The
 * cheapest, because whatever else runs on the machine can only add.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CALLS 2000 /* a batch: less than a scheduler's tick */

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void call(int which, int zero)
{
	char c;

	if (which == 0)
		syscall(SYS_getppid);
	else if (which == 1)
		(void)!read(zero, &c, 1);
	else
		close(-1);
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"getppid", "read", "close"};
	double best[3] = {1e18, 1e18, 1e18};
	int zero = open("/dev/zero", O_RDONLY), batches = argc == 3 ? atoi(argv[2]) : 0;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(argc == 3 ? atoi(argv[1]) : 0, &set);
	if (zero < 0 || batches < 1 || sched_setaffinity(0, sizeof(set), &set) < 0) {
		perror("micro CORE BATCHES");
		return 1;
	}
	for (int batch = 0; batch < batches; batch++)
		for (int which = 0; which < 3; which++) {
			double begin = now_ns(), took;

			for (int i = 0; i < CALLS; i++)
				call(which, zero);
			took = (now_ns() - begin) / CALLS;
			if (took < best[which])
				best[which] = took;
		}
	printf("{\"%s_ns\": %.1f, \"%s_ns\": %.1f, \"%s_ns\": %.1f}\n", names[0], best[0], names[1], best[1], names[2],
	       best[2]);
	return 0;
}
