#pragma once

// unshare(CLONE_NEWNET): gives the calling thread a network namespace of its own. Returns 0, or -1 with errno set.
// Apart from Swift because glibc declares unshare(2) under _GNU_SOURCE alone.
int enter_new_network_namespace(void);

// From here on io_uring_setup fails with `error` in this thread and all processes that it starts. Returns 0, or -1 with
// errno set; root may.
int forbid_io_uring(int error);
