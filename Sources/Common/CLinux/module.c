#define _GNU_SOURCE
#include "CLinux.h"


#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/time.h>

_Static_assert(CMSG_SPACE(sizeof(uint16_t)) == TWILL_SEGMENT_CONTROL_BYTES, "room for UDP_SEGMENT");
_Static_assert(CMSG_SPACE(sizeof(int)) == TWILL_COALESCE_CONTROL_BYTES, "room for UDP_GRO");

int twill_tun_attach(int descriptor, const char *name, int multi_queue) {
  struct ifreq request = {0};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0);
  return ioctl(descriptor, TUNSETIFF, &request);
}

int twill_tun_set_vnet_header(int descriptor, int *length) { return ioctl(descriptor, TUNSETVNETHDRSZ, length); }

int twill_tun_set_offload(int descriptor, unsigned int flags) {
  return ioctl(descriptor, TUNSETOFFLOAD, (unsigned long)flags);
}

int twill_tun_name(int descriptor, char *name) {
  struct ifreq request = {0};
  if (ioctl(descriptor, TUNGETIFF, &request) != 0) return -1;
  memcpy(name, request.ifr_name, IFNAMSIZ);
  name[IFNAMSIZ - 1] = 0;
  return 0;
}

int twill_link_dropped(unsigned int index, uint64_t *dropped) {
  struct {
    struct nlmsghdr header;
    struct if_stats_msg body;
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETSTATS, .nlmsg_flags = NLM_F_REQUEST},
      .body = {.ifindex = index, .filter_mask = IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64)},
  };
  union {
    struct nlmsghdr header;
    char bytes[1024];
  } answer;
  int descriptor = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (descriptor < 0) return errno;
  struct timeval patience = {.tv_sec = 1};
  setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ssize_t length = send(descriptor, &request, sizeof request, 0);
  if (length >= 0) length = recv(descriptor, &answer, sizeof answer, 0);
  int error = length < 0 ? errno : ENODATA;
  close(descriptor);
  if (length < (ssize_t)NLMSG_LENGTH(sizeof(struct if_stats_msg)) || answer.header.nlmsg_type != RTM_NEWSTATS)
    return error;
  const char *end = answer.bytes + length;
  const char *place = (const char *)NLMSG_DATA(&answer.header) + NLMSG_ALIGN(sizeof(struct if_stats_msg));
  while (end - place >= (ssize_t)sizeof(struct rtattr)) {
    struct rtattr attribute;
    memcpy(&attribute, place, sizeof attribute);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > end - place) break;
    if (attribute.rta_type == IFLA_STATS_LINK_64 &&
        attribute.rta_len >= sizeof attribute + offsetof(struct rtnl_link_stats64, multicast)) {
      memcpy(dropped, place + sizeof attribute + offsetof(struct rtnl_link_stats64, tx_dropped), sizeof *dropped);
      return 0;
    }
    place += RTA_ALIGN(attribute.rta_len);
  }
  return ENODATA;
}

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

int twill_socket_dropped(int descriptor, uint32_t *dropped) {
  // enum sk_meminfo_vars of linux/sock_diag.h: SK_MEMINFO_DROPS is the ninth of nine.
  uint32_t values[9] = {0};
  socklen_t length = sizeof values;
  if (getsockopt(descriptor, SOL_SOCKET, SO_MEMINFO, values, &length) != 0) return -1;
  *dropped = values[8];
  return 0;
}

int twill_udp_segments_accepted(int segments) {
  int sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  int receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof address;
  int accepted = 0, one = 1;
  char payload[256] = {0};
  if (sender >= 0 && receiver >= 0 && segments <= (int)sizeof payload &&
      bind(receiver, (struct sockaddr *)&address, length) == 0 &&
      getsockname(receiver, (struct sockaddr *)&address, &length) == 0 &&
      setsockopt(sender, IPPROTO_UDP, UDP_SEGMENT, &one, sizeof one) == 0)
    accepted = sendto(sender, payload, segments, 0, (struct sockaddr *)&address, length) == segments;
  if (sender >= 0) close(sender);
  if (receiver >= 0) close(receiver);
  return accepted;
}

_Static_assert(sizeof(struct twill_batch_message) == sizeof(struct mmsghdr), "struct mmsghdr");

int twill_send_batch(int descriptor, struct twill_batch_message *messages, unsigned int count) {
  return sendmmsg(descriptor, (struct mmsghdr *)messages, count, MSG_DONTWAIT);
}

int twill_receive_batch(int descriptor, struct twill_batch_message *messages, unsigned int count) {
  return recvmmsg(descriptor, (struct mmsghdr *)messages, count, MSG_DONTWAIT, NULL);
}

int twill_pin_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

void twill_name_thread(const char *name) {
  pthread_setname_np(pthread_self(), name);
}

int twill_usable_cpus(void) {
  cpu_set_t set;
  int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return count > 0 ? count : 1;
}

int twill_memory_file(const char *name) {
  return memfd_create(name, MFD_CLOEXEC);
}

int twill_pipe(int ends[2]) {
  return pipe2(ends, O_CLOEXEC);
}

char **twill_environment(void) {
  return environ;
}
