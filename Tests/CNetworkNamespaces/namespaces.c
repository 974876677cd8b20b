#define _GNU_SOURCE
#include "CNetworkNamespaces.h"

#include <sched.h>

int enter_new_network_namespace(void) { return unshare(CLONE_NEWNET); }

int keep_to_share_of_cpus(int share, int shares) {
  cpu_set_t usable, own;
  if (sched_getaffinity(0, sizeof usable, &usable)) return -1;
  int each = CPU_COUNT(&usable) / shares;
  if (each == 0) return 0;
  CPU_ZERO(&own);
  for (int cpu = 0, place = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &usable)) continue;
    if (place / each == share) CPU_SET(cpu, &own);
    place++;
  }
  return sched_setaffinity(0, sizeof own, &own);
}
