// A ring that sends to itself. In C, as the module that implements it cannot be imported beside the benchmark library:
// liburing and swift-system each bring an io_uring.h of their own.
#pragma once

#include <stdbool.h>

// NULL where there is no io_uring.
void *ring_loop_make(void);
// Sends one datagram of 64 bytes and takes it in again; false where the ring gave up.
bool ring_loop_round_trip(void *loop);
long ring_loop_system_calls(void *loop);
void ring_loop_end(void *loop);
