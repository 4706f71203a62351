/* The map of ports: where a port's frames go, and who sends them. Mirrored in src/entries.rs. */
#ifndef SLUICE_PORTS_H
#define SLUICE_PORTS_H

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

struct port {
	/* The interface index of the bridge, where the port's frames are received. */
	__u32 bridge;
	/* What the frames must be addressed to for the bridge's own IP stack to take them. */
	__u8 bridge_mac[ETH_ALEN];
	/* The pod's address; it counts only where mac_known is 1. */
	__u8 mac[ETH_ALEN];
	__u8 mac_known;
	__u8 padding[3];
};
_Static_assert(sizeof(struct port) == 20, "src/entries.rs writes 20 bytes");

/* By the port's interface index. A port that isn't in here is closed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

#endif
