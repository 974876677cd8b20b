// What a program needs of the kernel: its helpers by their numbers (linux/bpf.h), the maps, header fields, checksums. No
// header of a library is used, so that the toolchain's own clang is enough (tools/generate-kernel-path).
#pragma once
#include <linux/bpf.h>

#include "../include/kernel_forwarding.h"

#define INLINE static inline __attribute__((always_inline))
#define PROGRAM __attribute__((section("program"), used))

// "I did not see it": the next program runs, and at the end the packet goes on as if none of ours were there. It is both
// TCX_NEXT and TC_ACT_UNSPEC. What stays the ring's to judge is never TC_ACT_OK, which would end others' programs.
#define PASS (-1)
// TC_ACT_SHOT: the packet is lost. Only for one that was changed already and cannot be changed on.
#define LOSE 2

// Helpers, by number. The oldest kernel that has all of them is 5.10 (redirect_neigh);
// the atomic operations that return what was there are 5.12's. linux/bpf.h says what each does.
static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static uint64_t (*const monotonic_time)(void) = (void *)5;
static long (*const store_bytes)(struct __sk_buff *packet, uint32_t offset, const void *from, uint32_t bytes,
                                 uint64_t flags) = (void *)9;
static long (*const redirect)(uint32_t interface, uint64_t flags) = (void *)23;
static long (*const load_bytes)(const struct __sk_buff *packet, uint32_t offset, void *to, uint32_t bytes) = (void *)26;
static long (*const change_protocol)(struct __sk_buff *packet, uint16_t type, uint64_t flags) = (void *)31;
static long (*const set_hash_invalid)(struct __sk_buff *packet) = (void *)41;
static long (*const change_head)(struct __sk_buff *packet, uint32_t bytes, uint64_t flags) = (void *)43;
static long (*const adjust_room)(struct __sk_buff *packet, int32_t bytes, uint32_t mode, uint64_t flags) = (void *)50;
static long (*const redirect_neighbour)(uint32_t interface, void *next_hop, int bytes, uint64_t flags) = (void *)152;

// A map, by its number: a constant of 64 bits that the loader turns into the map's descriptor (BPF_PSEUDO_MAP_FD). Written
// as assembly, so that the compiler neither computes with it nor asks a linker for it.
#define MAP(number)                                                                                               \
  ({                                                                                                              \
    void *map;                                                                                                    \
    asm volatile("%0 = %1 ll" : "=r"(map) : "i"((uint64_t)KERNEL_MAP_MARK << 32 | (uint64_t)(number)));           \
    map;                                                                                                          \
  })

enum {
  ETHERNET_BYTES = 14,
  ETHERNET_IPV4 = 0x0800,
  ETHERNET_IPV6 = 0x86DD,
  // Without options: the only IPv4 header that the kernel path knows.
  IPV4_BYTES = 20,
  VERSION_4_WITHOUT_OPTIONS = 0x45,
  IPV6_BYTES = 40,
  PORTS_BYTES = 4,
  UDP_BYTES = 8,
  TCP = 6,
  UDP = 17,
  DO_NOT_FRAGMENT = 0x4000,
  // linux/if_packet.h: it is addressed to this machine.
  PACKET_TO_US = 0,
};

// Structs of linux/ip.h, linux/ipv6.h and linux/udp.h, with all fields in network byte order.
struct ipv4_header {
  uint8_t version_and_length;
  uint8_t type_of_service;
  uint16_t total_length;
  uint16_t identification;
  uint16_t fragment;
  uint8_t time_to_live;
  uint8_t transport;
  uint16_t checksum;
  uint32_t source;
  uint32_t destination;
};

struct ipv6_header {
  // Version, traffic class and flow label.
  uint8_t version_and_class;
  uint8_t class_and_label;
  uint16_t label;
  uint16_t payload_length;
  uint8_t next_header;
  uint8_t hop_limit;
  uint32_t source[4];
  uint32_t destination[4];
};

struct udp_header {
  uint16_t source;
  uint16_t destination;
  uint16_t length;
  uint16_t checksum;
};

// Where TCP's and UDP's headers begin.
struct ports {
  uint16_t source;
  uint16_t destination;
};

// A number of which the compiler knows nothing: it makes jumps of what it does know.
INLINE uint64_t unknown(uint64_t number) {
  asm volatile("" : "+r"(number));
  return number;
}

