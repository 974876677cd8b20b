// An underlay of IPv4: the outer header, which is without options.
#pragma once
#include "kernel.h"

enum { UNDERLAY_IS_IPV6 = 0, OUTER_IP_BYTES = IPV4_BYTES, ETHERNET_OUTER = ETHERNET_IPV4 };
#define ENCAPSULATION_FLAGS (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP)

struct outer_ip {
  struct ipv4_header header;
};

INLINE int is_from(const struct outer_ip *outer, const struct kernel_address *address) {
  return outer->header.source == address->words[0];
}

INLINE int is_to(const struct outer_ip *outer, const struct kernel_address *address) {
  return outer->header.destination == address->words[0];
}

// Whether it is a whole datagram's header, with nothing between it and UDP's.
INLINE int is_datagram(const struct outer_ip *outer) {
  return outer->header.transport == UDP && outer->header.version_and_length == VERSION_4_WITHOUT_OPTIONS &&
         !is_fragment(&outer->header);
}

// How many bytes follow it, as it says.
INLINE uint32_t payload_bytes(const struct outer_ip *outer) {
  return (uint32_t)swap16(outer->header.total_length) - IPV4_BYTES;
}

INLINE int is_undamaged(const struct outer_ip *outer) { return header_sum(&outer->header) == 0xFFFF; }

// What the sockets' steering reads of the source (Common/CLinux/steering.c).
INLINE uint32_t source_number(const struct outer_ip *outer) { return swap32(outer->header.source); }

// As the ring's socket sends: DF, no identification, 64 hops.
INLINE void fill_outer(struct outer_ip *outer, uint32_t bytes, const struct kernel_address *from,
                       const struct kernel_address *to) {
  struct ipv4_header *header = &outer->header;
  header->version_and_length = VERSION_4_WITHOUT_OPTIONS;
  header->type_of_service = 0;
  header->total_length = swap16((uint16_t)(bytes + IPV4_BYTES));
  header->identification = 0;
  header->fragment = swap16(DO_NOT_FRAGMENT);
  header->time_to_live = 64;
  header->transport = UDP;
  header->checksum = 0;
  header->source = from->words[0];
  header->destination = to->words[0];
  header->checksum = ~header_sum(header);
}
