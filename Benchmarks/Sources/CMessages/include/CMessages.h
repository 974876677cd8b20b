// sendmmsg, recvmmsg and their structures, which glibc declares for _GNU_SOURCE only and its Swift module leaves out;
// and the numbers of the TUN's flags.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
