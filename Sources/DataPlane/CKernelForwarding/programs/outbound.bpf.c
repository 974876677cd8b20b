// From the TUN device to the underlay, past the process: runs where packets enter the device's queue (tc, egress).
//
//   IPv4, whole, small, of a sparse flow, with hops left, to an able peer → one hop less → outer headers → underlay
//   anything else → on into the TUN device, where the ring reads it
//
// Nothing of a flow may pass what the ring still holds of it. So each packet that is left to the ring takes a ticket, which
// its flow notes (kernel.h). (Only IPv4 is known here. For IPv6 a second table and a second `flow_name` belong beside these.)
#include "kernel.h"

// A flow with anything large stays in the ring for so long: who mixes sizes has small and large packets side by side, and a
// small one that this node's and the peer's programs carry still waits for its turn (in the queue of packets that come in, of
// one CPU) when the ring of the peer, on another CPU, is done with the large one behind it.
#define BULK_NANOSECONDS 1000000000ull
// So many small packets without an answer in one window are bulk of its kind: 25,600 a second. The ring merges them,
// and carries three times as many. Who asks and waits for the answer never has more than a few.
#define UNANSWERED_LIMIT 256
#define UNANSWERED_WINDOW_NANOSECONDS 10000000ull

// Counts a small packet of a flow; whether there are too many that nobody answers.
INLINE int is_flood(struct kernel_flow *flow, uint64_t now) {
  if (now - flow->window_began > UNANSWERED_WINDOW_NANOSECONDS) {
    flow->window_began = now;
    flow->unanswered = 0;
  }
  flow->unanswered += 1;
  return flow->unanswered > UNANSWERED_LIMIT;
}

// The outer headers, and behind them the part of the inner header that changes.
struct encapsulation {
  struct ipv4_header outer;
  struct udp_header udp;
  struct ipv4_header inner;
} __attribute__((packed, aligned(4)));

// As the ring's socket sends: DF, no identification, 64 hops, the port of the network. But for the UDP checksum, which
// is left out: nobody here can sum up what the card has still to finish.
INLINE void fill(struct encapsulation *headers, const struct kernel_settings *settings, const struct kernel_endpoint *to) {
  uint16_t inner_bytes = swap16(headers->inner.total_length);
  headers->outer.version_and_length = VERSION_4_WITHOUT_OPTIONS;
  headers->outer.type_of_service = 0;
  headers->outer.total_length = swap16(inner_bytes + OUTER_BYTES);
  headers->outer.identification = 0;
  headers->outer.fragment = swap16(DO_NOT_FRAGMENT);
  headers->outer.time_to_live = 64;
  headers->outer.transport = UDP;
  headers->outer.checksum = 0;
  headers->outer.source = settings->underlay_address;
  headers->outer.destination = to->address;
  headers->outer.checksum = ~header_sum(&headers->outer);
  headers->udp.source = settings->port;
  headers->udp.destination = to->port;
  headers->udp.length = swap16(inner_bytes + UDP_BYTES);
  headers->udp.checksum = 0;
}

