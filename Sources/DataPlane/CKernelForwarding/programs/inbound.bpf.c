// From the underlay to the TUN device, past the process: runs where packets come in by the underlay's interface (tc,
// ingress), whoever they are for.
//
//   datagram in the kernel path's form, of a known peer, for this node's pods, with hops left
//       → outer headers off → one hop less → into the TUN device, as if the ring had written it
//   anything else → on up, as if this program were not there
//
// What is checked is what `Inbound` checks, in Sources/DataPlane/Worker, and what the kernel's own IPv4 and UDP do before
// a datagram comes to it. Nothing is judged here: what is wrong goes up, where it is dropped for its reason and counted.
#include "kernel.h"

// What is looked at of a datagram, one behind the other: copied, since a card may leave it in several pieces.
struct datagram {
  uint8_t ethernet[ETHERNET_BYTES];
  struct ipv4_header outer;
  struct udp_header udp;
  struct ipv4_header inner;
} __attribute__((packed, aligned(2)));

// Whether it is a datagram to our port without a UDP checksum, which only the kernel path sends. The port comes first:
// by far most packets are somebody else's.
INLINE int has_our_form(const struct datagram *datagram, const struct kernel_settings *settings) {
  return datagram->udp.destination == settings->port && datagram->udp.checksum == 0 &&
         datagram->outer.transport == UDP && datagram->outer.version_and_length == VERSION_4_WITHOUT_OPTIONS &&
         datagram->outer.destination == settings->underlay_address;
}

// Whether all lengths agree, both headers' checksums are right, and neither packet is a fragment.
INLINE int is_whole(const struct datagram *datagram, uint32_t frame_bytes) {
  const uint16_t fragmented = swap16((uint16_t)~DO_NOT_FRAGMENT);
  uint16_t outer_bytes = swap16(datagram->outer.total_length);
  return outer_bytes + ETHERNET_BYTES == frame_bytes &&
         swap16(datagram->udp.length) + IPV4_BYTES == outer_bytes &&
         datagram->inner.version_and_length == VERSION_4_WITHOUT_OPTIONS &&
         swap16(datagram->inner.total_length) + OUTER_BYTES == outer_bytes &&
         !((datagram->outer.fragment | datagram->inner.fragment) & fragmented) &&
         header_sum(&datagram->outer) == 0xFFFF && header_sum(&datagram->inner) == 0xFFFF;
}

// The peer that a datagram comes from, where its inner source is that peer's and its inner destination is ours.
INLINE struct kernel_holder *sender_of(const struct datagram *datagram) {
  void *table = current_table();
  if (!table) return 0;
  struct kernel_holder *receiver = holder_of(table, datagram->inner.destination);
  if (!receiver || receiver->kind != KERNEL_HOLDER_OWN) return 0;
  struct kernel_holder *sender = holder_of(table, datagram->inner.source);
  if (!sender || sender->kind != KERNEL_HOLDER_PEER) return 0;
  return sender->endpoint.address == datagram->outer.source ? sender : 0;
}

// The flow of an inner packet, and whether the packet may pass others of it.
INLINE struct kernel_flow *flow_of(struct __sk_buff *packet, const struct ipv4_header *inner, uint32_t bytes, int *may_pass) {
  struct transport_head head = {0};
  struct flow_name flow = {
      .source = inner->source, .destination = inner->destination, .transport = inner->transport};
  const uint32_t offset = ETHERNET_BYTES + OUTER_BYTES + IPV4_BYTES;
  if (flow.transport == TCP || flow.transport == UDP) load_bytes(packet, offset, &head, 4);
  flow.source_port = head.source_port;
  flow.destination_port = head.destination_port;
  if (flow.transport == TCP) load_bytes(packet, offset, &head, sizeof head);
  *may_pass = is_bare_acknowledgement(&head, flow.transport, bytes);
  return flow_place(&flow);
}

// Whether the ring may still hold a packet of the flow, which this one would pass: it took in what came while this program
// took nothing. Then this one goes by the ring, and is noted.
INLINE int is_behind(struct kernel_flow *flow, const struct kernel_settings *settings, uint64_t now) {
  if (now >= settings->takes_from && now >= flow->inbound_ring_until) return 0;
  flow->inbound_ring_until = now + KERNEL_RING_NANOSECONDS;
  return 1;
}

PROGRAM int inbound(struct __sk_buff *packet) {
  if (packet->protocol != swap16(ETHERNET_IPV4) || packet->pkt_type != PACKET_TO_US || packet->gso_size ||
      packet->vlan_present)
    return PASS;
  uint32_t frame_bytes = packet->len;
  struct datagram datagram;
  if (load_bytes(packet, 0, &datagram, sizeof datagram) || datagram.udp.checksum != 0 ||
      datagram.outer.transport != UDP)
    return PASS;
  uint64_t now = monotonic_time();
  struct kernel_settings *settings = current_settings(now);
  if (!settings || !has_our_form(&datagram, settings)) return PASS;

  struct kernel_holder *sender = is_whole(&datagram, frame_bytes) ? sender_of(&datagram) : 0;
  struct ipv4_header inner = datagram.inner;
  uint32_t bytes = swap16(inner.total_length);
  if (!sender || inner.time_to_live <= 1 || bytes > settings->mtu) {
    count_event(KERNEL_EVENT_LEFT_TO_RING, 1);
    return PASS;
  }
  uint32_t slot = sender->counter_slot;
  int may_pass;
  struct kernel_flow *flow = flow_of(packet, &inner, bytes, &may_pass);
  if (!flow) return PASS;
  if (!may_pass) {
    if (is_behind(flow, settings, now)) {
      count_event(KERNEL_EVENT_KEPT_IN_ORDER, 1);
      return PASS;
    }
    // The other side has sent something: whoever waits for answers is no flood. And somebody waits for this one. A bare
    // acknowledgement is no answer: each second segment of a flood has one.
    note_awaited(now);
    if (flow->unanswered) flow->unanswered = 0;
  }
  // Refused where there is no memory, and then nothing was changed.
  if (adjust_room(packet, -OUTER_BYTES, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO)) return PASS;
  decrement_time_to_live(&inner);
  // Hops and header checksum change by the same amount, so that a checksum over all of it, which a card may have
  // summed up, stays right.
  if (store_bytes(packet, ETHERNET_BYTES, &inner, sizeof inner, 0)) {
    count_event(KERNEL_EVENT_FAILED, 1);
    return LOSE;
  }
  // Whatever a card or somebody before us said of the outer packet is not true of this one.
  set_hash_invalid(packet);
  packet->mark = 0;
  packet->priority = 0;
  count_event(KERNEL_EVENT_RECEIVED, 1);
  count_event(KERNEL_EVENT_RECEIVED_BYTES, bytes);
  struct kernel_peer_counts *counts = map_lookup(MAP(KERNEL_MAP_PEERS), &slot);
  if (counts) {
    counts->packets_received += 1;
    counts->bytes_received += bytes;
    counts->last_received = now;
  }
  return redirect(settings->tunnel_index, BPF_F_INGRESS);
}
