/*
 * IPv6: the pod's own neighbour discovery, reports of multicast groups and DHCPv6 stay on the bridge; what the pod sends as
 * itself to one station is taken off it; all else is dropped.
 */
#ifndef SLUICE_IPV6_H
#define SLUICE_IPV6_H

#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ipv6.h>

#include "addresses.h"
#include "frame.h"

/* Types of ICMPv6: RFC 4861, 2710, 3810. */
#define MLD_QUERY 130
#define MLD_REPORT 131
#define MLD_DONE 132
#define ROUTER_SOLICITATION 133
#define ROUTER_ADVERTISEMENT 134
#define NEIGHBOUR_SOLICITATION 135
#define NEIGHBOUR_ADVERTISEMENT 136
#define REDIRECT 137
#define MLD2_REPORT 143

/* More extension headers than this before the transport's is nothing that anybody sends in earnest. */
#define MOST_EXTENSIONS 8

#define FIXED_HEADER sizeof(struct ipv6hdr)

static __always_inline int is_multicast_v6(const struct in6_addr *address)
{
	return address->s6_addr[0] == 0xff;
}

/* fe80::/10 */
static __always_inline int is_link_local(const struct in6_addr *address)
{
	return address->s6_addr[0] == 0xfe && (address->s6_addr[1] & 0xc0) == 0x80;
}

static __always_inline int is_unspecified(const struct in6_addr *address)
{
	return (address->s6_addr32[0] | address->s6_addr32[1] | address->s6_addr32[2] | address->s6_addr32[3]) == 0;
}

/* ff02::1:2, where DHCPv6's servers and relays listen. */
static __always_inline int is_all_dhcp(const struct in6_addr *address)
{
	return address->s6_addr32[0] == bpf_htonl(0xff020000) && address->s6_addr32[1] == 0 && address->s6_addr32[2] == 0 &&
	       address->s6_addr32[3] == bpf_htonl(0x00010002);
}

/*
 * Solicitations and advertisements directly behind the fixed header. As with ARP, a pod may speak of itself alone: others
 * learn from the source of a solicitation, and from the target of an advertisement. Link-local addresses are not known here,
 * and nothing but neighbour discovery passes with one.
 */
static __always_inline int neighbour_discovery(const struct frame *frame, const struct ipv6hdr *ip, __u8 type, int own)
{
	__u32 needed = type == ROUTER_SOLICITATION ? 8 : 24;
	struct in6_addr target;

	if (ip->hop_limit != 255 || bpf_ntohs(ip->payload_len) < needed)
		return drop(NEIGHBOUR_DISCOVERY);
	if (type != ROUTER_SOLICITATION && !copy(frame, FIXED_HEADER + 8, &target, sizeof(target)))
		return drop(MALFORMED);
	if (!own && !is_link_local(&ip->saddr) && (type == NEIGHBOUR_ADVERTISEMENT || !is_unspecified(&ip->saddr)))
		return drop(SOURCE_ADDRESS);
	if (type == NEIGHBOUR_ADVERTISEMENT && !is_link_local(&target) && !is_own_v6(frame->skb->ifindex, &target))
		return drop(NEIGHBOUR_DISCOVERY);
	return TC_ACT_OK;
}

/* Whether this is MLD as RFC 2710 and 3810 have it: behind one hop-by-hop header. */
static __always_inline int is_group_membership(const struct frame *frame)
{
	__u8 extension[2], type;

	if (!copy(frame, FIXED_HEADER, extension, sizeof(extension)) || extension[0] != IPPROTO_ICMPV6 ||
	    !copy(frame, FIXED_HEADER + 8 + extension[1] * 8, &type, sizeof(type)))
		return 0;
	return type == MLD_QUERY || type == MLD_REPORT || type == MLD_DONE || type == MLD2_REPORT;
}

/*
 * Walks the extension headers of a packet that is to be taken off the bridge, and takes it. Neighbour discovery behind them
 * would reach the node's own tables by a way on which nobody has looked at its target. What the walk can't follow is dropped.
 */
static __always_inline int walk(const struct frame *frame, __u8 next)
{
	__u32 offset = FIXED_HEADER;
	__u8 extension[8], type;

#pragma clang loop unroll(disable)
	for (int i = 0; i <= MOST_EXTENSIONS; i++) {
		switch (next) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_MH:
		case IPPROTO_AH:
		case IPPROTO_FRAGMENT:
			break;
		case IPPROTO_ICMPV6:
			if (!copy(frame, offset, &type, sizeof(type)))
				return drop(MALFORMED);
			if (type >= ROUTER_SOLICITATION && type <= REDIRECT)
				return drop(NEIGHBOUR_DISCOVERY);
			return take(frame);
		default:
			return take(frame);
		}
		if (!copy(frame, offset, extension, sizeof(extension)))
			return drop(MALFORMED);
		/* A later fragment has no headers of its own, and comes to nothing without the first. */
		if (next == IPPROTO_FRAGMENT && ((extension[2] << 8 | extension[3]) & 0xfff8) != 0)
			return take(frame);
		if (next == IPPROTO_AH)
			offset += (extension[1] + 2) * 4;
		else if (next == IPPROTO_FRAGMENT)
			offset += 8;
		else
			offset += (extension[1] + 1) * 8;
		if (offset > frame->payload)
			return drop(MALFORMED);
		next = extension[0];
	}
	return drop(MALFORMED);
}

static __always_inline int ipv6(const struct frame *frame)
{
	struct ipv6hdr ip;
	int own, link_local;
	__u8 type;

	if (!copy(frame, 0, &ip, sizeof(ip)))
		return drop(MALFORMED);
	if (ip.version != 6 || bpf_ntohs(ip.payload_len) > frame->payload - FIXED_HEADER)
		return drop(MALFORMED);

	own = is_own_v6(frame->skb->ifindex, &ip.saddr);
	link_local = is_link_local(&ip.saddr);
	if (ip.nexthdr == IPPROTO_ICMPV6) {
		if (!copy(frame, FIXED_HEADER, &type, sizeof(type)))
			return drop(MALFORMED);
		if (type == ROUTER_ADVERTISEMENT || type == REDIRECT)
			return drop(ROUTER_MESSAGE);
		if (type == ROUTER_SOLICITATION || type == NEIGHBOUR_SOLICITATION || type == NEIGHBOUR_ADVERTISEMENT)
			return neighbour_discovery(frame, &ip, type, own);
	}
	if (is_multicast_v6(&ip.daddr)) {
		/* A host without an address yet reports from nobody's (RFC 3590). */
		if (ip.nexthdr == IPPROTO_HOPOPTS && (own || link_local || is_unspecified(&ip.saddr)) && is_group_membership(frame))
			return TC_ACT_OK;
		if (ip.nexthdr == IPPROTO_UDP && link_local && is_all_dhcp(&ip.daddr) &&
		    has_ports(frame, FIXED_HEADER, DHCPV6_CLIENT, DHCPV6_SERVER))
			return TC_ACT_OK;
		return drop(own || link_local ? MULTICAST : SOURCE_ADDRESS);
	}
	if (!own)
		return drop(SOURCE_ADDRESS);
	if (is_group(frame->ethernet.h_dest))
		return drop(GROUP_FRAME);
	return walk(frame, ip.nexthdr);
}

#endif
