// From the underlay to the TUN device, past the process: runs where packets come in by the underlay's interface (tc,
// ingress), whoever they are for.
//
//   datagram in the kernel path's form, of a known peer, for this node's pods, with hops left
//       → outer headers off → one hop less → into the TUN device, as if the ring had written it
//   anything else → on up, as if this program were not there
//
// What is checked is what `Inbound` checks, in Sources/DataPlane/Worker, and what the kernel's own IP and UDP do before
// a datagram comes to it. Nothing is judged here: what is wrong goes up, where it is dropped for its reason and counted.
#include "underlay.h"

enum {
  // Bytes before the inner packet.
  INNER_OFFSET = ETHERNET_BYTES + OUTER_BYTES,
  // Datagrams that a sender's super-packet has at most (UDP_MAX_SEGMENTS of linux/udp.h, Linux 6.9).
  SEGMENTS = 128,
};

// Whether it is a datagram to the ring's socket, or to the one that it had before.
INLINE int is_for_the_ring(const struct outer_headers *outer, const struct kernel_settings *settings) {
  uint16_t port = outer->udp.destination;
  return ((port == settings->port && is_to(&outer->ip, &settings->underlay_address)) ||
          (port == settings->former_port && is_to(&outer->ip, &settings->former_address))) &&
         is_datagram(&outer->ip);
}

// Whether all lengths agree, the headers' checksums are right, and the inner packet has nothing between its headers.
INLINE int is_whole(const struct outer_headers *outer, const union inner_header *header, const struct inner_packet *inner,
                    uint32_t frame_bytes) {
  uint32_t bytes = payload_bytes(&outer->ip);
  return bytes + OUTER_IP_BYTES + ETHERNET_BYTES == frame_bytes && swap16(outer->udp.length) == bytes &&
         inner->bytes + UDP_BYTES == bytes && inner->is_plain && is_undamaged(&outer->ip) &&
         (inner->is_ipv6 || header_sum(&header->ipv4.ip) == 0xFFFF);
}

// The peer that a datagram comes from, where its inner source is that peer's and its inner destination is ours.
INLINE struct kernel_holder *sender_of(const struct outer_headers *outer, const union inner_header *header, int is_ipv6) {
  uint32_t first = 0;
  void *table = is_ipv6 ? map_lookup(MAP(KERNEL_MAP_TABLE_IPV6), &first) : map_lookup(MAP(KERNEL_MAP_TABLE), &first);
  if (!table) return 0;
  struct kernel_holder *receiver = is_ipv6 ? holder_of_ipv6(table, header->ipv6.ip.destination)
                                           : holder_of_ipv4(table, header->ipv4.ip.destination);
  if (!receiver || receiver->kind != KERNEL_HOLDER_OWN) return 0;
  struct kernel_holder *sender =
      is_ipv6 ? holder_of_ipv6(table, header->ipv6.ip.source) : holder_of_ipv4(table, header->ipv4.ip.source);
  if (!sender || sender->kind != KERNEL_HOLDER_PEER) return 0;
  return is_from(&outer->ip, &sender->endpoint.address) ? sender : 0;
}

// Whether all that was left to any of the workers up to a ticket is through: what the peer's ring sent of a flow may be
// another worker's than what its kernel path did.
INLINE int is_through_all(uint32_t workers, uint64_t ticket) {
  int is_through_so_far = 1;
  for (uint32_t worker = 0; worker < KERNEL_WORKERS; worker++) {
    if (worker >= workers) break;
    struct kernel_passage *ring = passage(KERNEL_WAY_IN, worker);
    if (!ring || !is_through(ring, ticket)) is_through_so_far = 0;
  }
  return is_through_so_far;
}

// Notes the ticket of an inner packet at an offset for its flow.
INLINE void note_flow(struct __sk_buff *packet, uint32_t offset, uint64_t ticket) {
  union inner_header header;
  struct inner_packet inner;
  if (!read_inner(packet, offset, &header, &inner)) return;
  struct kernel_flow *place = flow_place(&inner.flow);
  if (place) note_ticket(&place->received_ticket, ticket);
}

// Leaves datagrams to the ring: one, or several of one size that were merged.
INLINE int leave_to_ring(struct __sk_buff *packet, uint32_t worker) {
  uint32_t size = packet->gso_size, bytes = packet->len - INNER_OFFSET;
  uint32_t count = size ? (bytes + size - 1) / size : 1;
  uint64_t ticket = enter(KERNEL_WAY_IN, worker, count);
  if (count == 1 || size > KERNEL_NOTED_BYTES) {
    note_flow(packet, INNER_OFFSET, ticket);
    if (count > 1) note_flow(packet, INNER_OFFSET + (count - 1) * size, ticket);
    return PASS;
  }
  for (uint32_t segment = 0; segment < SEGMENTS; segment++) {
    if (segment >= count) break;
    note_flow(packet, INNER_OFFSET + (uint32_t)unknown(segment) * size, ticket);
    // Without CAP_PERFMON the verifier also follows what a processor may guess: turns beyond the last one, until one of them is
    // the same as one before in all registers, also in those that nobody reads. So nothing of a turn is left in them.
    asm volatile("r0 = 0; r1 = 0; r2 = 0; r3 = 0; r4 = 0; r5 = 0; r6 = 0; r7 = 0; r8 = 0; r9 = 0" ::
                     : "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9");
  }
  return PASS;
}

