/* The moving-window regression of the local correction (see fusion/change/local.py, whose plain path says in NumPy what
 * this does): what smooths, solves and looks at the residuals stays in the cache, one row of a few columns at a time.
 *
 * In double precision: the bands of a guide are alike, and the ridge is small. Plain C that GCC and Clang turn into vector
 * instructions by themselves. One thread; safe to call from several.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REAL double
#define ROOT sqrt
#define LEAST_PIVOT 1e-300

#include "planes.h"
#include "row_solver.h"

#define WIDTH 64
#define MOST_OWN 0.95

/* Product of two rows (or of one and 1), smoothed along them; what lies outside of them is nothing. `line` has room for
 * `reach` samples before and after WIDTH others; the row begins `before` samples before those and has `cols` in all. */
static void smooth_along(const double *restrict a, const double *restrict b, int64_t before, int64_t cols,
                         const double *restrict kernel, int64_t reach, double *restrict line, double *restrict out) {
  const int64_t whole = WIDTH + 2 * reach, first = before < reach ? reach - before : 0,
                last = cols - before + reach < whole ? cols - before + reach : whole;
  memset(line, 0, whole * sizeof(double));
  a += before - reach, b += before - reach;
  for (int64_t j = first; j < last; j++) line[j] = a[j] * b[j];
  const double *restrict here = line + reach;
  for (int64_t j = 0; j < WIDTH; j++) out[j] = kernel[0] * here[j];
  for (int64_t k = 1; k <= reach; k++)
    for (int64_t j = 0; j < WIDTH; j++) out[j] += kernel[k] * (here[j - k] + here[j + k]);
}

static int any(const uint8_t *asked, int64_t count) { return memchr(asked, 1, count) != NULL; }

/* Regresses targets on regressors in Gaussian windows, with the leave-one-out errors.
 *
 * z is (size, rows, cols), target (bands, rows, cols), weight (rows, cols), all contiguous; kernel has the filter's middle
 * and `reach` weights beside it; loading is added to the windows' diagonals; own is a pixel's weight in its own window.
 * Pixels of the rows first to last that are asked for (0 or 1; NULL: all) get their coefficients, (bands, size, rows,
 * cols), and their error, (bands, rows, cols). */
int hsf_local_affine(const double *z, const double *target, const double *weight, const uint8_t *asked, int64_t size,
                     int64_t bands, int64_t rows, int64_t cols, int64_t first, int64_t last, const double *kernel,
                     int64_t reach, double loading, double own, double *coefficients, double *error) {
  const int64_t pairs = entry(size, 0), planes = pairs + size * bands, pixels = rows * cols, taps = 2 * reach + 1;
  const int64_t each = planes * WIDTH;
  double *memory = malloc(((taps + 2) * each + (size + 3) * WIDTH + 2 * reach + size * cols) * sizeof(double));
  if (!memory) return 1;
  double *nothing = memory + taps * each, *moments = nothing + each, *right = moments + each,
         *fitted = right + size * WIDTH, *hat = fitted + WIDTH, *line = hat + WIDTH, *heavy = line + WIDTH + 2 * reach;
  memset(nothing, 0, each * sizeof(double)); /* rows beyond the edge */
  for (int64_t left = 0; left < cols; left += WIDTH) {
    const int64_t wide = cols - left < WIDTH ? cols - left : WIDTH;
    const int64_t from = left < reach ? 0 : left - reach, to = left + wide + reach < cols ? left + wide + reach : cols;
    int64_t known = 0; /* rows from `known - taps` on and below `known` are in the ring */
    for (int64_t i = first; i < last; i++) {
      const int64_t here = i * cols + left;
      if (asked && !any(asked + here, wide)) continue;
      if (known < i - reach) known = i - reach;
      for (; known <= i + reach && known < rows; known++) {
        const int64_t at = known * cols;
        double *slot = memory + (known % taps) * each;
        for (int64_t a = 0; a < size; a++)
          for (int64_t j = from; j < to; j++) heavy[a * cols + j] = z[a * pixels + at + j] * weight[at + j];
        for (int64_t a = 0; a < size; a++)
          for (int64_t b = 0; b <= a; b++, slot += WIDTH)
            smooth_along(heavy + a * cols, z + b * pixels + at, left, cols, kernel, reach, line, slot);
        for (int64_t a = 0; a < size; a++)
          for (int64_t b = 0; b < bands; b++, slot += WIDTH)
            smooth_along(heavy + a * cols, target + b * pixels + at, left, cols, kernel, reach, line, slot);
      }
      const double *middle = memory + (i % taps) * each;
      for (int64_t x = 0; x < each; x++) moments[x] = kernel[0] * middle[x];
      for (int64_t k = 1; k <= reach; k++) {
        const double *restrict above = i >= k ? memory + ((i - k) % taps) * each : nothing,
                     *restrict below = i + k < rows ? memory + ((i + k) % taps) * each : nothing;
        const double share = kernel[k];
        double *restrict sum = moments;
        for (int64_t x = 0; x < each; x++) sum[x] += share * (above[x] + below[x]);
      }
      for (int64_t a = 0; a < size; a++)
        for (int64_t x = 0; x < WIDTH; x++) moments[entry(a, a) * WIDTH + x] += loading;
      factor_row(moments, size, WIDTH);
      for (int64_t a = 0; a < size; a++)
        for (int64_t x = 0; x < WIDTH; x++) right[a * WIDTH + x] = x < wide ? z[a * pixels + here + x] : 0.0;
      solve_row(moments, size, WIDTH, right);
      memset(hat, 0, WIDTH * sizeof(double));
      for (int64_t a = 0; a < size; a++)
        for (int64_t x = 0; x < wide; x++) hat[x] += right[a * WIDTH + x] * z[a * pixels + here + x];
      for (int64_t x = 0; x < wide; x++) {
        const double part = own * weight[here + x] * hat[x];
        hat[x] = part < MOST_OWN ? part : MOST_OWN;
      }
      for (int64_t b = 0; b < bands; b++) {
        for (int64_t a = 0; a < size; a++)
          memcpy(right + a * WIDTH, moments + (pairs + a * bands + b) * WIDTH, WIDTH * sizeof(double));
        solve_row(moments, size, WIDTH, right);
        memset(fitted, 0, WIDTH * sizeof(double));
        for (int64_t a = 0; a < size; a++)
          for (int64_t x = 0; x < wide; x++) fitted[x] += right[a * WIDTH + x] * z[a * pixels + here + x];
        const double *y = target + b * pixels + here;
        double *out = error + b * pixels + here;
        for (int64_t x = 0; x < wide; x++)
          if (!asked || asked[here + x]) out[x] = y[x] - (fitted[x] - hat[x] * y[x]) / (1.0 - hat[x]);
        for (int64_t a = 0; a < size; a++) {
          double *found = coefficients + (b * size + a) * pixels + here;
          for (int64_t x = 0; x < wide; x++)
            if (!asked || asked[here + x]) found[x] = right[a * WIDTH + x];
        }
      }
    }
  }
  free(memory);
  return 0;
}
