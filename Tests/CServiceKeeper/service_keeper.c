#define _GNU_SOURCE
#include "CServiceKeeper.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FIRST_DESCRIPTOR = 3, DIGITS = 10 };

pid_t start_service(const char *path, char *const arguments[], char *const environment[], char *own_number,
                    const int *descriptors, int count) {
  char *digits = own_number + strlen(own_number) - DIGITS;
  // The memory is the parent's until the program is run: the number is written where the environment has it.
  pid_t process = vfork();
  if (process != 0) return process;
  pid_t own = getpid();
  for (int digit = DIGITS - 1; digit >= 0; digit--, own /= 10) digits[digit] = (char)('0' + own % 10);
  for (int place = 0; place < count; place++) {
    if (dup2(descriptors[place], FIRST_DESCRIPTOR + place) < 0) _exit(127);
  }
  execvpe(path, arguments, environment);
  _exit(127);
}

int open_process(pid_t process) { return (int)syscall(SYS_pidfd_open, process, 0); }
