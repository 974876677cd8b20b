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
  // Without options: the only IPv4 header that the kernel path knows.
  IPV4_BYTES = 20,
  VERSION_4_WITHOUT_OPTIONS = 0x45,
  UDP_BYTES = 8,
  // What the wire format puts before an inner packet.
  OUTER_BYTES = IPV4_BYTES + UDP_BYTES,
  TCP = 6,
  UDP = 17,
  DO_NOT_FRAGMENT = 0x4000,
  // linux/if_packet.h: it is addressed to this machine.
  PACKET_TO_US = 0,
};

// Structs of linux/ip.h and linux/udp.h, with all fields in network byte order. Aligned to two bytes: an Ethernet header
// before them leaves them so.
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
} __attribute__((packed, aligned(2)));

struct udp_header {
  uint16_t source;
  uint16_t destination;
  uint16_t length;
  uint16_t checksum;
} __attribute__((packed, aligned(2)));

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

INLINE void *current_table(void) {
  uint32_t first = 0;
  return map_lookup(MAP(KERNEL_MAP_TABLE), &first);
}

INLINE struct kernel_holder *holder_of(void *table, uint32_t address) {
  struct kernel_prefix prefix = {.length = 32, .address = address};
  return map_lookup(table, &prefix);
}

INLINE void count_event(uint32_t event, uint64_t amount) {
  uint64_t *count = map_lookup(MAP(KERNEL_MAP_EVENTS), &event);
  if (count) *count += amount;
}

// Source and destination port as the flow of a packet has them; 0 for a transport without.
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
    uint64_t was = __sync_val_compare_and_swap(last, seen, ticket);
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

// What is behind an IPv4 header without options, as far as a flow is told by it: ports, and a TCP header's beginning.
struct transport_head {
  uint16_t source_port;
  uint16_t destination_port;
  uint32_t sequence;
  uint32_t acknowledgement;
  uint8_t data_offset;
  uint8_t flags;
} __attribute__((packed, aligned(2)));

// Whether it is a TCP segment that acknowledges and does nothing else: the one packet that may pass its own flow's.
// One that opens, closes, resets or pushes may not.
INLINE int is_bare_acknowledgement(const struct transport_head *head, uint8_t transport, uint32_t packet_bytes) {
  enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32 };
  return transport == TCP && IPV4_BYTES + (uint32_t)(head->data_offset >> 4) * 4 == packet_bytes &&
         (head->flags & (FIN | SYN | RST | PSH | ACK | URG)) == ACK;
}
