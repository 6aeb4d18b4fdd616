/* Small systems of all pixels of a row, one after the other in memory: what moving-window regressions solve.
 *
 * What includes this says before it what numbers they are of (REAL), how their roots are drawn (ROOT), and what a pivot
 * is at least (LEAST_PIVOT).
 */

#include <math.h>
#include <stdint.h>

/* Cholesky factors of the matrices of a row, (entry, col), in place, with the reciprocals of the diagonal. */
static inline void factor_row(REAL *gram, int64_t count, int64_t cols) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t j = 0; j <= i; j++) {
      REAL *restrict own = gram + entry(i, j) * cols;
      for (int64_t k = 0; k < j; k++) {
        const REAL *restrict a = gram + entry(i, k) * cols, *restrict b = gram + entry(j, k) * cols;
        for (int64_t x = 0; x < cols; x++) own[x] -= a[x] * b[x];
      }
      if (i == j) {
        for (int64_t x = 0; x < cols; x++) own[x] = (REAL)1 / ROOT(own[x] > LEAST_PIVOT ? own[x] : LEAST_PIVOT);
      } else {
        const REAL *restrict scale = gram + entry(j, j) * cols;
        for (int64_t x = 0; x < cols; x++) own[x] *= scale[x];
      }
    }
}

/* Solve for one right-hand side of every pixel of a row, (regressor, col), in place. */
static inline void solve_row(const REAL *gram, int64_t count, int64_t cols, REAL *right) {
  for (int64_t i = 0; i < count; i++) {
    REAL *restrict own = right + i * cols;
    const REAL *restrict scale = gram + entry(i, i) * cols;
    for (int64_t k = 0; k < i; k++) {
      const REAL *restrict a = gram + entry(i, k) * cols, *restrict b = right + k * cols;
      for (int64_t x = 0; x < cols; x++) own[x] -= a[x] * b[x];
    }
    for (int64_t x = 0; x < cols; x++) own[x] *= scale[x];
  }
  for (int64_t i = count - 1; i >= 0; i--) {
    REAL *restrict own = right + i * cols;
    const REAL *restrict scale = gram + entry(i, i) * cols;
    for (int64_t k = i + 1; k < count; k++) {
      const REAL *restrict a = gram + entry(k, i) * cols, *restrict b = right + k * cols;
      for (int64_t x = 0; x < cols; x++) own[x] -= a[x] * b[x];
    }
    for (int64_t x = 0; x < cols; x++) own[x] *= scale[x];
  }
}
