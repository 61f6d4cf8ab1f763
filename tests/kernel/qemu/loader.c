// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Loads one BPF object, makes exchanges on loopback in a child process and checks the records: the programs under another
 * kernel than the machine's, where no Python is. Static, so that an initramfs needs nothing else.
 *
 *   loader FILE.bpf.o
 *
 * Prints "RESULT FILE ok ..." or "RESULT FILE failed: ..."; the latter with what libbpf said before it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include "zs_abi.h"

#define ROUNDS 20
#define REQUEST "GET /qemu HTTP/1.1\r\n\r\n"
#define ANSWER "HTTP/1.1 204 No Content\r\n\r\n"
#define ENDS 8

/* One end of a connection. */
struct end {
	zs_u64 id;
	struct zs_conn conn;
	unsigned messages, closes, wrong, error;
	zs_u32 seqs[2 * ROUNDS];
};

static const char *name;
static struct end ends[ENDS];
static unsigned n_ends, datagrams, stray;

static void failed(const char *what)
{
	printf("RESULT %s failed: %s: %s\n", name, what, strerror(errno));
	exit(1);
}

static struct end *find(zs_u64 id)
{
	for (unsigned i = 0; i < n_ends; i++)
		if (ends[i].id == id)
			return &ends[i];
	return NULL;
}

static void on_message(struct end *e, const struct zs_msg *m)
{
	const char *payload = (const char *)(m + 1);
	/* which of the two it is does not depend on the end: requests come first */
	const char *want = e->messages % 2 ? ANSWER : REQUEST;
	int with_bytes = !(e->messages % 4 == 3 && m->hdr.dir == ZS_SEND); /* every second answer is a file */

	if (e->messages >= 2 * ROUNDS || m->run != e->messages + 1 || m->len != strlen(want) ||
	    m->hdr.payload_len != (with_bytes ? m->len : 0) || memcmp(payload, want, m->hdr.payload_len))
		e->wrong++;
	else
		e->seqs[e->messages] = m->seq;
	e->messages++;
}

static int on_record(void *ctx, void *data, size_t size)
{
	const struct zs_hdr *h = data;
	struct end *e;

	(void)ctx;
	if (h->size != size) {
		stray++;
	} else if (h->kind == ZS_CONN) {
		if (n_ends == ENDS)
			return 0;
		e = &ends[n_ends++];
		e->conn = *(struct zs_conn *)data;
		e->id = e->conn.conn_id;
	} else if (h->kind == ZS_MSG) {
		e = find(((struct zs_msg *)data)->conn_id);
		if (e)
			on_message(e, data);
		else
			stray++;
	} else if (h->kind == ZS_CLOSE) {
		e = find(((struct zs_close *)data)->conn_id);
		if (e) {
			e->closes++;
			e->error = ((struct zs_close *)data)->error;
		}
	} else if (h->kind == ZS_DGRAM) {
		datagrams++;
	}
	return 0;
}

static void check(int good, const char *what)
{
	if (!good) {
		perror(what);
		_exit(1);
	}
}

static void take(int fd, size_t n)
{
	char buffer[512];
	ssize_t got;

	for (; n; n -= got) {
		got = recv(fd, buffer, n, 0);
		check(got > 0, "recv");
	}
}

