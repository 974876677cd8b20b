#define _GNU_SOURCE
#include "CLinux.h"


#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>

_Static_assert(CMSG_SPACE(sizeof(uint16_t)) == TWILL_SEGMENT_CONTROL_BYTES, "room for UDP_SEGMENT");
_Static_assert(CMSG_SPACE(sizeof(int)) == TWILL_COALESCE_CONTROL_BYTES, "room for UDP_GRO");

static int attach(int descriptor, const char *name, int flags) {
  struct ifreq request = {0};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | flags);
  return ioctl(descriptor, TUNSETIFF, &request);
}

int twill_tun_create(int descriptor, const char *name) {
  return attach(descriptor, name, IFF_MULTI_QUEUE | IFF_TUN_EXCL);
}

int twill_tun_attach(int descriptor, const char *name, int multi_queue) {
  return attach(descriptor, name, multi_queue ? IFF_MULTI_QUEUE : 0);
}

int twill_tun_detach(int descriptor) {
  struct ifreq request = {0};
  request.ifr_flags = IFF_DETACH_QUEUE;
  return ioctl(descriptor, TUNSETQUEUE, &request);
}

// Asks route netlink, and waits a second for the one answer at most. Returns its length in bytes, or -1 with errno set.
static ssize_t ask_route_netlink(const void *request, size_t size, void *answer, size_t room) {
  int descriptor = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (descriptor < 0) return -1;
  struct timeval patience = {.tv_sec = 1};
  setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ssize_t length = send(descriptor, request, size, 0);
  if (length >= 0) length = recv(descriptor, answer, room, 0);
  int error = errno;
  close(descriptor);
  errno = error;
  return length;
}

// Calls `look` with each attribute between two places.
static void look_at_attributes(const char *place, const char *end, void (*look)(struct rtattr, const char *, void *),
                               void *context) {
  while (end - place >= (ssize_t)sizeof(struct rtattr)) {
    struct rtattr attribute;
    memcpy(&attribute, place, sizeof attribute);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > end - place) return;
    look(attribute, place + sizeof attribute, context);
    if (RTA_ALIGN(attribute.rta_len) > end - place) return;
    place += RTA_ALIGN(attribute.rta_len);
  }
}

struct link_knowledge {
  int is_tun, has_carrier;
};

static void look_at_kind(struct rtattr attribute, const char *value, void *context) {
  struct link_knowledge *known = context;
  if (attribute.rta_type == IFLA_INFO_KIND && attribute.rta_len == RTA_LENGTH(sizeof "tun"))
    known->is_tun = memcmp(value, "tun", sizeof "tun") == 0;
}

static void look_at_link(struct rtattr attribute, const char *value, void *context) {
  struct link_knowledge *known = context;
  if (attribute.rta_type == IFLA_CARRIER && attribute.rta_len > sizeof attribute) known->has_carrier = *value != 0;
  if ((attribute.rta_type & ~NLA_F_NESTED) == IFLA_LINKINFO)
    look_at_attributes(value, value + attribute.rta_len - sizeof attribute, look_at_kind, context);
}

