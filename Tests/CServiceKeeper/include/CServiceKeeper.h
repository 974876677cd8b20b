#pragma once

#include <sys/types.h>

// Starts a service's process as a service manager does, without a shell between: its descriptors `descriptors[0..count)`
// are its numbers 3 and on, and `own_number`, a string of the environment that ends with room for ten digits
// ("LISTEN_PID=0000000000"), gets its process number (sd_listen_fds(3)). None of `descriptors` is below 3 + count.
// Returns the number, or -1 with errno set; a program that can't be run ends with 127.
pid_t start_service(const char *path, char *const arguments[], char *const environment[], char *own_number,
                    const int *descriptors, int count);

// A descriptor that can be read once the process has ended (pidfd_open(2)), or -1 with errno set.
int open_process(pid_t process);