/* All by one process: writev and send, sendfile for every second answer, two datagrams in one call. */
static void traffic(int family)
{
	struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in to4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr *to = family == AF_INET ? (void *)&to4 : (void *)&to6;
	socklen_t size = family == AF_INET ? sizeof(to4) : sizeof(to6);
	struct iovec parts[] = {{NULL, 0}, {REQUEST, 4}, {REQUEST + 4, strlen(REQUEST) - 4}};
	char dns[] = "\0\1\1\0\0\1\0\0\0\0\0\0\4shop\0\0\1\0\1";
	struct iovec question = {dns, sizeof(dns) - 1};
	struct mmsghdr two[] = {{.msg_hdr = {.msg_iov = &question, .msg_iovlen = 1}},
				{.msg_hdr = {.msg_iov = &question, .msg_iovlen = 1}}};
	int listener = socket(family, SOCK_STREAM, 0), file = fileno(tmpfile()), c, s, u;

	check(write(file, ANSWER, strlen(ANSWER)) > 0, "file");
	check(!bind(listener, to, size) && !listen(listener, 1) && !getsockname(listener, to, &size), "listen");
	c = socket(family, SOCK_STREAM, 0);
	check(!connect(c, to, size), "connect");
	s = accept(listener, NULL, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		off_t at = 0;

		check(writev(c, parts, 3) == (ssize_t)strlen(REQUEST), "writev");
		take(s, strlen(REQUEST));
		if (i % 2)
			check(sendfile(s, file, &at, strlen(ANSWER)) == (ssize_t)strlen(ANSWER), "sendfile");
		else
			check(send(s, ANSWER, strlen(ANSWER), 0) == (ssize_t)strlen(ANSWER), "send");
		take(c, strlen(ANSWER));
	}
	close(c);
	close(s);
	u = socket(family, SOCK_DGRAM, 0);
	check(!connect(u, to, size) && sendmmsg(u, two, 2, 0) >= 1, "sendmmsg");
	_exit(0);
}

/* A `const volatile` variable of the object, as capture.py sets it. */
static void set_constant(struct bpf_object *obj, const char *variable, zs_u64 value)
{
	const struct btf *btf = bpf_object__btf(obj);
	const struct btf_type *section =
		btf__type_by_id(btf, btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC));
	const struct btf_var_secinfo *v = section ? btf_var_secinfos(section) : NULL;
	size_t size;
	char *data = (char *)bpf_map__initial_value(bpf_object__find_map_by_name(obj, ".rodata"), &size);

	for (int i = 0; v && i < btf_vlen(section); i++)
		if (!strcmp(btf__name_by_offset(btf, btf__type_by_id(btf, v[i].type)->name_off), variable)) {
			memcpy(data + v[i].offset, &value, v[i].size);
			return;
		}
	errno = ENOENT;
	failed(variable);
}

/* The settings decide which branches the verifier sees. */
static struct bpf_object *load(const char *path, zs_u32 payload, zs_u32 large, zs_u32 filters)
{
	struct bpf_object *obj = bpf_object__open_file(path, NULL);
	struct btf *kernel = btf__load_vmlinux_btf();
	struct bpf_program *p;

	if (!obj)
		failed("open");
	p = bpf_object__find_program_by_name(obj, "zs_sendpage"); /* as capture.py does */
	if (p)
		bpf_program__set_autoload(p, btf__find_by_name_kind(kernel, "inet_sendpage", BTF_KIND_FUNC) > 0);
	set_constant(obj, "zs_payload_bytes", payload);
	set_constant(obj, "zs_large_bytes", large);
	set_constant(obj, "zs_filters", filters);
	if (bpf_object__load(obj)) {
		printf("with payload %u, large %u, filters %u:\n", payload, large, filters);
		failed("load");
	}
	btf__free(kernel);
	return obj;
}

static void attach(struct bpf_object *obj)
{
	struct bpf_program *p;

	bpf_object__for_each_program(p, obj) {
		if (bpf_program__autoload(p) && strncmp(bpf_program__section_name(p), "iter/", 5) &&
		    !bpf_program__attach(p))
			failed("attach");
	}
}

static unsigned nic_runs, nic_ends, nic_wrong;

static int on_nic(void *ctx, void *data, size_t size)
{
	const struct zs_nic *r = data;

	(void)ctx;
	if (size != sizeof(*r) || r->hdr.kind != ZS_NIC || r->netns_cookie != 7 || !r->isn_connecting || !r->role)
		nic_wrong++;
	else if (r->hdr.flags & ZS_NIC_END)
		nic_ends++;
	else
		nic_runs++;
	if (r->prev_end_ns && r->prev_bytes != strlen(REQUEST) && r->prev_bytes != strlen(ANSWER))
		nic_wrong++;
	return 0;
}

/*
 * The programs for interfaces. All must load; one is attached by a packet socket (clsact is a module in Debian) to the
 * loopback device, where each packet is seen going out and coming in.
 */
