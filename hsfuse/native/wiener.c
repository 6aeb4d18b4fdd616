/* A local Wiener filter of all bands of an image (see fusion/map/local_wiener.py, whose plain path says in torch what
 * this does): one row of cells at a time, with what belongs to a cell in the lanes of a vector.
 *
 * Plain C that GCC and Clang turn into vector instructions by themselves. One thread; safe to call from several.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "planes.h"

/* Three weights (side, middle, side) along both axes of a plane, edges replicated; `line` has room for a row and one
 * sample more at each end. */
static void separable(const float *in, int64_t rows, int64_t cols, float side, float middle, float *line, float *out) {
  for (int64_t i = 0; i < rows; i++) {
    const float *restrict above = in + clamp(i - 1, rows) * cols, *restrict own = in + i * cols,
                *restrict below = in + clamp(i + 1, rows) * cols;
    float *restrict wide = line + 1, *restrict target = out + i * cols;
    for (int64_t j = 0; j < cols; j++) wide[j] = side * (above[j] + below[j]) + middle * own[j];
    wide[-1] = wide[0], wide[cols] = wide[cols - 1];
    for (int64_t j = 0; j < cols; j++) target[j] = side * (wide[j - 1] + wide[j + 1]) + middle * wide[j];
  }
}

/* Mean products of two details in cells of `step` pixels; those at the lower and right edge may be smaller. */
static void cell_means(const float *a, const float *b, int64_t rows, int64_t cols, int64_t step, float *line,
                       float *out) {
  const int64_t wide = (cols + step - 1) / step;
  for (int64_t top = 0; top < rows; top += step) {
    const int64_t high = top + step < rows ? step : rows - top;
    for (int64_t r = 0; r < high; r++) {
      const float *restrict p = a + (top + r) * cols, *restrict q = b + (top + r) * cols;
      if (r == 0)
        for (int64_t j = 0; j < cols; j++) line[j] = p[j] * q[j];
      else
        for (int64_t j = 0; j < cols; j++) line[j] += p[j] * q[j];
    }
    float *restrict target = out + top / step * wide;
    for (int64_t c = 0; c < wide; c++) {
      const int64_t first = c * step, across = first + step < cols ? step : cols - first;
      float sum = 0.0f;
      for (int64_t j = 0; j < across; j++) sum += line[first + j];
      target[c] = sum / (float)(high * across);
    }
  }
}

/* For a row of cells: what is left out of the details, `soft (P^2 + soft)^-1` with the covariances P, by Cholesky
 * factors in double precision. `p` and `a` are (entry, cell); `left` (entry, cell) is the result. */
static void left_out(const double *p, int64_t bands, int64_t cells, double soft, double *a, float *left) {
  for (int64_t i = 0; i < bands; i++)
    for (int64_t j = 0; j <= i; j++) {
      double *restrict own = a + entry(i, j) * cells;
      for (int64_t c = 0; c < cells; c++) own[c] = i == j ? soft : 0.0;
      for (int64_t k = 0; k < bands; k++) {
        const double *restrict x = p + entry(i, k) * cells, *restrict y = p + entry(j, k) * cells;
        for (int64_t c = 0; c < cells; c++) own[c] += x[c] * y[c];
      }
    }
  for (int64_t i = 0; i < bands; i++) /* the factor, with the reciprocals of its diagonal */
    for (int64_t j = 0; j <= i; j++) {
      double *restrict own = a + entry(i, j) * cells;
      for (int64_t k = 0; k < j; k++) {
        const double *restrict x = a + entry(i, k) * cells, *restrict y = a + entry(j, k) * cells;
        for (int64_t c = 0; c < cells; c++) own[c] -= x[c] * y[c];
      }
      const double *restrict scale = a + entry(j, j) * cells;
      if (i == j)
        for (int64_t c = 0; c < cells; c++) own[c] = 1.0 / sqrt(own[c]);
      else
        for (int64_t c = 0; c < cells; c++) own[c] *= scale[c];
    }
  for (int64_t j = 0; j < bands; j++) /* its inverse, column by column */
    for (int64_t i = j + 1; i < bands; i++) {
      double *restrict own = a + entry(i, j) * cells;
      const double *restrict first = a + entry(j, j) * cells, *restrict scale = a + entry(i, i) * cells;
      for (int64_t c = 0; c < cells; c++) own[c] *= first[c];
      for (int64_t k = j + 1; k < i; k++) {
        const double *restrict x = a + entry(i, k) * cells, *restrict y = a + entry(k, j) * cells;
        /* Column k of row i is still the factor's: columns are finished from the left. */
        for (int64_t c = 0; c < cells; c++) own[c] += x[c] * y[c];
      }
      for (int64_t c = 0; c < cells; c++) own[c] *= -scale[c];
    }
  for (int64_t i = 0; i < bands; i++)
    for (int64_t j = 0; j <= i; j++) {
      float *restrict out = left + entry(i, j) * cells;
      for (int64_t c = 0; c < cells; c++) out[c] = 0.0f;
      for (int64_t k = i; k < bands; k++) {
        const double *restrict x = a + entry(k, i) * cells, *restrict y = a + entry(k, j) * cells;
        for (int64_t c = 0; c < cells; c++) out[c] += (float)(soft * x[c] * y[c]);
      }
    }
}

