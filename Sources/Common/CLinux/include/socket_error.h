// ICMP errors about what a UDP socket sent, out of its error queue (IP_RECVERR, ip(7)).
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct twill_icmp_error {
  // Where the datagram went, and who sent the error: network byte order; 0 where the kernel does not say.
  uint32_t destination;
  uint32_t offender;
  // Network byte order.
  uint16_t port;
  uint8_t type;
  uint8_t code;
};

// Has a socket keep the errors. Returns 0, or -1 with errno set.
int twill_keep_icmp_errors(int descriptor);
// Takes the next error, without waiting: writes what it quotes of the datagram's payload, at most `size` bytes, and
// returns how much that is; -1 with errno set where there is none (EAGAIN). What is no ICMP error has the type 255.
ssize_t twill_next_icmp_error(int descriptor, void *payload, size_t size, struct twill_icmp_error *error);