// What `take` says of a datagram that it has left as it was, for the ring: no verdict of traffic control.
#define LEFT (-2)

// Takes the outer headers off; 0 where it could.
INLINE int uncover(struct __sk_buff *packet, int is_ipv6) {
  int32_t bytes = OUTER_BYTES;
  if (is_ipv6 != UNDERLAY_IS_IPV6) {
    // What the kernel is to take the packet for. It makes the outer header as long as one of that family.
    if (change_protocol(packet, swap16(is_ipv6 ? ETHERNET_IPV6 : ETHERNET_IPV4), 0)) return LEFT;
    bytes = UDP_BYTES + (is_ipv6 ? IPV6_BYTES : IPV4_BYTES);
  }
  // Refused where there is no memory, and then it changes nothing.
  if (!adjust_room(packet, -bytes, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO)) return 0;
  if (is_ipv6 == UNDERLAY_IS_IPV6) return LEFT;
  count_event(KERNEL_EVENT_FAILED, 1);
  return LOSE;
}

// Takes a datagram in the kernel path's form into the TUN device, unless it is the ring's.
INLINE int take(struct __sk_buff *packet, const struct outer_headers *outer, const struct kernel_settings *settings,
                uint64_t now) {
  union inner_header header;
  struct inner_packet inner;
  struct kernel_holder *sender = 0;
  if (read_inner(packet, INNER_OFFSET, &header, &inner) && is_whole(outer, &header, &inner, packet->len))
    sender = sender_of(outer, &header, inner.is_ipv6);
  if (!sender || inner.hops <= 1 || inner.bytes > settings->mtu) {
    count_event(KERNEL_EVENT_LEFT_TO_RING, 1);
    return LEFT;
  }
  uint32_t slot = sender->counter_slot;
  struct kernel_flow *flow = flow_place(&inner.flow), *others = place_of_all_flows(&inner);
  if (!flow || !others) return LEFT;
  if (!is_bare_acknowledgement(packet, INNER_OFFSET, &inner)) {
    // The last ticket that is to be through before it.
    if (!is_through_all(settings->workers, later(flow->received_ticket, others->received_ticket))) {
      count_event(KERNEL_EVENT_KEPT_IN_ORDER, 1);
      return LEFT;
    }
    // The other side has sent something: whoever waits for answers is no flood. And somebody waits for this one. A bare
    // acknowledgement is no answer: each second segment of a flood has one.
    note_awaited(now);
    if (flow->unanswered) flow->unanswered = 0;
  }
  int refusal = uncover(packet, inner.is_ipv6);
  if (refusal) return refusal;
  take_hop(&header, &inner);
  // A checksum over all of it, which a card may have summed up, has to follow the hops of IPv6. Of IPv4 the header's own
  // checksum changes by the same amount, and it stays right.
  if (store_bytes(packet, ETHERNET_BYTES, &header, CHANGED_BYTES, BPF_F_RECOMPUTE_CSUM)) {
    count_event(KERNEL_EVENT_FAILED, 1);
    return LOSE;
  }
  // Whatever a card or somebody before us said of the outer packet is not true of this one.
  set_hash_invalid(packet);
  packet->mark = 0;
  packet->priority = 0;
  count_event(KERNEL_EVENT_RECEIVED, 1);
  count_event(KERNEL_EVENT_RECEIVED_BYTES, inner.bytes);
  struct kernel_peer_counts *counts = map_lookup(MAP(KERNEL_MAP_PEERS), &slot);
  if (counts) {
    counts->packets_received += 1;
    counts->bytes_received += inner.bytes;
    counts->last_received = now;
  }
  return redirect(settings->tunnel_index, BPF_F_INGRESS);
}

PROGRAM int inbound(struct __sk_buff *packet) {
  if (packet->protocol != swap16(ETHERNET_OUTER) || packet->pkt_type != PACKET_TO_US || packet->vlan_present)
    return PASS;
  // Copied, since a card may leave it in several pieces.
  struct outer_headers outer;
  struct kernel_settings *settings = current_settings();
  if (!settings || load_bytes(packet, ETHERNET_BYTES, &outer, sizeof outer) || !is_for_the_ring(&outer, settings))
    return PASS;
  // Only the kernel path sends datagrams without a UDP checksum.
  uint64_t now = monotonic_time();
  if (outer.udp.checksum == 0 && outer.udp.destination == settings->port &&
      is_to(&outer.ip, &settings->underlay_address) && !packet->gso_size && now < settings->valid_until) {
    int verdict = take(packet, &outer, settings, now);
    if (verdict != LEFT) return verdict;
  }
  // What `twill_steer_datagrams` computes (Common/CLinux/steering.c).
  uint32_t workers = settings->workers;
  return leave_to_ring(packet, workers ? (source_number(&outer.ip) + swap16(outer.udp.source)) % workers : 0);
}
