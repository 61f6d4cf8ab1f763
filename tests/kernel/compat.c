// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * A 64-bit program that makes 32-bit system calls (int 0x80), whose numbers mean something else: brk is 45, as recvfrom is for
 * 64-bit programs. Called as: compat FD, with an open TCP socket; prints what brk returned.
 */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	long fd, at;

	if (argc != 2)
		return 2;
	fd = atol(argv[1]);
	/* di as recvfrom's descriptor; bx as brk's address: 0 asks for the present one */
	asm volatile("int $0x80" : "=a"(at) : "a"(45L), "b"(0L), "D"(fd), "S"(0L), "d"(64L) : "memory", "r8", "r10", "r11");
	printf("%lu\n", (unsigned long)(unsigned int)at);
	return (unsigned int)at == 0;
}
