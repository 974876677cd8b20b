// From the TUN device to the underlay, past the process: runs where packets enter the device's queue (tc, egress).
//
//   whole, small, of a sparse flow, with hops left, to an able peer → one hop less → outer headers → underlay
//   anything else → on into the TUN device, where the ring reads it
//
// Nothing of a flow may pass what the ring still holds of it. So each packet that is left to the ring takes a ticket, which
// its flow notes (kernel.h).
#include "underlay.h"

// A flow with anything large stays in the ring for so long: who mixes sizes has small and large packets side by side, and a
// small one that this node's and the peer's programs carry still waits for its turn (in the queue of packets that come in, of
// one CPU) when the ring of the peer, on another CPU, is done with the large one behind it.
#define BULK_NANOSECONDS 1000000000ull
// So many small packets without an answer in one window are bulk of its kind: 25,600 a second, of one flow or of all that leave
// by one CPU. The ring merges them, and carries three times as many. Who asks and waits for the answer never has more than a few.
#define UNANSWERED_LIMIT 256
#define UNANSWERED_WINDOW_NANOSECONDS 10000000ull
// A flow with no more than these in a window is none of many that flood together: 400 a second.
#define FEW_UNANSWERED 4

// Counts a small packet of a flow; whether there are too many that nobody answers, of this flow or of all. A flow that is a flood
// already, and goes by the ring, counts with the others that do. Those are not counted against one that is none: it may be a call
// beside them, which nobody answers packet by packet either.
INLINE int is_flood(struct kernel_flow *flow, uint64_t now) {
  if (now - flow->window_began > UNANSWERED_WINDOW_NANOSECONDS) {
    flow->window_began = now;
    flow->unanswered = 0;
  }
  flow->unanswered += 1;
  if (flow->unanswered <= FEW_UNANSWERED) return 0;
  uint32_t first = 0;
  struct kernel_crowd *crowd = map_lookup(MAP(KERNEL_MAP_CROWDS), &first);
  if (!crowd) return 0;
  if (now - crowd->window_began > UNANSWERED_WINDOW_NANOSECONDS) {
    crowd->window_began = now;
    crowd->unanswered = 0;
    crowd->flooding = 0;
  }
  uint64_t others = 0;
  if (flow->is_flood) {
    crowd->flooding += 1;
    others = crowd->flooding;
  } else {
    crowd->unanswered += 1;
  }
  return flow->unanswered > UNANSWERED_LIMIT || crowd->unanswered + others > UNANSWERED_LIMIT;
}

// The outer headers, and behind them the part of the inner header that changes.
struct encapsulation {
  struct outer_headers outer;
  uint8_t inner[CHANGED_BYTES];
} __attribute__((aligned(4)));

// From and to the port of the network, without the UDP checksum: nobody here can sum up what the card has still to finish.
INLINE void fill(struct encapsulation *headers, const union inner_header *header, uint32_t inner_bytes,
                 const struct kernel_settings *settings, const struct kernel_endpoint *to) {
  uint32_t bytes = inner_bytes + UDP_BYTES;
  fill_outer(&headers->outer.ip, bytes, &settings->underlay_address, &to->address);
  headers->outer.udp.source = settings->port;
  headers->outer.udp.destination = to->port;
  headers->outer.udp.length = swap16((uint16_t)bytes);
  headers->outer.udp.checksum = 0;
  __builtin_memcpy(headers->inner, header, CHANGED_BYTES);
}

