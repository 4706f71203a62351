/* ARP stays on the bridge. A pod may speak of itself alone: what it says of others would end up in their tables. */
#ifndef SLUICE_ARP_H
#define SLUICE_ARP_H

#include "addresses.h"
#include "frame.h"

/* The kernel's own header of these needs a C library. */
#define ARPHRD_ETHER 1
#define ARPOP_REQUEST 1
#define ARPOP_REPLY 2

/* RFC 826, for Ethernet and IPv4. */
struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

static __always_inline int arp(const struct frame *frame)
{
	struct arp arp;

	if (!copy(frame, 0, &arp, sizeof(arp)))
		return drop(MALFORMED);
	if (arp.hardware != bpf_htons(ARPHRD_ETHER) || arp.protocol != bpf_htons(ETH_P_IP) ||
	    arp.hardware_length != ETH_ALEN || arp.protocol_length != sizeof(arp.sender))
		return drop(MALFORMED);
	if (arp.operation != bpf_htons(ARPOP_REQUEST) && arp.operation != bpf_htons(ARPOP_REPLY))
		return drop(ARP);
	/* The frame's source has been compared with the pod's. */
	if (!is_same_mac(arp.sender_mac, frame->ethernet.h_source))
		return drop(ARP);
	/* Nobody's address: whether an address is taken already (RFC 5227). */
	if (arp.sender != 0 && !is_own_v4(frame->skb->ifindex, arp.sender))
		return drop(ARP);
	return TC_ACT_OK;
}

#endif
