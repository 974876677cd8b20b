// The programs, as instructions of the kernel's machine (tools/generate-kernel-path makes them). In the place of a map
// stands its mark (kernel_forwarding.h), for the loader to replace.
#pragma once
#include <stdint.h>

// From the TUN device to an underlay of IPv4, and how many instructions that is.
extern const uint64_t *const kernel_forwarding_outbound_ipv4;
extern const uint32_t kernel_forwarding_outbound_ipv4_count;
// The same to one of IPv6.
extern const uint64_t *const kernel_forwarding_outbound_ipv6;
extern const uint32_t kernel_forwarding_outbound_ipv6_count;
// From an underlay of IPv4 to the TUN device.
extern const uint64_t *const kernel_forwarding_inbound_ipv4;
extern const uint32_t kernel_forwarding_inbound_ipv4_count;
// The same from one of IPv6.
extern const uint64_t *const kernel_forwarding_inbound_ipv6;
extern const uint32_t kernel_forwarding_inbound_ipv6_count;
