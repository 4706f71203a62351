/* IPv4: DHCP stays on the bridge; what the pod sends as itself to one station is taken off it; all else is dropped. */
#ifndef SLUICE_IPV4_H
#define SLUICE_IPV4_H

#include <linux/in.h>
#include <linux/ip.h>

#include "addresses.h"
#include "frame.h"

/* "More fragments", or any offset. */
#define FRAGMENTED 0x3fff

static __always_inline int is_multicast_v4(__be32 address)
{
	return (address & bpf_htonl(0xf0000000)) == bpf_htonl(INADDR_UNSPEC_GROUP);
}

static __always_inline int ipv4(const struct frame *frame)
{
	struct iphdr ip;
	__u32 header, total;
	int own, to_all;

	if (!copy(frame, 0, &ip, sizeof(ip)))
		return drop(MALFORMED);
	header = ip.ihl * 4;
	total = bpf_ntohs(ip.tot_len);
	/* A segment of more than 64 KiB that the kernel has not cut yet (BIG TCP). */
	if (total == 0 && frame->skb->gso_size != 0)
		total = frame->payload;
	if (ip.version != 4 || header < sizeof(ip) || total < header || total > frame->payload)
		return drop(MALFORMED);

	own = is_own_v4(frame->skb->ifindex, ip.saddr);
	to_all = ip.daddr == bpf_htonl(INADDR_BROADCAST);
	/* From nobody's address, or from the pod's own when a lease is rebound (RFC 2131, 4.4.5). */
	if ((own || ip.saddr == 0) && to_all && ip.protocol == IPPROTO_UDP && !(ip.frag_off & bpf_htons(FRAGMENTED)) &&
	    has_ports(frame, header, DHCP_CLIENT, DHCP_SERVER))
		return TC_ACT_OK;
	if (!own)
		return drop(SOURCE_ADDRESS);
	if (to_all || is_multicast_v4(ip.daddr))
		return drop(MULTICAST);
	if (is_group(frame->ethernet.h_dest))
		return drop(GROUP_FRAME);
	return take(frame);
}

#endif
