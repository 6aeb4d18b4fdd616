/* One application of the matting's normal equations (see fusion/change/matting.py, whose plain path says in NumPy and SciPy
 * what this does): a row of everything stays in the cache, where the plain path reads whole images for every operation.
 *
 * Products and sums are rounded one by one and in the plain path's order, so both give the same bits. Plain C that GCC and
 * Clang turn into vector instructions by themselves. One thread; safe to call from several.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "planes.h"

#if defined(__clang__)
#pragma clang fp contract(off)
#define EACH_ROUNDED
#else
#define EACH_ROUNDED __attribute__((optimize("fp-contract=off")))
#endif

#define WIDTH 32
#define TILE 16

typedef float vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

/* What differences between neighbours add to a row of the result.
 *
 * The differences are those of one pair of neighbours: of x[row][col] and x[row + down][col + across] where across is 0 or
 * 1, and of x[row][col + 1] and x[row + 1][col] where it is -1. weight has a row less where down is 1, and a column less
 * where across is not 0. */
EACH_ROUNDED static void add_differences(const float *restrict x, const float *restrict weight, int64_t rows, int64_t cols,
                                         int64_t row, int64_t down, int64_t across, float *restrict out) {
  const int64_t wide = across ? cols - 1 : cols, first = across < 0 ? 1 : 0, second = across > 0 ? 1 : 0;
  if (row + down < rows) {
    const float *restrict a = x + row * cols + first, *restrict b = x + (row + down) * cols + second;
    const float *restrict w = weight + row * wide;
    float *restrict to = out + first;
    for (int64_t c = 0; c < wide; c++) to[c] += (a[c] - b[c]) * w[c];
  }
  if (row >= down) {
    const float *restrict a = x + (row - down) * cols + first, *restrict b = x + row * cols + second;
    const float *restrict w = weight + (row - down) * wide;
    float *restrict to = out + second;
    for (int64_t c = 0; c < wide; c++) to[c] -= (a[c] - b[c]) * w[c];
  }
}

EACH_ROUNDED static void add(const float *restrict from, float weight, int64_t cols, float *restrict to) {
  for (int64_t c = 0; c < cols; c++) to[c] += weight * from[c];
}

/* WIDTH samples of a sum of a matrix' row: of weights first to last, times what lies at their places. */
EACH_ROUNDED static void combine(const float *restrict from, int64_t first, int64_t last, const int32_t *restrict at,
                                 const float *restrict weight, float *restrict to) {
  vector sums[WIDTH / LANES] = {{0.0f}};
  for (int64_t t = first; t < last; t++) {
    const vector *restrict here = (const vector *)(from + at[t] * WIDTH);
    for (int64_t k = 0; k < WIDTH / LANES; k++) sums[k] += weight[t] * here[k];
  }
  for (int64_t k = 0; k < WIDTH / LANES; k++) ((vector *)to)[k] = sums[k];
}

/* Some lines (count, cols) side by side, (cols, WIDTH). */
static void turn(const float *restrict lines, int64_t count, int64_t cols, float *restrict turned) {
  for (int64_t left = 0; left < cols; left += TILE) {
    const int64_t end = left + TILE < cols ? left + TILE : cols;
    for (int64_t l = 0; l < count; l++)
      for (int64_t c = left; c < end; c++) turned[c * WIDTH + l] = lines[l * cols + c];
  }
}

/* The way back. */
static void turn_back(const float *restrict turned, int64_t count, int64_t cols, float *restrict lines) {
  for (int64_t left = 0; left < cols; left += TILE) {
    const int64_t end = left + TILE < cols ? left + TILE : cols;
    for (int64_t l = 0; l < count; l++)
      for (int64_t c = left; c < end; c++) lines[l * cols + c] = turned[c * WIDTH + l];
  }
}