// The kernel path's instructions are for little-endian machines, as all that Swift runs on are.
INLINE uint16_t swap16(uint16_t value) { return __builtin_bswap16(value); }
INLINE uint32_t swap32(uint32_t value) { return __builtin_bswap32(value); }

// The sum of a header without options, folded: 0xFFFF where its checksum is right (RFC 1071).
INLINE uint16_t header_sum(const struct ipv4_header *header) {
  const uint16_t *words = (const uint16_t *)header;
  uint32_t sum = 0;
#pragma unroll
  for (int word = 0; word < IPV4_BYTES / 2; word++) sum += words[word];
  sum = (sum & 0xFFFF) + (sum >> 16);
  return (uint16_t)((sum & 0xFFFF) + (sum >> 16));
}

// Whether an IPv4 header is a fragment's: all of its field but "do not fragment" counts.
INLINE uint16_t is_fragment(const struct ipv4_header *header) {
  return header->fragment & swap16((uint16_t)~DO_NOT_FRAGMENT);
}

// One hop less, with the checksum updated (RFC 1624), as `IPPacket.decrementTimeToLive` does it. The caller knows that
// there is more than one.
INLINE void decrement_time_to_live(struct ipv4_header *header) {
  header->time_to_live -= 1;
  uint32_t sum = (uint32_t)swap16(header->checksum) + 0x0100;
  header->checksum = swap16((uint16_t)(sum + (sum >= 0xFFFF)));
}

// What the daemon has said; 0 before it has.
INLINE struct kernel_settings *current_settings(void) {
  uint32_t first = 0;
  struct kernel_settings *settings = map_lookup(MAP(KERNEL_MAP_SETTINGS), &first);
  return settings && settings->workers ? settings : 0;
}

// Notes that somebody waits for the packet at hand.
INLINE void note_awaited(uint64_t now) {
  uint32_t first = 0;
  uint64_t *last = map_lookup(MAP(KERNEL_MAP_AWAITED), &first);
  if (last && now - *last > KERNEL_AWAITED_STEP) *last = now;
}

INLINE void count_event(uint32_t event, uint64_t amount) {
  uint64_t *count = map_lookup(MAP(KERNEL_MAP_EVENTS), &event);
  if (count) *count += amount;
}

// Addresses and ports as the flow of a packet has them; ports are 0 for a transport without. All but the addresses is 0 where
// a packet does not tell its ports.
struct flow_name {
  uint32_t source;
  uint32_t destination;
  uint16_t source_port;
  uint16_t destination_port;
  uint8_t transport;
};

// The place of a flow. Both directions of a flow have the same: what answers is found where what asked was noted.
INLINE struct kernel_flow *flow_place(const struct flow_name *flow) {
  // 2^32 / golden ratio, and odd constants with bits well spread.
  uint32_t hash = (flow->source + flow->destination) * 0x9E3779B1u;
  hash ^= ((uint32_t)flow->source_port + flow->destination_port + ((uint32_t)flow->transport << 17)) * 0x85EBCA6Bu;
  hash ^= (flow->source ^ flow->destination) * 0xC2B2AE35u;
  hash = (hash ^ hash >> 15) * 0x2C1B3C6Du;
  uint32_t place = (hash ^ hash >> 16) & (KERNEL_FLOWS - 1);
  return map_lookup(MAP(KERNEL_MAP_FLOWS), &place);
}

// MARK: Order
//
// Nothing of a flow may pass what the ring holds of it. So whatever is left to the ring takes a ticket, and its flow notes it;
// and a flow goes past the process once the workers have said that everything up to its ticket is through.

INLINE struct kernel_passage *passage(uint32_t way, uint32_t worker) {
  uint32_t place = way * KERNEL_WORKERS + (worker & (KERNEL_WORKERS - 1));
  return map_lookup(MAP(KERNEL_MAP_PASSAGES), &place);
}

// Counts packets that are left to a worker, and gives the ticket for them. In this order: a worker that reads a ticket and
// then the count has counted every packet with an earlier one, wherever that is by now.
INLINE uint64_t enter(uint32_t way, uint32_t worker, uint64_t packets) {
  struct kernel_passage *own = passage(way, worker), *first = passage(way, 0);
  if (!own || !first) return 0;
  __sync_fetch_and_add(&own->entered, packets);
  return __sync_fetch_and_add(&first->tickets, 1) + 1;
}

