#include "checksum.h"
#include <string.h>

// One body, compiled for each level of the x86-64 psABI; the dynamic linker picks one, once. Vector types that a
// level lacks are split by the compiler, so the default is right everywhere, and SSE2 or NEON at the least.
#if defined(__x86_64__)
#define FOR_EACH_VECTOR_WIDTH __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_VECTOR_WIDTH
#endif

typedef uint64_t words512 __attribute__((vector_size(64)));
typedef uint64_t words256 __attribute__((vector_size(32)));
typedef uint64_t words128 __attribute__((vector_size(16)));

FOR_EACH_VECTOR_WIDTH
uint64_t twill_internet_sum(const void *bytes, size_t count) {
    const unsigned char *next = bytes;
    const unsigned char *const end = next + (count & ~(size_t)63);
    uint64_t sum = 0;
    if (count >= 32) {
        words512 wide = {0};
        for (; next != end; next += 64) {
            words512 block;
            memcpy(&block, next, sizeof block);
            wide += (block & 0xFFFFFFFF) + (block >> 32);
        }
        words256 half = __builtin_shufflevector(wide, wide, 0, 1, 2, 3)
            + __builtin_shufflevector(wide, wide, 4, 5, 6, 7);
        if (count & 32) {
            words256 block;
            memcpy(&block, next, sizeof block);
            half += (block & 0xFFFFFFFF) + (block >> 32);
            next += 32;
        }
        words128 quarter =
            __builtin_shufflevector(half, half, 0, 1) + __builtin_shufflevector(half, half, 2, 3);
        sum = quarter[0] + quarter[1];
    }
    if (count & 16) {
        uint64_t words[2];
        memcpy(words, next, 16);
        sum += (words[0] & 0xFFFFFFFF) + (words[0] >> 32) + (words[1] & 0xFFFFFFFF) + (words[1] >> 32);
        next += 16;
    }
    if (count & 8) {
        uint64_t word;
        memcpy(&word, next, 8);
        sum += (word & 0xFFFFFFFF) + (word >> 32);
        next += 8;
    }
    if (count & 4) {
        uint32_t word;
        memcpy(&word, next, 4);
        sum += word;
        next += 4;
    }
    if (count & 3) {
        uint32_t word = 0;
        unsigned char *last = (unsigned char *)&word;
        last[0] = next[0];
        if (count & 2) last[1] = next[1];
        if ((count & 3) == 3) last[2] = next[2];
        sum += word;
    }
    return sum;
}
