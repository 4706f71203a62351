/* The map of counters: how many frames were dropped, by reason. Mirrored in src/dropped.rs. */
#ifndef SLUICE_DROPS_H
#define SLUICE_DROPS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

enum reason {
	UNKNOWN_PORT = 0,
	VLAN = 1,
	MALFORMED = 2,
	ETHER_TYPE = 3,
	SOURCE_MAC = 4,
	ARP = 5,
	SOURCE_ADDRESS = 6,
	MULTICAST = 7,
	GROUP_FRAME = 8,
	ROUTER_MESSAGE = 9,
	NEIGHBOUR_DISCOVERY = 10,
	NOT_REDIRECTED = 11,
	REASONS = 12,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

/* Ends a frame: the only way in which one is dropped. */
static __always_inline int drop(enum reason reason)
{
	__u32 key = reason;
	__u64 *count = bpf_map_lookup_elem(&drops, &key);

	if (count)
		*count += 1;
	return TC_ACT_SHOT;
}

#endif
