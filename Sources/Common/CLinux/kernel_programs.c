#include "kernel_programs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "program_loading.h"

static int call(enum bpf_cmd command, union bpf_attr *attributes) {
  return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static void set_name(char target[BPF_OBJ_NAME_LEN], const char *name) {
  strncpy(target, name, BPF_OBJ_NAME_LEN - 1);
}

int twill_map_make(enum twill_map_kind kind, uint32_t key_bytes, uint32_t value_bytes, uint32_t entries, int inner,
                   const char *name) {
  union bpf_attr attributes = {0};
  attributes.map_type = kind & 0xFF;
  attributes.key_size = key_bytes;
  attributes.value_size = value_bytes;
  attributes.max_entries = entries;
  if (kind == TWILL_MAP_HASH || kind == TWILL_MAP_PREFIXES) attributes.map_flags = BPF_F_NO_PREALLOC;
  if (kind == TWILL_MAP_ARRAY_IN_MEMORY) attributes.map_flags = BPF_F_MMAPABLE;
  if (inner >= 0) attributes.inner_map_fd = (uint32_t)inner;
  set_name(attributes.map_name, name);
  return call(BPF_MAP_CREATE, &attributes);
}

static int on_entry(enum bpf_cmd command, int map, const void *key, const void *value) {
  union bpf_attr attributes = {0};
  attributes.map_fd = (uint32_t)map;
  attributes.key = (uintptr_t)key;
  attributes.value = (uintptr_t)value;
  return call(command, &attributes);
}

int twill_map_set(int map, const void *key, const void *value) {
  return on_entry(BPF_MAP_UPDATE_ELEM, map, key, value);
}

int twill_map_get(int map, const void *key, void *value) { return on_entry(BPF_MAP_LOOKUP_ELEM, map, key, value); }

int twill_map_remove(int map, const void *key) { return on_entry(BPF_MAP_DELETE_ELEM, map, key, NULL); }

void *twill_map_memory(int map, size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

uint32_t twill_possible_cpus(void) {
  // One range, "0-3", or several: the last number counts.
  char text[256];
  int file = open("/sys/devices/system/cpu/possible", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  ssize_t count = read(file, text, sizeof text - 1);
  close(file);
  if (count <= 0) return 0;
  text[count] = 0;
  uint32_t last = 0, number = 0;
  for (char *place = text; *place; place++) {
    number = *place >= '0' && *place <= '9' ? number * 10 + (uint32_t)(*place - '0') : 0;
    if (*place >= '0' && *place <= '9') last = number;
  }
  return last + 1;
}

// While a signal or a ring's work waits for the thread the verifier gives up (EAGAIN). That is done before the next call.
int twill_load_program(union bpf_attr *attributes) {
  enum { ATTEMPTS = 32 };
  int program = -1;
  for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
    program = call(BPF_PROG_LOAD, attributes);
    if (program >= 0 || errno != EAGAIN) break;
  }
  return program;
}

int twill_program_load(const uint64_t *instructions, uint32_t count, const char *name, char *words, uint32_t size) {
  union bpf_attr attributes = {0};
  words[0] = 0;
  attributes.prog_type = BPF_PROG_TYPE_SCHED_CLS;
  attributes.insns = (uintptr_t)instructions;
  attributes.insn_cnt = count;
  // No helper that the programs use asks for another licence than twill's own.
  attributes.license = (uintptr_t) "Apache-2.0";
  set_name(attributes.prog_name, name);
  int program = twill_load_program(&attributes);
  if (program >= 0) return program;
  // Once more for the kernel's words, which cost a good load time.
  int error = errno;
  attributes.log_buf = (uintptr_t)words;
  attributes.log_size = size;
  attributes.log_level = 1;
  program = twill_load_program(&attributes);
  if (program < 0) errno = error;
  return program;
}

int twill_program_run(int program, const void *packet, uint32_t packet_bytes, uint32_t segment_bytes, void *changed,
                      uint32_t *changed_bytes, int32_t *verdict) {
  union bpf_attr attributes = {0};
  struct __sk_buff context = {0};
  if (segment_bytes) {
    context.gso_size = segment_bytes;
    attributes.test.ctx_in = (uintptr_t)&context;
    attributes.test.ctx_size_in = sizeof context;
  }
  attributes.test.prog_fd = (uint32_t)program;
  attributes.test.data_in = (uintptr_t)packet;
  attributes.test.data_size_in = packet_bytes;
  attributes.test.data_out = (uintptr_t)changed;
  attributes.test.data_size_out = *changed_bytes;
  attributes.test.repeat = 1;
  int result = call(BPF_PROG_TEST_RUN, &attributes);
  *verdict = (int32_t)attributes.test.retval;
  *changed_bytes = attributes.test.data_size_out;
  return result;
}

uint32_t twill_program_identifier(int program) {
  struct bpf_prog_info information = {0};
  union bpf_attr attributes = {0};
  attributes.info.bpf_fd = (uint32_t)program;
  attributes.info.info_len = sizeof information;
  attributes.info.info = (uintptr_t)&information;
  return call(BPF_OBJ_GET_INFO_BY_FD, &attributes) < 0 ? 0 : information.id;
}