/* Applies the equations to x, (rows, cols), where near (0 or 1, the same shape) says so.
 *
 * sparse is (rows, cols); smooth are the weights of four pairs of neighbours: beside, below, below and beside, and the
 * other diagonal. amplitude is (rows, bands, cols), precision (coarse cols, coarse rows, bands). The response is a sparse
 * matrix for each axis by its rows: where these begin (one more than there are), columns and weights; across_ of (coarse
 * col, col), and back_ the transposes of both. All are contiguous. Returns 1 where there is no memory left. */
EACH_ROUNDED int hsf_matting(const float *x, const float *near, const float *sparse, const float *const *smooth,
                             const float *amplitude, const float *precision, int64_t rows, int64_t cols,
                             int64_t coarse_rows, int64_t coarse_cols, int64_t bands, const int32_t *across_start,
                             const int32_t *across_at, const float *across_weight, const int32_t *back_down_start,
                             const int32_t *back_down_at, const float *back_down_weight, const int32_t *back_across_start,
                             const int32_t *back_across_at, const float *back_across_weight, float *out) {
  const int64_t lanes = coarse_rows * bands;
  float *memory = malloc((lanes * cols + (cols + coarse_cols) * WIDTH + cols) * sizeof(float));
  if (!memory) return 1;
  float *spread = memory, *turned = memory + lanes * cols, *low = turned + cols * WIDTH, *line = low + coarse_cols * WIDTH;
  memset(spread, 0, lanes * cols * sizeof(float));
  for (int64_t r = 0; r < rows; r++)
    for (int64_t b = 0; b < bands; b++) {
      const float *restrict seen = x + r * cols, *restrict step = amplitude + (r * bands + b) * cols;
      for (int64_t c = 0; c < cols; c++) line[c] = step[c] * seen[c];
      for (int64_t t = back_down_start[r]; t < back_down_start[r + 1]; t++)
        add(line, back_down_weight[t], cols, spread + (back_down_at[t] * bands + b) * cols);
    }
  /* Along the columns some rows and bands side by side. */
  for (int64_t first = 0; first < lanes; first += WIDTH) {
    const int64_t count = lanes - first < WIDTH ? lanes - first : WIDTH;
    float *restrict mine = spread + first * cols;
    if (count < WIDTH) memset(turned, 0, cols * WIDTH * sizeof(float));
    turn(mine, count, cols, turned);
    for (int64_t j = 0; j < coarse_cols; j++) {
      float *restrict to = low + j * WIDTH;
      combine(turned, across_start[j], across_start[j + 1], across_at, across_weight, to);
      for (int64_t l = 0; l < count; l++) to[l] *= precision[j * lanes + first + l];
    }
    for (int64_t c = 0; c < cols; c++)
      combine(low, back_across_start[c], back_across_start[c + 1], back_across_at, back_across_weight, turned + c * WIDTH);
    turn_back(turned, count, cols, mine);
  }
  static const int64_t below[4] = {0, 1, 1, 1}, beside[4] = {1, 0, 1, -1};
  for (int64_t r = 0; r < rows; r++) {
    float *restrict to = out + r * cols;
    const float *restrict here = x + r * cols, *restrict weight = sparse + r * cols, *restrict asked = near + r * cols;
    for (int64_t c = 0; c < cols; c++) to[c] = weight[c] * here[c];
    for (int64_t k = 0; k < 4; k++) add_differences(x, smooth[k], rows, cols, r, below[k], beside[k], to);
    for (int64_t b = 0; b < bands; b++) {
      memset(line, 0, cols * sizeof(float));
      for (int64_t t = back_down_start[r]; t < back_down_start[r + 1]; t++)
        add(spread + (back_down_at[t] * bands + b) * cols, back_down_weight[t], cols, line);
      const float *restrict step = amplitude + (r * bands + b) * cols;
      for (int64_t c = 0; c < cols; c++) to[c] += line[c] * step[c];
    }
    for (int64_t c = 0; c < cols; c++) to[c] *= asked[c];
  }
  free(memory);
  return 0;
}
