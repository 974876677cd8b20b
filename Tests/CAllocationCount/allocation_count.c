#include "CAllocationCount.h"

#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static _Thread_local int counting;
static _Thread_local unsigned long count;

void allocation_count_begin(void) {
  count = 0;
  counting = 1;
}

unsigned long allocation_count_end(void) {
  counting = 0;
  return count;
}

void *malloc(size_t bytes) {
  if (counting) count++;
  return __libc_malloc(bytes);
}

void *calloc(size_t elements, size_t bytes) {
  if (counting) count++;
  return __libc_calloc(elements, bytes);
}

void *realloc(void *memory, size_t bytes) {
  if (counting) count++;
  return __libc_realloc(memory, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
  if (counting) count++;
  return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **memory, size_t alignment, size_t bytes) {
  if (counting) count++;
  *memory = __libc_memalign(alignment, bytes);
  return *memory ? 0 : ENOMEM;
}
