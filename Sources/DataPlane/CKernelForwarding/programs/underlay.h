// The underlay's side of a datagram. Each program is compiled for an underlay of either family (tools/generate-kernel-path says
// which by UNDERLAY_IPV6), so that none asks for it at a packet.
#pragma once
#if UNDERLAY_IPV6
#include "underlay_ipv6.h"
#else
#include "underlay_ipv4.h"
#endif

// What the wire format puts before an inner packet.
struct outer_headers {
  struct outer_ip ip;
  struct udp_header udp;
};

enum { OUTER_BYTES = OUTER_IP_BYTES + UDP_BYTES };
