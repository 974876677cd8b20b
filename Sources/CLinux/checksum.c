#include "checksum.h"
#include <string.h>

// One body, compiled for each level of the x86-64 psABI and picked once by the dynamic linker.
#if defined(__x86_64__)
#define FOR_EACH_VECTOR_SIZE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_VECTOR_SIZE
#endif

typedef uint64_t words __attribute__((vector_size(64)));

FOR_EACH_VECTOR_SIZE
uint64_t twill_internet_sum(const void *bytes, size_t count) {
    const unsigned char *next = bytes;
    uint64_t sum = 0;
    if (count >= 64) {
        words low = {0}, high = {0};
        do {
            words block;
            memcpy(&block, next, sizeof block);
            low += block & 0xFFFFFFFF;
            high += block >> 32;
            next += 64;
            count -= 64;
        } while (count >= 64);
        low += high;
        for (int lane = 0; lane < 8; lane++) sum += low[lane];
    }
    for (; count >= 8; next += 8, count -= 8) {
        uint64_t word;
        memcpy(&word, next, 8);
        sum += (word & 0xFFFFFFFF) + (word >> 32);
    }
    if (count != 0) {
        uint64_t word = 0;
        memcpy(&word, next, count);
        sum += (word & 0xFFFFFFFF) + (word >> 32);
    }
    return sum;
}
