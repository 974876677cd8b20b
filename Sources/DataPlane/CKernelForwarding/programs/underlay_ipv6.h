// An underlay of IPv6: the outer header, which is without extensions.
#pragma once
#include "kernel.h"

enum { UNDERLAY_IS_IPV6 = 1, OUTER_IP_BYTES = IPV6_BYTES, ETHERNET_OUTER = ETHERNET_IPV6 };
#define ENCAPSULATION_FLAGS (BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP)

struct outer_ip {
  struct ipv6_header header;
};

INLINE int is_same(const uint32_t address[4], const struct kernel_address *other) {
  return address[0] == other->words[0] && address[1] == other->words[1] && address[2] == other->words[2] &&
         address[3] == other->words[3];
}

INLINE int is_from(const struct outer_ip *outer, const struct kernel_address *address) {
  return is_same(outer->header.source, address);
}

INLINE int is_to(const struct outer_ip *outer, const struct kernel_address *address) {
  return is_same(outer->header.destination, address);
}

// Whether it is a whole datagram's header, with nothing between it and UDP's.
INLINE int is_datagram(const struct outer_ip *outer) {
  return outer->header.next_header == UDP && outer->header.version_and_class >> 4 == 6;
}

// How many bytes follow it, as it says.
INLINE uint32_t payload_bytes(const struct outer_ip *outer) { return swap16(outer->header.payload_length); }

// The header has no checksum: addresses and lengths are compared with what they must be, all of them.
INLINE int is_undamaged(const struct outer_ip *outer) {
  (void)outer;
  return 1;
}

// What the sockets' steering reads of the source: its end (Common/CLinux/steering.c).
INLINE uint32_t source_number(const struct outer_ip *outer) { return swap32(outer->header.source[3]); }

// As the ring's socket sends, with 64 hops; but without a flow label.
INLINE void fill_outer(struct outer_ip *outer, uint32_t bytes, const struct kernel_address *from,
                       const struct kernel_address *to) {
  struct ipv6_header *header = &outer->header;
  header->version_and_class = 6 << 4;
  header->class_and_label = 0;
  header->label = 0;
  header->payload_length = swap16((uint16_t)bytes);
  header->next_header = UDP;
  header->hop_limit = 64;
#pragma unroll
  for (int word = 0; word < 4; word++) {
    header->source[word] = from->words[word];
    header->destination[word] = to->words[word];
  }
}
