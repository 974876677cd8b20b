#pragma once

// unshare(CLONE_NEWNET): gives the calling thread a network namespace of its own. Returns 0, or -1 with errno set.
// Apart from Swift because glibc declares unshare(2) under _GNU_SOURCE alone.
int enter_new_network_namespace(void);

// Keeps the calling thread, and what it starts from here on, on a share of the CPUs that it may use, counted from 0: as machines of
// their own would have. Does nothing where there are fewer CPUs than shares. Returns 0, or -1 with errno set.
int keep_to_share_of_cpus(int share, int shares);

// From here on io_uring_setup fails with `error` in this thread and all processes that it starts. Returns 0, or -1 with
// errno set; root may.
int forbid_io_uring(int error);

// A raw socket on an interface of the calling thread's network namespace: it gets each frame that comes in by the interface
// or leaves by it, and sends frames as they are. It waits 10 s for one at most. Returns the descriptor, or -1 with errno set.
int open_frame_socket(const char *interface);

// Puts a program of traffic control into the way of an interface's packets (TCX, Linux 6.6), those that leave where `egress`
// is not 0, for as long as the descriptor is open that is returned; -1 with errno set where the kernel refuses it.
int attach_program(int program, unsigned interface, int egress);
