/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Who is watched. Settings that are not used cost nothing: the verifier removes their branches. */
#ifndef ZS_FILTER_BPF_H
#define ZS_FILTER_BPF_H

#include "zs_maps.bpf.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define ZS_CGROUP_DEPTH 12

static __always_inline bool zs_exe_listed(struct task_struct *task)
{
	struct zs_exe exe = {};
	struct file *file = BPF_CORE_READ(task, mm, exe_file);

	if (!file)
		return false;
	exe.ino = BPF_CORE_READ(file, f_inode, i_ino);
	exe.dev = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	return bpf_map_lookup_elem(&zs_filter_exe, &exe) != NULL;
}

static __always_inline bool zs_cgroup_listed(void)
{
	__u64 id;

	for (int level = 0; level < ZS_CGROUP_DEPTH; level++) {
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id)
			return false;
		if (bpf_map_lookup_elem(&zs_filter_cgroup, &id))
			return true;
	}
	return false;
}

/* The process filters; each one that is set must hold. */
static __always_inline bool zs_task_watched(__u32 tgid)
{
	if ((zs_filters & ZS_FILTER_PID) && !bpf_map_lookup_elem(&zs_filter_pid, &tgid))
		return false;
	if ((zs_filters & ZS_FILTER_EXE) && !zs_exe_listed((struct task_struct *)bpf_get_current_task()))
		return false;
	if ((zs_filters & ZS_FILTER_CGROUP) && !zs_cgroup_listed())
		return false;
	return true;
}

/* The socket filters: either port, and the network namespace. */
static __always_inline bool zs_sock_watched(struct sock *sk)
{
	__u16 port;
	__u32 netns;

	if (zs_filters & ZS_FILTER_NETNS) {
		netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
		if (!bpf_map_lookup_elem(&zs_filter_netns, &netns))
			return false;
	}
	if (zs_filters & ZS_FILTER_PORT) {
		port = BPF_CORE_READ(sk, __sk_common.skc_num);
		if (bpf_map_lookup_elem(&zs_filter_port, &port))
			return true;
		port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
		return bpf_map_lookup_elem(&zs_filter_port, &port) != NULL;
	}
	return true;
}

/* Bytes of a run's head that are copied: more for the ports that are named in capture.large_ports. */
static __always_inline __u32 zs_capture_of(struct sock *sk)
{
	__u16 port;

	if (!zs_large_bytes)
		return zs_payload_bytes;
	port = BPF_CORE_READ(sk, __sk_common.skc_num);
	if (bpf_map_lookup_elem(&zs_large_port, &port))
		return zs_large_bytes;
	port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	return bpf_map_lookup_elem(&zs_large_port, &port) ? zs_large_bytes : zs_payload_bytes;
}

#endif