static int interfaces(const char *path)
{
	static const int families[] = {AF_INET, AF_INET6};
	struct bpf_object *obj = bpf_object__open_file(path, NULL);
	struct sockaddr_ll lo = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = 1};
	int tap = socket(AF_PACKET, SOCK_RAW, 0), program;
	struct ring_buffer *ring;
	int status;

	if (!obj)
		failed("open");
	set_constant(obj, "zs_nic_netns_cookie", 7);
	if (bpf_object__load(obj))
		failed("load");
	program = bpf_program__fd(bpf_object__find_program_by_name(obj, "zs_nic_tap"));
	if (setsockopt(tap, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)) ||
	    bind(tap, (struct sockaddr *)&lo, sizeof(lo)))
		failed("packet socket");
	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(obj, "zs_ring"), on_nic, NULL, NULL);
	if (!ring)
		failed("ring");
	for (int i = 0; i < 2; i++) {
		if (!fork())
			traffic(families[i]);
		if (wait(&status) < 0 || status)
			failed("traffic");
	}
	ring_buffer__consume(ring);
	printf("RESULT %s %s: %u runs, %u ends, %u wrong\n", name,
	       nic_runs == 2 * 2 * 2 * ROUNDS && nic_ends == 4 && !nic_wrong ? "ok" : "failed", nic_runs, nic_ends,
	       nic_wrong);
	return 0;
}

int main(int argc, char **argv)
{
	static const int families[] = {AF_INET, AF_INET6};
	struct ring_buffer *ring;
	struct bpf_object *obj;
	unsigned good = 0, all = ZS_FILTER_PID | ZS_FILTER_EXE | ZS_FILTER_PORT | ZS_FILTER_CGROUP | ZS_FILTER_NETNS;
	int status;

	if (argc != 2)
		return 2;
	name = strrchr(argv[1], '/') ? strrchr(argv[1], '/') + 1 : argv[1];
	if (!strcmp(name, "nic.bpf.o"))
		return interfaces(argv[1]);
	bpf_object__close(load(argv[1], 1, 0, 0));
	bpf_object__close(load(argv[1], ZS_PAYLOAD_MAX, 0, 0));
	bpf_object__close(load(argv[1], ZS_PAYLOAD_DEFAULT, ZS_PAYLOAD_MAX, all));
	obj = load(argv[1], ZS_PAYLOAD_DEFAULT, 0, 0);
	attach(obj);
	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(obj, "zs_ring"), on_record, NULL, NULL);
	if (!ring)
		failed("ring");
	for (int i = 0; i < 2; i++) {
		if (!fork())
			traffic(families[i]);
		if (wait(&status) < 0 || status)
			failed("traffic");
	}
	for (int i = 0; i < 100; i++) { /* the last close comes with a packet */
		ring_buffer__consume(ring);
		usleep(10000);
	}
	for (unsigned i = 0; i < n_ends; i++) {
		struct end *e = &ends[i], *peer = NULL;

		for (unsigned j = 0; j < n_ends; j++)
			if (j != i && ends[j].conn.isn_connecting == e->conn.isn_connecting &&
			    ends[j].conn.isn_accepting == e->conn.isn_accepting && e->conn.isn_connecting)
				peer = &ends[j];
		printf("%s end %u: family %u role %u messages %u wrong %u closes %u error %u peer %s\n", name, i,
		       e->conn.family, e->conn.role, e->messages, e->wrong, e->closes, e->error, peer ? "yes" : "no");
		good += peer && e->conn.role && e->conn.role != peer->conn.role && !e->wrong &&
			e->messages == 2 * ROUNDS && e->closes == 1 && !memcmp(e->seqs, peer->seqs, sizeof(e->seqs));
	}
	if (good == 4 && n_ends == 4 && datagrams >= 2 && !stray)
		printf("RESULT %s ok\n", name);
	else
		printf("RESULT %s failed: %u of 4 ends right, %u datagrams, %u stray records\n", name, good, datagrams,
		       stray);
	return 0;
}