/* Denoises `bands` planes (rows, cols) with noise of unit variance in cells of `step` pixels. `blur` and `near` are the
 * side and middle weights of the blur that leaves the detail and of the mean over cells, `gain` the variance of unit
 * noise in a detail; a `strongest`-th of a cell's whole variance counts in every direction. out is as the planes, all
 * contiguous. */
int hsf_local_wiener(const float *in, int64_t bands, int64_t rows, int64_t cols, int64_t step, const float *blur,
                     const float *near, double gain, double soft, double strongest, float *out) {
  const int64_t pairs = bands * (bands + 1) / 2, pixels = rows * cols;
  const int64_t high = (rows + step - 1) / step, wide = (cols + step - 1) / step, cells = high * wide;
  float *detail = malloc((bands * pixels + (pairs + 1) * cells + pairs * (wide + cols) + cols + 2) * sizeof(float));
  double *matrices = malloc(2 * pairs * wide * sizeof(double));
  if (!detail || !matrices) {
    free(detail), free(matrices);
    return 1;
  }
  float *means = detail + bands * pixels, *room = means + pairs * cells, *left = room + cells,
        *spread = left + pairs * wide, *line = spread + pairs * cols;
  for (int64_t b = 0; b < bands; b++) {
    float *restrict own = detail + b * pixels;
    const float *restrict plane = in + b * pixels;
    separable(plane, rows, cols, blur[0], blur[1], line, own);
    for (int64_t i = 0; i < pixels; i++) own[i] = plane[i] - own[i];
  }
  for (int64_t i = 0; i < bands; i++)
    for (int64_t j = 0; j <= i; j++) {
      cell_means(detail + i * pixels, detail + j * pixels, rows, cols, step, line, room);
      separable(room, high, wide, near[0], near[1], line, means + entry(i, j) * cells);
    }
  for (int64_t h = 0; h < high; h++) {
    double *p = matrices, *a = matrices + pairs * wide;
    for (int64_t k = 0; k < pairs; k++)
      for (int64_t c = 0; c < wide; c++) p[k * wide + c] = (double)means[k * cells + h * wide + c] / gain;
    for (int64_t c = 0; c < wide; c++) {
      double whole = 0.0;
      for (int64_t b = 0; b < bands; b++) whole += p[entry(b, b) * wide + c];
      for (int64_t b = 0; b < bands; b++) p[entry(b, b) * wide + c] += whole / strongest;
    }
    left_out(p, bands, wide, soft, a, left);
    for (int64_t k = 0; k < pairs; k++)
      for (int64_t c = 0; c < wide; c++) {
        const int64_t last = (c + 1) * step < cols ? (c + 1) * step : cols;
        for (int64_t x = c * step; x < last; x++) spread[k * cols + x] = left[k * wide + c];
      }
    for (int64_t r = h * step; r < rows && r < (h + 1) * step; r++)
      for (int64_t b = 0; b < bands; b++) {
        float *restrict target = out + b * pixels + r * cols;
        memcpy(target, in + b * pixels + r * cols, cols * sizeof(float));
        for (int64_t k = 0; k < bands; k++) {
          const float *restrict weight = spread + entry(b, k) * cols, *restrict from = detail + k * pixels + r * cols;
          for (int64_t x = 0; x < cols; x++) target[x] -= weight[x] * from[x];
        }
      }
  }
  free(detail), free(matrices);
  return 0;
}
