"""The event ABI: names only. Sizes and offsets come from bpf/include/zs_abi.h through the C compiler."""

cdef extern from "zs_abi.h" nogil:
    ctypedef unsigned char zs_u8
    ctypedef unsigned short zs_u16
    ctypedef unsigned int zs_u32
    ctypedef unsigned long long zs_u64

    enum:
        ZS_ABI_VERSION
        ZS_PAYLOAD_DEFAULT
        ZS_PAYLOAD_MAX
        ZS_COMM_LEN
        ZS_CPU_RING_BYTES
        ZS_CNT_MAX
        ZS_FILTER_ENTRIES
        ZS_CONN
        ZS_CONNECT
        ZS_MSG
        ZS_PROGRESS
        ZS_CLOSE
        ZS_DGRAM
        ZS_NIC
        ZS_NIC_EGRESS
        ZS_NIC_END
        ZS_NIC_RESET
        ZS_NIC_SOCKET
        ZS_TUNNEL_NONE
        ZS_TUNNEL_VXLAN
        ZS_TUNNEL_GENEVE
        ZS_TUNNEL_GRE
        ZS_TUNNEL_IPIP
        ZS_SEND
        ZS_RECV
        ZS_ROLE_UNKNOWN
        ZS_ROLE_CONNECTING
        ZS_ROLE_ACCEPTING
        ZS_F_CUT
        ZS_F_NO_PAYLOAD
        ZS_F_FAULT
        ZS_F_GAP
        ZS_FILTER_PID
        ZS_FILTER_EXE
        ZS_FILTER_PORT
        ZS_FILTER_CGROUP
        ZS_FILTER_NETNS

    struct zs_hdr:
        zs_u16 size
        zs_u8 kind
        zs_u8 dir
        zs_u16 flags
        zs_u16 payload_len

    struct zs_conn:
        zs_hdr hdr
        zs_u64 time_ns
        zs_u64 conn_id
        zs_u64 cgroup_id
        zs_u32 isn_connecting
        zs_u32 isn_accepting
        zs_u32 tgid
        zs_u32 tid
        zs_u32 netns
        zs_u16 local_port
        zs_u16 remote_port
        zs_u8 family
        zs_u8 protocol
        zs_u8 role
        zs_u8 *local_addr
        zs_u8 *remote_addr
        char *comm

    struct zs_connect:
        zs_hdr hdr
        zs_u64 time_ns
        zs_u64 conn_id
        zs_u32 tgid
        zs_u32 tid

    struct zs_msg:
        zs_hdr hdr
        zs_u64 time_ns
        zs_u64 conn_id
        zs_u32 tgid
        zs_u32 tid
        zs_u32 seq
        zs_u32 len
        zs_u32 run
        zs_u32 run_off
        zs_u64 prev_len
        zs_u64 prev_end_ns

    struct zs_progress:
        zs_hdr hdr
        zs_u64 time_ns
        zs_u64 conn_id
        zs_u64 run_len
        zs_u64 run_end_ns
        zs_u32 run

    struct zs_close:
        zs_hdr hdr
        zs_u64 time_ns
        zs_u64 conn_id
        zs_u64 end_ns
        zs_u64 run_len
        zs_u64 run_end_ns
        zs_u64 bytes_sent
        zs_u64 bytes_received
        zs_u32 run
        zs_u32 error
        zs_u32 retransmits
        zs_u32 srtt_us

    struct zs_dgram:
        zs_hdr hdr
        zs_u64 time_ns
        zs_u64 conn_id
        zs_u64 cgroup_id
        zs_u32 tgid
        zs_u32 tid
        zs_u32 netns
        zs_u32 len
        zs_u16 local_port
        zs_u16 remote_port
        zs_u8 family
        zs_u8 *local_addr
        zs_u8 *remote_addr
        char *comm

    struct zs_nic:
        zs_hdr hdr
        zs_u64 time_ns
        zs_u64 netns_cookie
        zs_u64 prev_bytes
        zs_u64 prev_end_ns
        zs_u32 ifindex
        zs_u32 isn_connecting
        zs_u32 isn_accepting
        zs_u32 seq
        zs_u32 prev_seq
        zs_u32 prev_packets
        zs_u32 prev_retransmits
        zs_u32 tunnel_id
        zs_u16 src_port
        zs_u16 dst_port
        zs_u16 vlan
        zs_u8 family
        zs_u8 outer_family
        zs_u8 role
        zs_u8 tunnel
        zs_u8 *src_addr
        zs_u8 *dst_addr
        zs_u8 *outer_src_addr
        zs_u8 *outer_dst_addr

    struct zs_exe:
        zs_u64 ino
        zs_u32 dev
        zs_u32 pad
