/* What the kernels for image planes share. */

#include <stdint.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

/* Floats of a vector: tells whether a library fits the instruction set that it is loaded for. */
int hsf_lanes(void) { return LANES; }

/* The nearest index of an axis of so many samples. */
static inline int64_t clamp(int64_t i, int64_t size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }

/* Where the lower triangle of a symmetric matrix holds an entry, row after row. */
static inline int64_t entry(int64_t i, int64_t j) { return i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i; }
