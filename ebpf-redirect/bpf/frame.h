/* What all parts of the program know of the frame in hand. */
#ifndef SLUICE_FRAME_H
#define SLUICE_FRAME_H

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "drops.h"
#include "ports.h"

/* DHCP in both versions, from the client to its server. */
#define DHCP_CLIENT 68
#define DHCP_SERVER 67
#define DHCPV6_CLIENT 546
#define DHCPV6_SERVER 547

struct frame {
	struct __sk_buff *skb;
	const struct port *port;
	struct ethhdr ethernet;
	/* Bytes behind the Ethernet header. */
	__u32 payload;
};

/* Copies what lies `offset` bytes behind the Ethernet header; false where the frame is too short for it. */
static __always_inline int copy(const struct frame *frame, __u32 offset, void *to, __u32 length)
{
	return bpf_skb_load_bytes(frame->skb, ETH_HLEN + offset, to, length) == 0;
}

/* As clang 14 doesn't expand a memcmp of six bytes. */
static __always_inline int is_same_mac(const __u8 *one, const __u8 *other)
{
	__u8 difference = 0;

#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		difference |= one[i] ^ other[i];
	return difference == 0;
}

/* Addressed to more than one station. */
static __always_inline int is_group(const __u8 *mac)
{
	return mac[0] & 1;
}

/* Whether the UDP header at `offset` has these ports. */
static __always_inline int has_ports(const struct frame *frame, __u32 offset, __u16 source, __u16 destination)
{
	__be16 ports[4];

	return copy(frame, offset, ports, sizeof(ports)) && ports[0] == bpf_htons(source) &&
	       ports[1] == bpf_htons(destination);
}

/*
 * Takes the frame off the bridge: it is received by the bridge itself, where the node's IP stack and its rules meet it. The
 * address is rewritten because the kernel types a frame anew when it is redirected, and what is addressed to another
 * station would be dropped.
 */
static __always_inline int take(const struct frame *frame)
{
	__u32 at = __builtin_offsetof(struct ethhdr, h_dest);

	if (bpf_skb_store_bytes(frame->skb, at, frame->port->bridge_mac, ETH_ALEN, 0) < 0)
		return drop(NOT_REDIRECTED);
	return bpf_redirect(frame->port->bridge, BPF_F_INGRESS);
}

#endif
