/* The moving-window regression of the adaptive injection (see fusion/classical/window_regression.py, whose plain path
 * says in torch what this does): what smooths, solves and looks at the residuals stays in the cache, one row of pixels
 * at a time.
 *
 * Plain C that GCC and Clang turn into vector instructions by themselves. One thread; safe to call from several.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REAL float
#define ROOT sqrtf
#define LEAST_PIVOT 1e-6f

#include "planes.h"
#include "row_solver.h"

#define TAPS 5
#define SIDE 2
#define MOST_BANDS 16

static const float BINOMIAL[TAPS] = {0.0625f, 0.25f, 0.375f, 0.25f, 0.0625f};

/* Products of two rows, smoothed along them; `line` has room for SIDE samples before and after the row. */
static void smooth_product(const float *restrict a, const float *restrict b, int64_t cols, float *restrict line,
                           float *restrict out) {
  for (int64_t j = 0; j < cols; j++) line[j] = a[j] * b[j];
  for (int64_t k = 1; k <= SIDE; k++) line[-k] = line[0], line[cols - 1 + k] = line[cols - 1];
  for (int64_t j = 0; j < cols; j++)
    out[j] = BINOMIAL[2] * line[j] + BINOMIAL[1] * (line[j - 1] + line[j + 1]) +
             BINOMIAL[0] * (line[j - 2] + line[j + 2]);
}

/* Five rows of a ring, weighed. */
static void smooth_down(float *const ring[TAPS], int64_t count, float *restrict out) {
  const float *restrict a = ring[0], *restrict b = ring[1], *restrict c = ring[2], *restrict d = ring[3],
        *restrict e = ring[4];
  for (int64_t j = 0; j < count; j++)
    out[j] = BINOMIAL[2] * c[j] + BINOMIAL[1] * (b[j] + d[j]) + BINOMIAL[0] * (a[j] + e[j]);
}

/* Regresses the details of `rank` components on those of `count` bands in binomial windows of five pixels.
 *
 * guide is (count, rows, cols), detail and components (rank, rows, cols), all contiguous; prior (count, count) is added to
 * the windows' matrices and pull (count, rank) to their right-hand sides; noise is the variance of unit white noise in a
 * detail. coefficients is (count, rank, rows, cols), trusted (rank, rows, cols): the components without the share of
 * their unexplained detail that noise alone would make. */
int hsf_regress(const float *guide, const float *detail, const float *components, int64_t count, int64_t rank,
                int64_t rows, int64_t cols, const float *prior, const float *pull, float noise, float *coefficients,
                float *trusted) {
  if (count > MOST_BANDS) return 2;
  const int64_t pairs = entry(count, 0), planes = pairs + (count + 1) * rank, pixels = rows * cols;
  const int64_t each = planes * cols;
  float *memory = malloc(((TAPS + 1) * each + (pairs + count + 3) * cols + 2 * SIDE) * sizeof(float));
  if (!memory) return 1;
  float *moments = memory + TAPS * each, *gram = moments + each, *right = gram + pairs * cols,
        *left = right + count * cols, *beyond = left + cols, *line = beyond + cols + SIDE;
  int64_t known = -SIDE; /* rows (unclamped) below this one are in the ring */
  for (int64_t i = 0; i < rows; i++) {
    for (; known <= i + SIDE; known++) {
      const int64_t at = clamp(known, rows) * cols;
      float *slot = memory + ((known + SIDE) % TAPS) * each;
      for (int64_t a = 0; a < count; a++)
        for (int64_t b = 0; b <= a; b++, slot += cols)
          smooth_product(guide + a * pixels + at, guide + b * pixels + at, cols, line, slot);
      for (int64_t r = 0; r < rank; r++) {
        const float *own = detail + r * pixels + at;
        for (int64_t a = 0; a < count; a++, slot += cols) smooth_product(guide + a * pixels + at, own, cols, line, slot);
        smooth_product(own, own, cols, line, slot), slot += cols;
      }
    }
    float *ring[TAPS];
    for (int64_t t = 0; t < TAPS; t++) ring[t] = memory + ((i + t) % TAPS) * each;
    smooth_down(ring, each, moments);
    memcpy(gram, moments, pairs * cols * sizeof(float));
    for (int64_t a = 0; a < count; a++)
      for (int64_t b = 0; b <= a; b++)
        for (int64_t x = 0; x < cols; x++) gram[entry(a, b) * cols + x] += prior[a * count + b];
    factor_row(gram, count, cols);
    const int64_t here = i * cols;
    for (int64_t r = 0; r < rank; r++) {
      const float *cross = moments + (pairs + r * (count + 1)) * cols, *energy = cross + count * cols;
      for (int64_t a = 0; a < count; a++)
        for (int64_t x = 0; x < cols; x++) right[a * cols + x] = cross[a * cols + x] + pull[a * rank + r];
      solve_row(gram, count, cols, right);
      memcpy(left, energy, cols * sizeof(float));
      memcpy(beyond, detail + r * pixels + here, cols * sizeof(float));
      for (int64_t a = 0; a < count; a++) {
        const float *restrict own = right + a * cols, *restrict seen = guide + a * pixels + here,
              *restrict product = cross + a * cols;
        float *restrict rest = beyond, *restrict energy_left = left;
        for (int64_t x = 0; x < cols; x++) rest[x] -= own[x] * seen[x], energy_left[x] -= 2.0f * own[x] * product[x];
        for (int64_t b = 0; b <= a; b++) { /* what stands twice in the symmetric matrix counts twice */
          const float *restrict other = right + b * cols, *restrict square = moments + entry(a, b) * cols;
          const float times = a == b ? 1.0f : 2.0f;
          for (int64_t x = 0; x < cols; x++) energy_left[x] += times * own[x] * other[x] * square[x];
        }
        memcpy(coefficients + (a * rank + r) * pixels + here, own, cols * sizeof(float));
      }
      const float *restrict whole = components + r * pixels + here;
      float *restrict out = trusted + r * pixels + here;
      for (int64_t x = 0; x < cols; x++) {
        const float bounded = left[x] > 1e-9f ? left[x] : 1e-9f, share = noise / bounded;
        out[x] = whole[x] - (share < 1.0f ? share : 1.0f) * beyond[x];
      }
    }
  }
  free(memory);
  return 0;
}
