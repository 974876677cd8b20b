#include "socket_error.h"

#include <linux/errqueue.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

int twill_keep_icmp_errors(int descriptor, int is_ipv6) {
  int on = 1;
  return is_ipv6 ? setsockopt(descriptor, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on)
                 : setsockopt(descriptor, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
}

ssize_t twill_next_icmp_error(int descriptor, void *payload, size_t size, struct twill_icmp_error *error) {
  *error = (struct twill_icmp_error){.type = 255};
  struct iovec vector = {.iov_base = payload, .iov_len = size};
  // A sock_extended_err with the offender's address behind it, and room for one more message.
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(struct sock_extended_err) + sizeof(struct sockaddr_in6)) + 64];
  } control;
  struct msghdr message = {
      .msg_name = &error->destination,
      .msg_namelen = sizeof error->destination,
      .msg_iov = &vector,
      .msg_iovlen = 1,
      .msg_control = &control,
      .msg_controllen = sizeof control,
  };
  ssize_t count = recvmsg(descriptor, &message, MSG_ERRQUEUE | MSG_DONTWAIT);
  if (count < 0) return -1;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
    const int is_ipv4 = header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_RECVERR;
    const int is_ipv6 = header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_RECVERR;
    struct sock_extended_err extended;
    if ((!is_ipv4 && !is_ipv6) || header->cmsg_len < CMSG_LEN(sizeof extended)) continue;
    memcpy(&extended, CMSG_DATA(header), sizeof extended);
    if (extended.ee_origin != (is_ipv4 ? SO_EE_ORIGIN_ICMP : SO_EE_ORIGIN_ICMP6)) continue;
    error->type = extended.ee_type;
    error->code = extended.ee_code;
    const size_t offender = is_ipv4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    if (header->cmsg_len >= CMSG_LEN(sizeof extended + offender))
      memcpy(&error->offender, CMSG_DATA(header) + sizeof extended, offender);
  }
  return count;
}
