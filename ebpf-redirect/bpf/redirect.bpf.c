/*
 * At tc ingress of a pod's port on a bridge: takes the pod's IP frames off the bridge and hands them to the bridge itself, so
 * that they meet the node's IP stack and what it decides there. Decides nothing of policy: only what kind of frame a pod may
 * send at all, and that it speaks for itself.
 *
 *   ARP, neighbour discovery, MLD, DHCP    stay on the bridge (TC_ACT_OK), checked
 *   IPv4 and IPv6 from the pod's address   to the bridge
 *   everything else                        dropped, and counted by reason
 *
 * The answer is always final: no filter behind this one is asked. What can't be parsed is dropped.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "addresses.h"
#include "arp.h"
#include "drops.h"
#include "frame.h"
#include "ipv4.h"
#include "ipv6.h"
#include "ports.h"

SEC("tc")
int sluice_redirect(struct __sk_buff *skb)
{
	struct frame frame = { .skb = skb };
	__u32 index = skb->ifindex;

	frame.port = bpf_map_lookup_elem(&ports, &index);
	if (!frame.port)
		return drop(UNKNOWN_PORT);

	/* The kernel has taken the outermost tag off the frame already, a priority tag (VLAN 0) too. */
	if (skb->vlan_present)
		return drop(VLAN);
	if (bpf_skb_load_bytes(skb, 0, &frame.ethernet, sizeof(frame.ethernet)) < 0)
		return drop(MALFORMED);
	if (frame.ethernet.h_proto == bpf_htons(ETH_P_8021Q) || frame.ethernet.h_proto == bpf_htons(ETH_P_8021AD))
		return drop(VLAN);
	/* What the kernel takes the frame for, and what is parsed here, must be one. */
	if (skb->protocol != frame.ethernet.h_proto)
		return drop(ETHER_TYPE);
	frame.payload = skb->len - ETH_HLEN;

	if (frame.port->mac_known && !is_same_mac(frame.ethernet.h_source, frame.port->mac))
		return drop(SOURCE_MAC);

	switch (bpf_ntohs(frame.ethernet.h_proto)) {
	case ETH_P_ARP:
		return arp(&frame);
	case ETH_P_IP:
		return ipv4(&frame);
	case ETH_P_IPV6:
		return ipv6(&frame);
	default:
		return drop(ETHER_TYPE);
	}
}

/* None of the helpers asks for another. */
char LICENSE[] SEC("license") = "Apache-2.0";
