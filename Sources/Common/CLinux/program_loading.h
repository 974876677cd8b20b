#pragma once

#include <linux/bpf.h>

// BPF_PROG_LOAD of bpf(2), again where the kernel was only disturbed. Returns the descriptor, or -1 with errno set.
int twill_load_program(union bpf_attr *attributes);
