// liburing 2.3 (Debian 12) with what Swift cannot import from it: flags that are macros over enum bits, loops that
// are macros, and names that its header is too old for. The values are the kernel's (include/uapi/linux/io_uring.h).
#pragma once
// First, with the feature macros that Swift's own Glibc module saw: liburing.h defines _XOPEN_SOURCE, which changes
// the layout of fd_set.
#include <sys/types.h>

#include <liburing.h>
#include <sys/mman.h>

enum {
  TWILL_SQE_FIXED_FILE = IOSQE_FIXED_FILE,
  TWILL_SQE_BUFFER_SELECT = IOSQE_BUFFER_SELECT,
  TWILL_CQE_BUFFER = IORING_CQE_F_BUFFER,
  TWILL_CQE_MORE = IORING_CQE_F_MORE,
  TWILL_CQE_BUFFER_SHIFT = IORING_CQE_BUFFER_SHIFT,
};

static inline struct io_uring_sqe *twill_next_sqe(struct io_uring *ring) { return io_uring_get_sqe(ring); }

// How many completions wait, the first at twill_cqe(ring, 0).
static inline unsigned twill_cqes_ready(const struct io_uring *ring) { return io_uring_cq_ready(ring); }
static inline const struct io_uring_cqe *twill_cqe(const struct io_uring *ring, unsigned offset) {
  return &ring->cq.cqes[(*ring->cq.khead + offset) & *ring->cq.kring_mask];
}
static inline void twill_cqes_seen(struct io_uring *ring, unsigned count) { io_uring_cq_advance(ring, count); }
static inline int twill_cq_overflowed(const struct io_uring *ring) {
  return (IO_URING_READ_ONCE(*ring->sq.kflags) & IORING_SQ_CQ_OVERFLOW) != 0;
}
static inline unsigned twill_sq_space(const struct io_uring *ring) { return io_uring_sq_space_left(ring); }

// A provided buffer ring of `entries` (a power of two) in zeroed pages of its own; NULL with errno set on failure.
static inline struct io_uring_buf_ring *twill_make_buffer_ring(struct io_uring *ring, unsigned entries, int group) {
  size_t bytes = entries * sizeof(struct io_uring_buf);
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) return NULL;
  struct io_uring_buf_reg registration = {
      .ring_addr = (unsigned long)memory, .ring_entries = entries, .bgid = (unsigned short)group};
  int result = io_uring_register_buf_ring(ring, &registration, 0);
  if (result < 0) {
    munmap(memory, bytes);
    errno = -result;
    return NULL;
  }
  return (struct io_uring_buf_ring *)memory;
}
static inline void twill_free_buffer_ring(struct io_uring_buf_ring *buffers, unsigned entries) {
  munmap(buffers, entries * sizeof(struct io_uring_buf));
}
static inline void twill_provide_buffer(
    struct io_uring_buf_ring *buffers, unsigned entries, void *memory, unsigned length, unsigned short identifier) {
  io_uring_buf_ring_add(buffers, memory, length, identifier, (int)entries - 1, 0);
  io_uring_buf_ring_advance(buffers, 1);
}

// `flags` of the ring: one thread issues, and completions are worked off in its own enters (Linux 6.1), which the
// kernel does not do where its own thread submits.
static inline unsigned twill_setup_flags(int submission_polling) {
  return IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
         (submission_polling ? IORING_SETUP_SQPOLL : IORING_SETUP_DEFER_TASKRUN);
}
static inline void twill_prepare_cancel_all(struct io_uring_sqe *sqe) {
  io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
}
// RWF_NOWAIT (linux/fs.h, 4.14).
static inline void twill_set_no_wait(struct io_uring_sqe *sqe) { sqe->rw_flags = 0x00000008; }
static inline void twill_set_buffer_group(struct io_uring_sqe *sqe, unsigned short group) { sqe->buf_group = group; }