// Sends a packet to a peer by the way that the kernel's routes have for it on the underlay; PASS where it cannot have outer
// headers, and is as it was: the kernel refuses them to what a tunnel of this host (VXLAN, Geneve, GRE, IPIP) has put into
// others with its inner checksum unfinished (EALREADY, bpf_skb_net_grow in net/core/filter.c, Linux 5.2 to 6.18).
INLINE int send(struct __sk_buff *packet, const struct encapsulation *headers, const struct kernel_settings *settings) {
  uint32_t underlay = settings->underlay_index;
  if (adjust_room(packet, OUTER_BYTES, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | ENCAPSULATION_FLAGS)) return PASS;
  // The link header's place before them, which the TUN device has none of.
  if (change_head(packet, ETHERNET_BYTES, 0) ||
      store_bytes(packet, ETHERNET_BYTES, headers, sizeof *headers, 0)) {
    count_event(KERNEL_EVENT_FAILED, 1);
    return LOSE;
  }
  // The inner packet's mark and priority were for its own way: the outer one is a packet of this node.
  packet->mark = 0;
  packet->priority = 0;
  return redirect_neighbour(underlay, 0, 0, 0);
}

// Which worker's queue the device will put a packet into: what `load_packet_steering` computes (Common/CLinux/steering.c).
INLINE uint32_t worker_of(struct __sk_buff *packet, const union inner_header *header, const struct inner_packet *inner,
                          uint32_t workers) {
  if (workers <= 1) return 0;
  const struct ipv4_header *ipv4 = &header->ipv4.ip;
  const struct ipv6_header *ipv6 = &header->ipv6.ip;
  uint32_t sum = 0, offset = IPV6_BYTES;
  uint8_t transport = 0;
  if (inner->is_ipv6) {
#pragma unroll
    for (int word = 0; word < 4; word++) sum += swap32(ipv6->source[word]) + swap32(ipv6->destination[word]);
    transport = ipv6->next_header;
  } else {
    sum = swap32(ipv4->source) + swap32(ipv4->destination);
    if (!(ipv4->fragment & swap16(0x3FFF))) transport = ipv4->transport;
    offset = (ipv4->version_and_length & 15) * 4;
  }
  if (transport == TCP || transport == UDP) {
    struct ports ports;
    if (load_bytes(packet, offset, &ports, sizeof ports)) return 0;
    sum += swap16(ports.source) + swap16(ports.destination);
  }
  return ((sum * 0x9E3779B1u) >> 16) % workers;
}

// What there is to know of a packet that leaves.
struct departure {
  // The flow that notes where it goes by the ring; 0: none has to.
  struct kernel_flow *flow;
  // Until when that flow stays there; 0: until it is through.
  uint64_t bulk_until;
  struct kernel_holder *holder;
  int may_pass;
};

// Who holds a packet's destination; 0: nobody.
INLINE struct kernel_holder *receiver_of(const union inner_header *header, int is_ipv6) {
  uint32_t first = 0;
  void *table = is_ipv6 ? map_lookup(MAP(KERNEL_MAP_TABLE_IPV6), &first) : map_lookup(MAP(KERNEL_MAP_TABLE), &first);
  if (!table) return 0;
  return is_ipv6 ? holder_of_ipv6(table, header->ipv6.ip.destination)
                 : holder_of_ipv4(table, header->ipv4.ip.destination);
}

