// What the lab's wire does with a frame: it leaves by the other port. OTHER_PORT is that one's interface index.
#include <linux/bpf.h>

static long (*redirect)(unsigned int interface, unsigned long long flags) = (void *)BPF_FUNC_redirect;

__attribute__((section("xdp"), used)) int cross(struct xdp_md *frame) {
  (void)frame;
  return (int)redirect(OTHER_PORT, 0);
}