// Notes a ticket of a flow, unless a later one is there: two packets may be under way on two CPUs.
INLINE void note_ticket(uint64_t *last, uint64_t ticket) {
  uint64_t seen = *(volatile uint64_t *)last;
#pragma unroll
  for (int attempt = 0; attempt < 3; attempt++) {
    if (seen >= ticket) return;
    uint64_t was = unknown(__sync_val_compare_and_swap(last, seen, ticket));
    if (was == seen) return;
    seen = was;
  }
}

// Whether all that was left to a worker up to a ticket is through; where it is not, the worker hears that somebody waits.
INLINE int is_through(struct kernel_passage *passage, uint64_t ticket) {
  volatile struct kernel_passage *seen = passage;
  if (seen->through >= ticket || seen->entered_through == seen->entered) return 1;
  seen->wanted = ticket;
  return 0;
}

INLINE uint64_t later(uint64_t ticket, uint64_t other) { return ticket > other ? ticket : other; }

// MARK: Inner packets

// The header of an inner packet of either family, and the ports behind it.
union inner_header {
  struct {
    struct ipv4_header ip;
    struct ports ports;
  } ipv4;
  struct {
    struct ipv6_header ip;
    struct ports ports;
  } ipv6;
};

// The first bytes of an inner header, in which is all that a hop changes: of IPv4 the hops and the checksum, of IPv6 the hops.
#define CHANGED_BYTES 12

// What the header says, whichever its family.
struct inner_packet {
  // IPv6 addresses are folded in it.
  struct flow_name flow;
  // Of the whole packet.
  uint32_t bytes;
  // Of the IP header.
  uint32_t header_bytes;
  uint8_t hops;
  uint8_t is_ipv6;
  // There is nothing between this header and the transport's, it is no fragment, and has its ports where it should.
  uint8_t is_plain;
};

// An IPv6 address in 32 bits. Two that differ in one word do so there.
INLINE uint32_t folded(const uint32_t address[4]) {
  return ((address[0] * 0x9E3779B1u + address[1]) * 0x85EBCA6Bu + address[2]) * 0xC2B2AE35u + address[3];
}

// Inner packets that were merged are read in a loop, and a program's verifier follows each way of each jump in each turn of it. So what
// a packet says of itself is computed without jumps.

// 1 where a number is not 0, else 0.
INLINE uint64_t is_not_zero(uint64_t number) { return unknown((number | unknown(-number)) >> 63); }

// 1 where what follows an IPv6 header is one of its extension headers (IANA's list of them), and not yet a transport's; else 0.
INLINE uint64_t is_extension(uint64_t number) {
  enum {
    HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, ENCRYPTED = 50, AUTHENTICATION = 51, DESTINATION = 60, MOBILITY = 135,
    HOST_IDENTITY = 139, SHIM6 = 140, EXPERIMENT = 253, OTHER_EXPERIMENT = 254,
  };
  // A bit for each number: of 0 to 63, of 128 to 191, and of 192 to 255.
  const uint64_t low = 1ull << HOP_BY_HOP | 1ull << ROUTING | 1ull << FRAGMENT | 1ull << ENCRYPTED |
                       1ull << AUTHENTICATION | 1ull << DESTINATION;
  const uint64_t middle = 1ull << (MOBILITY - 128) | 1ull << (HOST_IDENTITY - 128) | 1ull << (SHIM6 - 128);
  const uint64_t high = 1ull << (EXPERIMENT - 192) | 1ull << (OTHER_EXPERIMENT - 192);
  uint64_t quarter = number >> 6, place = number & 63;
  return (low >> place & (is_not_zero(quarter) ^ 1)) | (middle >> place & (is_not_zero(quarter ^ 2) ^ 1)) |
         (high >> place & (is_not_zero(quarter ^ 3) ^ 1));
}

// Notes transport and ports, where a packet tells them.
INLINE void name_flow(struct inner_packet *inner, uint64_t is_plain, uint64_t transport, const struct ports *ports,
                      uint64_t has_room_for_ports) {
  uint64_t has_ports = (is_not_zero(transport ^ TCP) & is_not_zero(transport ^ UDP)) ^ 1;
  is_plain &= (has_ports ^ 1) | has_room_for_ports;
  uint64_t names_ports = -(is_plain & has_ports);
  inner->is_plain = (uint8_t)is_plain;
  inner->flow.transport = (uint8_t)(transport & -is_plain);
  inner->flow.source_port = (uint16_t)(ports->source & names_ports);
  inner->flow.destination_port = (uint16_t)(ports->destination & names_ports);
}