// Whether a packet goes past the process.
INLINE int is_taken(struct __sk_buff *packet, const union inner_header *header, const struct inner_packet *inner,
                    const struct kernel_settings *settings, struct kernel_passage *ring, uint64_t now,
                    struct departure *departure) {
  if (packet->protocol != swap16(inner->is_ipv6 ? ETHERNET_IPV6 : ETHERNET_IPV4)) return 0;
  // What does not tell its ports keeps back all flows between the two addresses, by a place of their own.
  struct kernel_flow *others = place_of_all_flows(inner);
  if (!inner->is_plain) {
    departure->flow = others;
    departure->bulk_until = now + BULK_NANOSECONDS;
    return 0;
  }
  struct kernel_flow *place = flow_place(&inner->flow);
  departure->flow = place;
  uint32_t bytes = packet->len;
  if (!place || packet->gso_size || bytes > settings->packet_limit) {
    departure->bulk_until = now + BULK_NANOSECONDS;
    return 0;
  }
  departure->may_pass = is_bare_acknowledgement(packet, 0, inner);
  if (departure->may_pass) departure->flow = 0;

  struct kernel_holder *holder = receiver_of(header, inner->is_ipv6);
  uint64_t *able_until = holder && holder->kind == KERNEL_HOLDER_PEER ? map_lookup(MAP(KERNEL_MAP_ABLE), &holder->endpoint) : 0;
  if (now >= settings->valid_until || !able_until || *able_until <= now || inner->bytes != bytes || inner->hops <= 1)
    return 0;
  departure->holder = holder;
  if (departure->may_pass) return 1;

  if (!others || now < place->bulk_until || now < others->bulk_until ||
      !is_through(ring, later(place->sent_ticket, others->sent_ticket))) {
    count_event(KERNEL_EVENT_KEPT_IN_ORDER, 1);
    // A flood that goes on stays. If it came back each second it would be one again after some hundred packets, the last of which
    // wait at the peer for the turn of the CPU that they came by, where the ring's first ones can pass them.
    if (place->is_flood && is_flood(place, now)) departure->bulk_until = now + BULK_NANOSECONDS;
    return 0;
  }
  place->is_flood = 0;
  if (is_flood(place, now)) {
    count_event(KERNEL_EVENT_KEPT_IN_ORDER, 1);
    place->is_flood = 1;
    departure->bulk_until = now + BULK_NANOSECONDS;
    return 0;
  }
  return 1;
}

// Leaves a packet to a worker: what of its flow comes later is to wait for it.
INLINE int leave_to_ring(const struct departure *departure, uint32_t worker) {
  uint64_t ticket = enter(KERNEL_WAY_OUT, worker, 1);
  struct kernel_flow *flow = departure->flow;
  if (flow) {
    note_ticket(&flow->sent_ticket, ticket);
    if (flow->bulk_until < departure->bulk_until) flow->bulk_until = departure->bulk_until;
  }
  return PASS;
}

PROGRAM int outbound(struct __sk_buff *packet) {
  struct kernel_settings *settings = current_settings();
  if (!settings) return PASS;
  uint64_t now = monotonic_time();
  union inner_header header;
  struct inner_packet inner = {0};
  int is_read = read_inner(packet, 0, &header, &inner);
  uint32_t worker = 0;
  if (is_read) {
    worker = worker_of(packet, &header, &inner, settings->workers);
  } else if (header.ipv4.ip.version_and_length >> 4 == 6 && !load_bytes(packet, 0, &header, IPV6_BYTES)) {
    // Nothing behind its header: it has a queue by its addresses all the same.
    inner.is_ipv6 = 1;
    worker = worker_of(packet, &header, &inner, settings->workers);
  }
  struct kernel_passage *ring = passage(KERNEL_WAY_OUT, worker);
  if (!ring) return PASS;
  struct departure departure = {0};
  if (!is_read || !is_taken(packet, &header, &inner, settings, ring, now, &departure))
    return leave_to_ring(&departure, worker);
  struct kernel_holder *holder = departure.holder;
  if (!holder) return PASS;
  uint32_t slot = holder->counter_slot;
  take_hop(&header, &inner);
  struct encapsulation headers;
  fill(&headers, &header, inner.bytes, settings, &holder->endpoint);
  int verdict = send(packet, &headers, settings);
  if (verdict == PASS) return leave_to_ring(&departure, worker);
  if (verdict == LOSE) return verdict;
  if (!departure.may_pass) note_awaited(now);
  count_event(KERNEL_EVENT_SENT, 1);
  count_event(KERNEL_EVENT_SENT_BYTES, inner.bytes);
  struct kernel_peer_counts *counts = map_lookup(MAP(KERNEL_MAP_PEERS), &slot);
  if (counts) {
    counts->packets_sent += 1;
    counts->bytes_sent += inner.bytes;
  }
  return verdict;
}
