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

enum {
  // Bytes before the inner packet.
  INNER_OFFSET = ETHERNET_BYTES + OUTER_BYTES,
  // Datagrams that a sender's super-packet has at most (UDP_MAX_SEGMENTS of linux/udp.h, Linux 6.9).
  SEGMENTS = 128,
};

// All of a fragment field but "do not fragment".
INLINE int is_fragment(uint16_t field) { return field & swap16((uint16_t)~DO_NOT_FRAGMENT); }

// Whether it is a datagram to the ring's socket, or to the one that it had before.
INLINE int is_for_the_ring(const struct datagram *datagram, const struct kernel_settings *settings) {
  uint16_t port = datagram->udp.destination;
  uint32_t address = datagram->outer.destination;
  return ((port == settings->port && address == settings->underlay_address) ||
          (port == settings->former_port && address == settings->former_address)) &&
         datagram->outer.transport == UDP && datagram->outer.version_and_length == VERSION_4_WITHOUT_OPTIONS &&
         !is_fragment(datagram->outer.fragment);
}

// Whether all lengths agree, both headers' checksums are right, and the inner packet is no fragment.
INLINE int is_whole(const struct datagram *datagram, uint32_t frame_bytes) {
  uint16_t outer_bytes = swap16(datagram->outer.total_length);
  return outer_bytes + ETHERNET_BYTES == frame_bytes &&
         swap16(datagram->udp.length) + IPV4_BYTES == outer_bytes &&
         datagram->inner.version_and_length == VERSION_4_WITHOUT_OPTIONS &&
         swap16(datagram->inner.total_length) + OUTER_BYTES == outer_bytes &&
         !is_fragment(datagram->inner.fragment) &&
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

// The flow of an inner packet, whether the packet may pass others of it, and the last ticket that is to be through before it.
INLINE struct kernel_flow *flow_of(struct __sk_buff *packet, const struct ipv4_header *inner, uint32_t bytes, int *may_pass,
                                   uint64_t *ticket) {
  struct transport_head head = {0};
  struct flow_name flow = {
      .source = inner->source, .destination = inner->destination, .transport = inner->transport};
  struct flow_name untold = {.source = inner->source, .destination = inner->destination};
  const uint32_t offset = INNER_OFFSET + IPV4_BYTES;
  if (flow.transport == TCP || flow.transport == UDP) load_bytes(packet, offset, &head, 4);
  flow.source_port = head.source_port;
  flow.destination_port = head.destination_port;
  if (flow.transport == TCP) load_bytes(packet, offset, &head, sizeof head);
  *may_pass = is_bare_acknowledgement(&head, flow.transport, bytes);
  struct kernel_flow *place = flow_place(&flow), *others = flow_place(&untold);
  if (!place || !others) return 0;
  *ticket = later(place->received_ticket, others->received_ticket);
  return place;
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
  struct {
    struct ipv4_header ip;
    uint16_t source_port;
    uint16_t destination_port;
  } __attribute__((packed, aligned(2))) head = {0};
  if (load_bytes(packet, offset, &head, sizeof head) && load_bytes(packet, offset, &head.ip, sizeof head.ip)) return;
  struct flow_name flow = {.source = head.ip.source, .destination = head.ip.destination};
  // Else it does not tell its ports, and has the place of all flows between the two addresses.
  if (head.ip.version_and_length == VERSION_4_WITHOUT_OPTIONS && !is_fragment(head.ip.fragment)) {
    flow.transport = head.ip.transport;
    if (flow.transport == TCP || flow.transport == UDP) {
      flow.source_port = head.source_port;
      flow.destination_port = head.destination_port;
    }
  }
  struct kernel_flow *place = flow_place(&flow);
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
    note_flow(packet, INNER_OFFSET + segment * size, ticket);
  }
  return PASS;
}

// What `take` says of a datagram that it has left as it was, for the ring: no verdict of traffic control.
#define LEFT (-2)

// Takes a datagram in the kernel path's form into the TUN device, unless it is the ring's.
INLINE int take(struct __sk_buff *packet, struct datagram *datagram, const struct kernel_settings *settings, uint64_t now) {
  struct kernel_holder *sender = 0;
  if (!load_bytes(packet, INNER_OFFSET, &datagram->inner, IPV4_BYTES) && is_whole(datagram, packet->len))
    sender = sender_of(datagram);
  struct ipv4_header inner = datagram->inner;
  uint32_t bytes = swap16(inner.total_length);
  if (!sender || inner.time_to_live <= 1 || bytes > settings->mtu) {
    count_event(KERNEL_EVENT_LEFT_TO_RING, 1);
    return LEFT;
  }
  uint32_t slot = sender->counter_slot;
  int may_pass;
  uint64_t ticket = 0;
  struct kernel_flow *flow = flow_of(packet, &inner, bytes, &may_pass, &ticket);
  if (!flow) return LEFT;
  if (!may_pass) {
    if (!is_through_all(settings->workers, ticket)) {
      count_event(KERNEL_EVENT_KEPT_IN_ORDER, 1);
      return LEFT;
    }
    // The other side has sent something: whoever waits for answers is no flood. And somebody waits for this one. A bare
    // acknowledgement is no answer: each second segment of a flood has one.
    note_awaited(now);
    if (flow->unanswered) flow->unanswered = 0;
  }
  // Refused where there is no memory, and then nothing was changed.
  if (adjust_room(packet, -OUTER_BYTES, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO)) return LEFT;
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

PROGRAM int inbound(struct __sk_buff *packet) {
  if (packet->protocol != swap16(ETHERNET_IPV4) || packet->pkt_type != PACKET_TO_US || packet->vlan_present)
    return PASS;
  struct datagram datagram = {0};
  struct kernel_settings *settings = current_settings();
  if (!settings || load_bytes(packet, 0, &datagram, INNER_OFFSET) || !is_for_the_ring(&datagram, settings)) return PASS;
  // Only the kernel path sends datagrams without a UDP checksum.
  uint64_t now = monotonic_time();
  if (datagram.udp.checksum == 0 && datagram.udp.destination == settings->port &&
      datagram.outer.destination == settings->underlay_address && !packet->gso_size && now < settings->valid_until) {
    int verdict = take(packet, &datagram, settings, now);
    if (verdict != LEFT) return verdict;
  }
  // What `twill_steer_datagrams` computes (Common/CLinux/steering.c).
  uint32_t workers = settings->workers;
  return leave_to_ring(packet, workers ? (swap32(datagram.outer.source) + swap16(datagram.udp.source)) % workers : 0);
}
