// Counts the calling thread's allocations, in any code of the process: malloc and its kin are replaced by functions that
// count and pass on to glibc's own.
#pragma once

// Begins to count this thread's allocations from zero.
void allocation_count_begin(void);
// How many there were since; ends counting.
unsigned long allocation_count_end(void);
