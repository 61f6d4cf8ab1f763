"""Where records come from: the kernel's ring buffer (ring, bpf, capture) or a recording (replay)."""
