// liburing 2.3 (Debian 12) with what Swift cannot import from it: flags that are macros over enum bits, loops that
// are macros, and names that its header is too old for. The values are the kernel's (include/uapi/linux/io_uring.h).
#pragma once
// First, with the feature macros that Swift's own Glibc module saw: liburing.h defines _XOPEN_SOURCE, which changes
// the layout of fd_set.
#include <sys/types.h>

#include <liburing.h>
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

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

// What liburing 2.3 does not know (Linux 6.15): a wait that is not counted as one for a disk.
enum { TWILL_ENTER_NO_IOWAIT = 1U << 7, TWILL_FEAT_NO_IOWAIT = 1U << 17 };
// INT_FLAG_REG_RING of liburing's own src/int_flags.h.
enum { TWILL_RING_IS_REGISTERED = 1 };

// Submits what was queued and waits for `wait` completions, no longer than `timeout` unless that is NULL. Returns how many
// entries the kernel took, or a negated error number. In place of io_uring_submit_and_wait, which has no way to pass
// the flag: without it, Linux shows a CPU whose worker sleeps as 100 % iowait, and the node's I/O pressure as full.
static inline int twill_enter(struct io_uring *ring, unsigned wait, struct __kernel_timespec *timeout) {
  struct io_uring_sq *queue = &ring->sq;
  unsigned tail = *queue->ktail;
  for (; queue->sqe_head != queue->sqe_tail; queue->sqe_head++, tail++)
    if (queue->array) queue->array[tail & queue->ring_mask] = queue->sqe_head & queue->ring_mask;
  io_uring_smp_store_release(queue->ktail, tail);

  unsigned flags = IORING_ENTER_GETEVENTS;
  if (ring->features & TWILL_FEAT_NO_IOWAIT) flags |= TWILL_ENTER_NO_IOWAIT;
  if (ring->int_flags & TWILL_RING_IS_REGISTERED) flags |= IORING_ENTER_REGISTERED_RING;
  if (ring->flags & IORING_SETUP_SQPOLL) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (IO_URING_READ_ONCE(*queue->kflags) & IORING_SQ_NEED_WAKEUP) flags |= IORING_ENTER_SQ_WAKEUP;
  }
  unsigned count = tail - IO_URING_READ_ONCE(*queue->khead);
  struct io_uring_getevents_arg extended = {.ts = (unsigned long)timeout};
  if (timeout) flags |= IORING_ENTER_EXT_ARG;
  long result = syscall(
      __NR_io_uring_enter, ring->enter_ring_fd, count, wait, flags, timeout ? &extended : NULL,
      timeout ? sizeof extended : _NSIG / 8);
  return result < 0 ? -errno : (int)result;
}

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
