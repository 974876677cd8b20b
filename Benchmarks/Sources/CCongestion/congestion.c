#include "CCongestion.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int socket(int domain, int type, int protocol) {
  int descriptor = (int)syscall(SYS_socket, domain, type, protocol);
  const char *name = getenv("TCP_CONGESTION");
  int kind = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (descriptor < 0 || !name || kind != SOCK_STREAM || (domain != AF_INET && domain != AF_INET6)) return descriptor;
  if (setsockopt(descriptor, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) == 0) return descriptor;
  int reason = errno;
  fprintf(stderr, "congestion control %s: %s\n", name, strerror(reason));
  close(descriptor);
  errno = reason;
  return -1;
}