int twill_tun_is_held(const char *name) {
  struct {
    struct nlmsghdr header;
    struct ifinfomsg body;
    struct rtattr attribute;
    char name[IFNAMSIZ];
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
      .body = {.ifi_family = AF_UNSPEC},
      .attribute = {.rta_len = RTA_LENGTH(IFNAMSIZ), .rta_type = IFLA_IFNAME},
  };
  strncpy(request.name, name, IFNAMSIZ - 1);
  union {
    struct nlmsghdr header;
    char bytes[16384];
  } answer;
  ssize_t length = ask_route_netlink(&request, sizeof request, &answer, sizeof answer);
  if (length < (ssize_t)NLMSG_LENGTH(sizeof(struct ifinfomsg)) || answer.header.nlmsg_type != RTM_NEWLINK) return -1;
  struct link_knowledge known = {0, 0};
  look_at_attributes((const char *)NLMSG_DATA(&answer.header) + NLMSG_ALIGN(sizeof(struct ifinfomsg)),
                     answer.bytes + length, look_at_link, &known);
  return known.is_tun ? known.has_carrier : -1;
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

int twill_tun_flags(int descriptor, unsigned short *flags) {
  struct ifreq request = {0};
  if (ioctl(descriptor, TUNGETIFF, &request) != 0) return -1;
  *flags = request.ifr_flags;
  return 0;
}

int twill_tun_set_persistent(int descriptor, int persistent) {
  return ioctl(descriptor, TUNSETPERSIST, (unsigned long)persistent);
}

int twill_link_without_queue(unsigned int index) {
  struct {
    struct nlmsghdr header;
    struct tcmsg body;
    struct rtattr attribute;
    char kind[8];
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_NEWQDISC,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE},
      .body = {.tcm_family = AF_UNSPEC, .tcm_ifindex = (int)index, .tcm_parent = TC_H_ROOT},
      .attribute = {.rta_len = RTA_LENGTH(8), .rta_type = TCA_KIND},
      .kind = "noqueue",
  };
  struct {
    struct nlmsghdr header;
    struct nlmsgerr error;
    char rest[256];
  } answer;
  ssize_t length = ask_route_netlink(&request, sizeof request, &answer, sizeof answer);
  int error = length < 0 ? errno : EPROTO;
  if (length >= (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) && answer.header.nlmsg_type == NLMSG_ERROR)
    return -answer.error.error;
  return error;
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
  ssize_t length = ask_route_netlink(&request, sizeof request, &answer, sizeof answer);
  int error = length < 0 ? errno : ENODATA;
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

int twill_sealed_memory(const char *name, const void *bytes, size_t length) {
  int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return -1;
  const char *place = bytes;
  while (length > 0) {
    ssize_t written = write(descriptor, place, length);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    place += written;
    length -= written;
  }
  if (length == 0 && fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0)
    return descriptor;
  int error = errno;
  close(descriptor);
  errno = error;
  return -1;
}

int twill_is_sealed(int descriptor) {
  int seals = fcntl(descriptor, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_WRITE) && (seals & F_SEAL_SHRINK) && (seals & F_SEAL_GROW);
}

_Static_assert(TWILL_DESCRIPTORS_AT_ONCE <= 253, "SCM_MAX_FD of include/net/scm.h");

ssize_t twill_send_descriptors(int socket, const struct sockaddr *address, unsigned int address_length, const void *bytes,
                               size_t length, const int *descriptors, unsigned int count) {
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int) * TWILL_DESCRIPTORS_AT_ONCE)];
  } control;
  if (count > TWILL_DESCRIPTORS_AT_ONCE) {
    errno = EINVAL;
    return -1;
  }
  memset(&control, 0, sizeof control);
  struct iovec vector = {.iov_base = (void *)bytes, .iov_len = length};
  struct msghdr message = {
      .msg_name = (void *)address, .msg_namelen = address_length, .msg_iov = &vector, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(&control.header), descriptors, sizeof(int) * count);
  }
  ssize_t sent;
  do sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent;
}

ssize_t twill_receive_descriptors(int socket, void *bytes, size_t room, int *descriptors, unsigned int *count) {
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int) * TWILL_DESCRIPTORS_AT_ONCE)];
  } control;
  struct iovec vector = {.iov_base = bytes, .iov_len = room};
  struct msghdr message = {
      .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  *count = 0;
  ssize_t length;
  do length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (length < 0 && errno == EINTR);
  if (length < 0) return -1;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    unsigned int had = *count, more = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    if (more > TWILL_DESCRIPTORS_AT_ONCE - had) more = TWILL_DESCRIPTORS_AT_ONCE - had;
    memcpy(descriptors + had, CMSG_DATA(header), sizeof(int) * more);
    *count = had + more;
  }
  if (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) {
    for (unsigned int index = 0; index < *count; index++) close(descriptors[index]);
    *count = 0;
    errno = EMSGSIZE;
    return -1;
  }
  return length;
}

int twill_readable_bytes(int socket) {
  int bytes = 0;
  return ioctl(socket, FIONREAD, &bytes) == 0 ? bytes : 0;
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

int twill_thread_number(void) { return (int)syscall(SYS_gettid); }

// `struct sched_attr` of linux/sched/types.h in its first form, which C libraries' headers lack.
struct scheduling_attributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};

int twill_set_time_slice(int thread, uint64_t nanoseconds) {
  struct scheduling_attributes attributes = {0};
  if (syscall(SYS_sched_getattr, thread, &attributes, sizeof attributes, 0)) return errno;
  // The other policies' runtime is something else.
  if (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH) return EINVAL;
  attributes.runtime = nanoseconds;
  return syscall(SYS_sched_setattr, thread, &attributes, 0) ? errno : 0;
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

void twill_return_allocations(int bytes) {
#ifdef M_MMAP_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, bytes);
#else
  (void)bytes;
#endif
}

char **twill_environment(void) {
  return environ;
}
