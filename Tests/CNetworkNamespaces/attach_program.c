#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "CNetworkNamespaces.h"

// Attach types that headers before Linux 6.6 lack.
enum { TCX_INGRESS = 46, TCX_EGRESS = 47 };

int attach_program(int program, unsigned interface, int egress) {
  union bpf_attr attributes = {0};
  attributes.link_create.prog_fd = (unsigned)program;
  attributes.link_create.target_ifindex = interface;
  attributes.link_create.attach_type = egress ? TCX_EGRESS : TCX_INGRESS;
  return (int)syscall(SYS_bpf, BPF_LINK_CREATE, &attributes, sizeof attributes);
}
