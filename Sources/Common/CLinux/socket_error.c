#include "socket_error.h"

#include <linux/errqueue.h>
#include <linux/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

int twill_keep_icmp_errors(int descriptor) {
  int on = 1;
  return setsockopt(descriptor, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
}

ssize_t twill_next_icmp_error(int descriptor, void *payload, size_t size, struct twill_icmp_error *error) {
  struct sockaddr_in destination = {0};
  struct iovec vector = {.iov_base = payload, .iov_len = size};
  // A sock_extended_err with the offender's address behind it, and room for one more message.
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(struct sock_extended_err) + sizeof(struct sockaddr_in)) + 64];
  } control;
  struct msghdr message = {
      .msg_name = &destination,
      .msg_namelen = sizeof destination,
      .msg_iov = &vector,
      .msg_iovlen = 1,
      .msg_control = &control,
      .msg_controllen = sizeof control,
  };
  ssize_t count = recvmsg(descriptor, &message, MSG_ERRQUEUE | MSG_DONTWAIT);
  if (count < 0) return -1;
  *error = (struct twill_icmp_error){.type = 255};
  error->destination = destination.sin_addr.s_addr;
  error->port = destination.sin_port;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != IPPROTO_IP || header->cmsg_type != IP_RECVERR ||
        header->cmsg_len < CMSG_LEN(sizeof(struct sock_extended_err)))
      continue;
    struct sock_extended_err extended;
    memcpy(&extended, CMSG_DATA(header), sizeof extended);
    if (extended.ee_origin != SO_EE_ORIGIN_ICMP) continue;
    error->type = extended.ee_type;
    error->code = extended.ee_code;
    struct sockaddr_in offender;
    if (header->cmsg_len >= CMSG_LEN(sizeof extended + sizeof offender)) {
      memcpy(&offender, CMSG_DATA(header) + sizeof extended, sizeof offender);
      if (offender.sin_family == AF_INET) error->offender = offender.sin_addr.s_addr;
    }
  }
  return count;
}