// Sends a packet to a peer by the way that the kernel's routes have for it on the underlay; PASS where it cannot have outer
// headers, and is as it was: the kernel refuses them to what a tunnel of this host (VXLAN, Geneve, GRE, IPIP) has put into
// others with its inner checksum unfinished (EALREADY, bpf_skb_net_grow in net/core/filter.c, Linux 5.2 to 6.18).
INLINE int send(struct __sk_buff *packet, struct encapsulation *headers, const struct kernel_settings *settings) {
  uint32_t underlay = settings->underlay_index;
  if (adjust_room(packet, OUTER_BYTES, BPF_ADJ_ROOM_MAC,
                  BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP))
    return PASS;
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
INLINE uint32_t worker_of(struct __sk_buff *packet, uint32_t workers) {
  if (workers <= 1) return 0;
  struct ipv4_header header;
  // The first word of an IPv6 packet's addresses stands at 8, and its last one at 36.
  uint32_t addresses[8], sum = 0, offset = 40;
  uint16_t ports[2];
  if (load_bytes(packet, 0, &header, sizeof header)) return 0;
  uint8_t version = header.version_and_length >> 4, transport = header.transport;
  if (version == 4) {
    sum = swap32(header.source) + swap32(header.destination);
    if (header.fragment & swap16(0x3FFF)) transport = 0;
    offset = (header.version_and_length & 15) * 4;
  } else if (version == 6) {
    if (load_bytes(packet, 8, addresses, sizeof addresses)) return 0;
#pragma unroll
    for (int word = 0; word < 8; word++) sum += swap32(addresses[word]);
    // The next header's number is the seventh byte, where an IPv4 header has its fragment field.
    transport = *((uint8_t *)&header + 6);
  } else {
    transport = 0;
  }
  if (transport == TCP || transport == UDP) {
    if (load_bytes(packet, offset, ports, sizeof ports)) return 0;
    sum += swap16(ports[0]) + swap16(ports[1]);
  }
  return ((sum * 0x9E3779B1u) >> 16) % workers;
}

// What there is to know of a packet that leaves.
struct departure {
  struct encapsulation headers;
  // The flow that notes where it goes by the ring; 0: none has to.
  struct kernel_flow *flow;
  // Until when that flow stays there; 0: until it is through.
  uint64_t bulk_until;
  struct kernel_holder *holder;
  uint32_t bytes;
  int may_pass;
};

// Whether a packet goes past the process.
INLINE int is_taken(struct __sk_buff *packet, const struct kernel_settings *settings, struct kernel_passage *ring,
                    uint64_t now, struct departure *departure) {
  struct ipv4_header *inner = &departure->headers.inner;
  if (packet->protocol != swap16(ETHERNET_IPV4) || load_bytes(packet, 0, inner, IPV4_BYTES)) return 0;
  struct transport_head head = {0};
  struct flow_name flow = {.source = inner->source, .destination = inner->destination, .transport = inner->transport};
  // All of the fragment field but "do not fragment".
  int is_whole = inner->version_and_length == VERSION_4_WITHOUT_OPTIONS &&
                 !(inner->fragment & swap16((uint16_t)~DO_NOT_FRAGMENT));
  int has_ports = flow.transport == TCP || flow.transport == UDP;
  uint32_t bytes = packet->len;
  int is_large = packet->gso_size || bytes > settings->packet_limit;
  departure->bytes = bytes;

  // What does not tell its ports keeps back all flows between the two addresses, by a place of their own.
  struct flow_name untold = {.source = flow.source, .destination = flow.destination};
  struct kernel_flow *others = flow_place(&untold);
  if (!is_whole || (has_ports && load_bytes(packet, IPV4_BYTES, &head, 4))) {
    departure->flow = others;
    departure->bulk_until = now + BULK_NANOSECONDS;
    return 0;
  }
  if (has_ports) {
    flow.source_port = head.source_port;
    flow.destination_port = head.destination_port;
  }
  struct kernel_flow *place = flow_place(&flow);
  departure->flow = place;
  if (!place || is_large) {
    departure->bulk_until = now + BULK_NANOSECONDS;
    return 0;
  }
  if (flow.transport == TCP) load_bytes(packet, IPV4_BYTES, &head, sizeof head);
  departure->may_pass = is_bare_acknowledgement(&head, flow.transport, bytes);
  if (departure->may_pass) departure->flow = 0;

  void *table = current_table();
  struct kernel_holder *holder = table ? holder_of(table, flow.destination) : 0;
  uint64_t *able_until = holder && holder->kind == KERNEL_HOLDER_PEER ? map_lookup(MAP(KERNEL_MAP_ABLE), &holder->endpoint) : 0;
  if (now >= settings->valid_until || !able_until || *able_until <= now || swap16(inner->total_length) != bytes ||
      inner->time_to_live <= 1)
    return 0;
  departure->holder = holder;
  if (departure->may_pass) return 1;

  if (!others || now < place->bulk_until || now < others->bulk_until ||
      !is_through(ring, later(place->sent_ticket, others->sent_ticket))) {
    count_event(KERNEL_EVENT_KEPT_IN_ORDER, 1);
    return 0;
  }
  if (is_flood(place, now)) {
    count_event(KERNEL_EVENT_KEPT_IN_ORDER, 1);
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
  uint32_t worker = worker_of(packet, settings->workers);
  struct kernel_passage *ring = passage(KERNEL_WAY_OUT, worker);
  if (!ring) return PASS;
  struct departure departure = {0};
  if (!is_taken(packet, settings, ring, now, &departure)) return leave_to_ring(&departure, worker);
  struct kernel_holder *holder = departure.holder;
  if (!holder) return PASS;
  uint32_t slot = holder->counter_slot;
  decrement_time_to_live(&departure.headers.inner);
  fill(&departure.headers, settings, &holder->endpoint);
  int verdict = send(packet, &departure.headers, settings);
  if (verdict == PASS) return leave_to_ring(&departure, worker);
  if (verdict == LOSE) return verdict;
  if (!departure.may_pass) note_awaited(now);
  count_event(KERNEL_EVENT_SENT, 1);
  count_event(KERNEL_EVENT_SENT_BYTES, departure.bytes);
  struct kernel_peer_counts *counts = map_lookup(MAP(KERNEL_MAP_PEERS), &slot);
  if (counts) {
    counts->packets_sent += 1;
    counts->bytes_sent += departure.bytes;
  }
  return verdict;
}
