// A library to preload into a daemon: it stands in for memcpy and memmove and adds up what they copy, in a file that the
// harness reads while the daemon runs. So copies of payload within user space are counted by somebody else than the
// engine that may make them.
//
// COPY_COUNT_FILE names the file: 16 bytes, native byte order.
//
//     offset  bytes
//          0      8  bytes copied by calls of COPY_COUNT_LEAST_BYTES or more
//          8      8  number of these calls
#pragma once

// No stack of IP and TCP headers is this long (60 + 60), every full-sized packet is.
#define COPY_COUNT_LEAST_BYTES 256
