// sendmmsg, recvmmsg with their structure, and ppoll, which glibc declares for _GNU_SOURCE alone. That macro would also change the
// layout of fd_set under Swift's own Glibc module, so they are declared here, as glibc's bits/socket.h has them; and
// the numbers of the TUN's flags.
#pragma once

#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

struct mmsghdr {
  struct msghdr msg_hdr;
  unsigned int msg_len;
};
int sendmmsg(int descriptor, struct mmsghdr *messages, unsigned int count, int flags);
int recvmmsg(int descriptor, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout);
int ppoll(struct pollfd *descriptors, nfds_t count, const struct timespec *timeout, const sigset_t *signals);
