// bpf(2): maps, programs and their links (linux/bpf.h). glibc has no name for the call, and its attributes are a union
// that grows with each kernel. Each function returns -1 with errno set where the kernel refuses; those that make
// something return its descriptor, closed in children.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum twill_map_kind {
  TWILL_MAP_HASH = 1,
  TWILL_MAP_ARRAY = 2,
  // An array that a process can have in its memory, from Linux 5.5: not a kind of the kernel's own.
  TWILL_MAP_ARRAY_IN_MEMORY = 0x102,
  TWILL_MAP_ARRAY_OF_EACH_CPU = 6,
  TWILL_MAP_PREFIXES = 11,
  TWILL_MAP_ARRAY_OF_MAPS = 12,
};

// Makes a map of at most `entries`. `inner`: for an array of maps, a map such as its values will be; else -1. `name`: 15
// bytes at most. Memory is taken as entries come, where the kind of map lets it.
int twill_map_make(enum twill_map_kind kind, uint32_t key_bytes, uint32_t value_bytes, uint32_t entries, int inner,
                   const char *name);
// One entry, of as many bytes as the map was made for. A map of each CPU gives and takes a value for each, each rounded up
// to 8 bytes.
int twill_map_set(int map, const void *key, const void *value);
int twill_map_get(int map, const void *key, void *value);
int twill_map_remove(int map, const void *key);
// The values of such an array, `bytes` of them, to be read and written until the caller gives the memory back (munmap). NULL
// where the kernel refuses.
void *twill_map_memory(int map, size_t bytes);
// How many CPUs a value of such a map has one for: all that this machine may ever have (`possible` of
// /sys/devices/system/cpu). 0 where that cannot be read.
uint32_t twill_possible_cpus(void);

// Loads a program for traffic control (BPF_PROG_TYPE_SCHED_CLS). What the kernel says of one that it refuses goes into
// `words`, `size` bytes, empty where it says nothing.
int twill_program_load(const uint64_t *instructions, uint32_t count, const char *name, char *words, uint32_t size);
// Runs it once on bytes that begin with an Ethernet header (BPF_PROG_TEST_RUN); nothing leaves the machine. They are datagrams
// of `segment_bytes` each that were merged, or one where that is 0. `*changed_bytes` is the room at `changed` before, and the
// packet's length after.
int twill_program_run(int program, const void *packet, uint32_t packet_bytes, uint32_t segment_bytes, void *changed,
                      uint32_t *changed_bytes, int32_t *verdict);
// The kernel's number of it, by which others know the program; 0 where the kernel does not tell.
uint32_t twill_program_identifier(int program);
