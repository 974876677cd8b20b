// ICMP errors about what a socket sent, out of its error queue (IP_RECVERR, ip(7); IPV6_RECVERR, ipv6(7)).
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

struct twill_icmp_error {
  // Where the packet went, and who sent the error: names of sockets; of no family where the kernel does not say.
  struct sockaddr_storage destination;
  struct sockaddr_storage offender;
  // As RFC 792 has them, or RFC 4443 for IPv6.
  uint8_t type;
  uint8_t code;
};

// Has a socket keep the errors. Returns 0, or -1 with errno set.
int twill_keep_icmp_errors(int descriptor, int is_ipv6);
// Takes the next error, without waiting: writes what it quotes of the datagram's payload, at most `size` bytes, and
// returns how much that is; -1 with errno set where there is none (EAGAIN). What is no ICMP error has the type 255.
ssize_t twill_next_icmp_error(int descriptor, void *payload, size_t size, struct twill_icmp_error *error);
