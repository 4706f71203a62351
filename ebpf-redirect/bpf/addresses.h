/* The map of addresses: which pod's port may send with which source. Mirrored in src/entries.rs. */
#ifndef SLUICE_ADDRESSES_H
#define SLUICE_ADDRESSES_H

#include <linux/bpf.h>
#include <linux/in6.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct address {
	/* The interface index of the port. */
	__u32 port;
	/* 4 or 6. */
	__u32 version;
	/* In the order of the wire; an IPv4 address is followed by zeros. */
	__u8 bytes[16];
};
_Static_assert(sizeof(struct address) == 24, "src/entries.rs writes 24 bytes");

/* A set: the values mean nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct address);
	__type(value, __u8);
} addresses SEC(".maps");

static __always_inline int is_own_v4(__u32 port, __be32 source)
{
	struct address key = { .port = port, .version = 4 };

	__builtin_memcpy(key.bytes, &source, sizeof(source));
	return bpf_map_lookup_elem(&addresses, &key) != 0;
}

static __always_inline int is_own_v6(__u32 port, const struct in6_addr *source)
{
	struct address key = { .port = port, .version = 6 };

	__builtin_memcpy(key.bytes, source, sizeof(*source));
	return bpf_map_lookup_elem(&addresses, &key) != 0;
}

#endif
