#define _GNU_SOURCE
#include "CLinux.h"


#include <pthread.h>

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
