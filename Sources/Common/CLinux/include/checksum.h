// The Internet checksum's inner loop. It is C because Swift compiles for the baseline x86-64 alone, and this
// loop is four times as fast with the vectors that nearly every server has: docs/adr/0010.
#pragma once
#include <stddef.h>
#include <stdint.h>

// The sum of `count` bytes at `bytes` as native-endian 32-bit words, the last one padded with zero bytes: at
// most 2^32 for each 4 bytes, so a sum of 64 KiB stays below 2^47. Any alignment, any count. Congruent modulo
// 65,535 to the sum of 16-bit words of RFC 1071 in native byte order.
uint64_t twill_internet_sum(const void *bytes, size_t count);
