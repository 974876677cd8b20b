// Counting events of the kernel through perf_event_open(2), which glibc has no function for.
#pragma once

#include <stdint.h>

// Counts a tracepoint on one processor, all processes, from now on. Returns a descriptor to read 8 bytes of count from,
// or -1 with errno.
int count_tracepoint(uint64_t identifier, int processor);
