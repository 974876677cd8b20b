#pragma once
#include <stddef.h>

/// The commit that the program was built from, as `tools/package` wrote it into the finished file; empty where nobody did.
/// Ends with a zero byte and lasts as long as the process.
const char *_Nonnull twill_build_commit(void);

/// Copies the linker's build ID of the program, which tells any two of different content apart.
///
/// Returns how many bytes it has; 0 where there is none, or where it has more than `capacity`.
size_t twill_build_identifier(unsigned char *_Nonnull bytes, size_t capacity);