// Reads the header of an inner packet at an offset; 0: it is too short for one, or of neither family. Of IPv6 a packet with
// less than ports behind its header is too short, too. The sizes are constants: of others the verifier follows where they come from.
INLINE int read_inner(struct __sk_buff *packet, uint32_t offset, union inner_header *header, struct inner_packet *inner) {
  int is_long = !load_bytes(packet, offset, header, sizeof *header);
  uint64_t has_room_for_ports = 1;
  if (!is_long && load_bytes(packet, offset, header, IPV4_BYTES + PORTS_BYTES)) {
    if (load_bytes(packet, offset, header, IPV4_BYTES)) return 0;
    has_room_for_ports = 0;
  }
  uint8_t first = header->ipv4.ip.version_and_length;
  if (first >> 4 == 4) {
    const struct ipv4_header *ip = &header->ipv4.ip;
    inner->flow.source = ip->source;
    inner->flow.destination = ip->destination;
    inner->bytes = swap16(ip->total_length);
    inner->header_bytes = IPV4_BYTES;
    inner->hops = ip->time_to_live;
    inner->is_ipv6 = 0;
    uint64_t is_plain = is_not_zero((uint64_t)(first ^ VERSION_4_WITHOUT_OPTIONS) | is_fragment(ip)) ^ 1;
    name_flow(inner, is_plain, ip->transport, &header->ipv4.ports, has_room_for_ports);
    return 1;
  }
  if (first >> 4 != 6 || !is_long) return 0;
  const struct ipv6_header *ip = &header->ipv6.ip;
  inner->flow.source = folded(ip->source);
  inner->flow.destination = folded(ip->destination);
  inner->bytes = (uint32_t)swap16(ip->payload_length) + IPV6_BYTES;
  inner->header_bytes = IPV6_BYTES;
  inner->hops = ip->hop_limit;
  inner->is_ipv6 = 1;
  name_flow(inner, is_extension(ip->next_header) ^ 1, ip->next_header, &header->ipv6.ports, 1);
  return 1;
}

// One hop less. The caller knows that there is more than one.
INLINE void take_hop(union inner_header *header, const struct inner_packet *inner) {
  if (inner->is_ipv6) {
    header->ipv6.ip.hop_limit -= 1;
  } else {
    decrement_time_to_live(&header->ipv4.ip);
  }
}

// The place of all flows between the two addresses of a packet, for what does not tell its ports.
INLINE struct kernel_flow *place_of_all_flows(const struct inner_packet *inner) {
  struct flow_name untold = {.source = inner->flow.source, .destination = inner->flow.destination};
  return flow_place(&untold);
}

INLINE struct kernel_holder *holder_of_ipv4(void *table, uint32_t address) {
  struct kernel_prefix prefix = {.length = 32, .address = address};
  return map_lookup(table, &prefix);
}

INLINE struct kernel_holder *holder_of_ipv6(void *table, const uint32_t address[4]) {
  struct kernel_prefix_ipv6 prefix = {.length = 128, .address = {address[0], address[1], address[2], address[3]}};
  return map_lookup(table, &prefix);
}

// What stands where the transport's header begins, as far as a flow is told by it: a TCP header's beginning.
struct transport_head {
  struct ports ports;
  uint32_t sequence;
  uint32_t acknowledgement;
  uint8_t data_offset;
  uint8_t flags;
} __attribute__((packed, aligned(4)));

// Whether it is a TCP segment that acknowledges and does nothing else: the one packet that may pass its own flow's.
// One that opens, closes, resets or pushes may not.
INLINE int is_bare_acknowledgement(struct __sk_buff *packet, uint32_t offset, const struct inner_packet *inner) {
  enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32 };
  struct transport_head head;
  if (inner->flow.transport != TCP || load_bytes(packet, offset + inner->header_bytes, &head, sizeof head)) return 0;
  return inner->header_bytes + (uint32_t)(head.data_offset >> 4) * 4 == inner->bytes &&
         (head.flags & (FIN | SYN | RST | PSH | ACK | URG)) == ACK;
}
