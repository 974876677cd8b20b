// The programs, as instructions of the kernel's machine (tools/generate-kernel-path makes them). In the place of a map
// stands its mark (kernel_forwarding.h), for the loader to replace.
#pragma once
#include <stdint.h>

// From the TUN device to the underlay, and how many instructions that is.
extern const uint64_t *const kernel_forwarding_outbound;
extern const uint32_t kernel_forwarding_outbound_count;
// From the underlay to the TUN device.
extern const uint64_t *const kernel_forwarding_inbound;
extern const uint32_t kernel_forwarding_inbound_count;
