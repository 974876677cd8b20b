// What Swift cannot import by itself: macros over structs (CMSG_*, CPU_*), ioctl numbers that are computed,
// and kernel headers that glibc's module map leaves out. Each function states the call that it stands for.
#pragma once

#include <errno.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/udp.h>
#include <linux/virtio_net.h>
#include <malloc.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

// TUN: the ioctls of drivers/net/tun.c. Each returns 0, or -1 with errno set.
// Makes a device of several queues, or fails with EBUSY where there is a device of that name.
int twill_tun_create(int descriptor, const char *name);
int twill_tun_attach(int descriptor, const char *name, int multi_queue);
// Takes a queue off its device, whoever has copies of the descriptor: those behind it move up (`__tun_detach`).
int twill_tun_detach(int descriptor);
// Whether somebody has a queue of a TUN device open: the device has a carrier then. -1 where there is no TUN device of that
// name, or the kernel does not tell.
int twill_tun_is_held(const char *name);
int twill_tun_set_vnet_header(int descriptor, int *length);
int twill_tun_set_offload(int descriptor, unsigned int flags);

int twill_tun_set_persistent(int descriptor, int persistent);
// The `IFF_*` flags of the device that a queue belongs to (linux/if_tun.h).
int twill_tun_flags(int descriptor, unsigned short *flags);

// Takes the queueing discipline from an interface that is not up yet: what is sent there goes straight to the driver.
// Returns 0, or an error number.
int twill_link_without_queue(unsigned int index);

// The name of the device that a TUN queue belongs to, into `name` of IFNAMSIZ bytes. Returns 0, or -1 with errno set.
int twill_tun_name(int descriptor, char *name);

// How many packets the kernel dropped that were to go out by an interface (`tx_dropped` of struct rtnl_link_stats64), into
// `dropped`. Returns 0, or an error number.
int twill_link_dropped(unsigned int index, uint64_t *dropped);

// How many datagrams the kernel dropped that were for a socket (SK_MEMINFO_DROPS of SO_MEMINFO, Linux 4.12), into
// `dropped`; the count wraps at 2^32. Returns 0, or -1 with errno set.
int twill_socket_dropped(int descriptor, uint32_t *dropped);

// 1 where one send of `segments` one-byte datagrams with UDP_SEGMENT is accepted on loopback, else 0.
int twill_udp_segments_accepted(int segments);

// struct mmsghdr, sendmmsg and recvmmsg, which glibc shows with _GNU_SOURCE alone.
struct twill_batch_message {
  struct msghdr header;
  unsigned int length;
};
int twill_send_batch(int descriptor, struct twill_batch_message *messages, unsigned int count);
int twill_receive_batch(int descriptor, struct twill_batch_message *messages, unsigned int count);

// A file in memory with these bytes, which nobody can change any more (memfd_create(2), F_ADD_SEALS): the descriptor, or -1
// with errno set.
int twill_sealed_memory(const char *name, const void *bytes, size_t length);
// Whether a file in memory is such a one.
int twill_is_sealed(int descriptor);

// Descriptors that go with one message.
#define TWILL_DESCRIPTORS_AT_ONCE 250
// Sends bytes with copies of descriptors (SCM_RIGHTS of unix(7)); `address` may be null. Returns what sendmsg(2) does.
ssize_t twill_send_descriptors(int socket, const struct sockaddr *address, unsigned int address_length, const void *bytes,
                               size_t length, const int *descriptors, unsigned int count);
// Receives such: `descriptors` has room for TWILL_DESCRIPTORS_AT_ONCE, and they are the caller's to close. A message that
// does not fit is an error, and nothing of it is kept. Returns what recvmsg(2) does.
ssize_t twill_receive_descriptors(int socket, void *bytes, size_t room, int *descriptors, unsigned int *count);
// Bytes of the datagram that waits first on a socket (FIONREAD); 0 where none does, or it is empty.
int twill_readable_bytes(int socket);

// Pins the calling thread to one CPU. Returns 0 or an error number.
int twill_pin_thread(int cpu);
// Names the calling thread, for `top -H` and perf; the kernel keeps 15 bytes, and the C library refuses longer names.
void twill_name_thread(const char *name);
// The number of the calling thread.
int twill_thread_number(void);
// Gives a thread of this process turns of so many nanoseconds on its CPU (0.1 to 100 ms; 0: the kernel's own), after which
// others that wait have theirs; who has shorter ones gets his first (EEVDF, kernel/sched/fair.c, Linux 6.12; nothing happens
// before). It has the same share of the CPU. Takes no right. Returns 0 or an error number.
int twill_set_time_slice(int thread, uint64_t nanoseconds);
// How many CPUs the calling thread may use: 1 or more.
int twill_usable_cpus(void);

// A file in memory that ends with its last descriptor: memfd_create(2) with MFD_CLOEXEC. Returns the descriptor, or -1 with
// errno set.
int twill_memory_file(const char *name);
// The two ends of a pipe, to read from and to write to, closed in children: pipe2(2). Returns 0, or -1 with errno set.
int twill_pipe(int ends[2]);
// Gives allocations of so many bytes and more pages of their own, which the kernel gets back with them: mallopt(3),
// M_MMAP_THRESHOLD. Nothing happens where the C library is not glibc.
void twill_return_allocations(int bytes);
// The process's variables, as `environ` has them.
char **twill_environment(void);

// The size of a control message with UDP_SEGMENT's 16-bit value: CMSG_SPACE(sizeof(uint16_t)).
#define TWILL_SEGMENT_CONTROL_BYTES 24
// Writes that control message into 8-byte-aligned memory.
static inline void twill_write_segment_control(void *control, uint16_t segment_bytes) {
  struct cmsghdr *header = (struct cmsghdr *)control;
  header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
  header->cmsg_level = IPPROTO_UDP;
  header->cmsg_type = UDP_SEGMENT;
  memcpy(CMSG_DATA(header), &segment_bytes, sizeof segment_bytes);
}
// The room to receive UDP_GRO's 32-bit value: CMSG_SPACE(sizeof(int)).
#define TWILL_COALESCE_CONTROL_BYTES 24
// The segment size in a received control message, or 0 where there is none: the datagram came alone.
static inline int twill_read_coalesce_control(const void *control, size_t length) {
  const struct cmsghdr *header = (const struct cmsghdr *)control;
  int segment_bytes = 0;
  if (length >= CMSG_LEN(sizeof(int)) && header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_GRO)
    memcpy(&segment_bytes, CMSG_DATA(header), sizeof segment_bytes);
  return segment_bytes;
}
#include "checksum.h"
#include "kernel_programs.h"
#include "socket_error.h"

// Steering to workers (steering.c). Each returns 0, or -1 with errno set.
// Datagrams to the sockets of a SO_REUSEPORT group, the first `sockets` in number: the one at place (source address + source
// port) mod `sockets`, counted in the order of binding.
int twill_steer_datagrams(int socket, uint32_t sockets, int is_ipv6);
// Packets to the first `queues` queues of a TUN device: by the flow's addresses and, where it is TCP or UDP, ports; both
// directions of a flow alike.
int twill_steer_packets(int tunnel, uint32_t queues);
