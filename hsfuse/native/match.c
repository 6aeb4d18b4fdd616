/* The sums of co-registration's least squares (see refine.py, whose plain path says in torch what this does): local
 * means, the reference at displaced positions, weighted products summed over windows.
 *
 * Plain C that GCC and Clang turn into vector instructions by themselves. Every function works on one thread and is
 * safe to call from several. Images have unit stride along columns.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "planes.h"

#define CHUNK 64 /* columns worked on at a time: their products stay in the first level of the cache */
#define STRIP 24 /* rows whose products are summed down before they are summed across */

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

/* Sum of products; the compiler must not reorder plain sums. */
static inline float dot(const float *a, const float *b, int64_t count) {
  lanes parts = {0};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) parts += *(const lanes *)(a + i) * *(const lanes *)(b + i);
  float sum = 0.0f;
  for (int l = 0; l < LANES; l++) sum += parts[l];
  for (; i < count; i++) sum += a[i] * b[i];
  return sum;
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- local means ------------------------------------------------------------------------------------------------ */

/* Symmetric separable convolution of `in`, multiplied with `mask` unless that is NULL, with zeros outside.
 *
 * With `total` (the same of the mask alone) `out` becomes `in` without its local weighted mean, scaled to unit variance
 * over the `count` pixels of the mask; without, the convolution itself. `taps` is the middle one and those after. */
int hsf_flatten(const float *in, const float *mask, const float *total, const float *taps, int64_t side, int64_t rows,
                int64_t cols, double count, float *out) {
  float *memory = calloc(2 * (cols + 2 * side), sizeof(float));
  if (!memory) return 1;
  float *restrict line = memory + side, *restrict mean = memory + cols + 3 * side;
  double square = 0.0;
  for (int64_t i = 0; i < rows; i++) {
    memset(line, 0, cols * sizeof(float));
    for (int64_t t = -side; t <= side; t++) {
      if (i + t < 0 || i + t >= rows) continue;
      const float w = taps[t < 0 ? -t : t];
      const float *restrict x = in + (i + t) * cols;
      if (mask) {
        const float *restrict m = mask + (i + t) * cols;
        for (int64_t j = 0; j < cols; j++) line[j] += w * (x[j] * m[j]);
      } else
        for (int64_t j = 0; j < cols; j++) line[j] += w * x[j];
    }
    for (int64_t j = 0; j < cols; j++) mean[j] = taps[0] * line[j];
    for (int64_t t = 1; t <= side; t++) {
      const float w = taps[t];
      for (int64_t j = 0; j < cols; j++) mean[j] += w * (line[j - t] + line[j + t]);
    }
    float *restrict to = out + i * cols;
    if (!total) {
      memcpy(to, mean, cols * sizeof(float));
      continue;
    }
    const float *restrict x = in + i * cols, *restrict m = mask + i * cols, *restrict all = total + i * cols;
    for (int64_t j = 0; j < cols; j++) {
      to[j] = x[j] - mean[j] / all[j];
      mean[j] = to[j] * m[j];
    }
    square += dot(mean, to, cols);
  }
  if (total) {
    const double deviation = sqrt(square / count);
    const float scale = (float)(1.0 / (deviation > 1e-9 ? deviation : 1e-9));
    for (int64_t i = 0; i < rows * cols; i++) out[i] *= scale;
  }
  free(memory);
  return 0;
}

/* ---- the reference at displaced positions -------------------------------------------------------------------------- */

/* Cubic B-splines with the coefficients `image` (planes, high, wide), at the positions
 * (pixel + displacement + margin) * finer + (finer - 1) / 2 of rows [top, bottom) of a grid with `cols` columns.
 *
 * `out` (planes, rows, cols) is 0 and `known` 0 where one of the 16 samples is NaN in the first plane; `known` is 0
 * also less than a sample from the border. Samples beyond it repeat. */
int hsf_displaced(const float *image, int64_t planes, int64_t high, int64_t wide, const float *displacement,
                  int64_t rows, int64_t cols, int64_t top, int64_t bottom, double margin, double finer, float *out,
                  uint8_t *known) {
  for (int64_t i = top; i < bottom; i++)
    for (int64_t j = 0; j < cols; j++) {
      const int64_t pixel = i * cols + j;
      const double half = (finer - 1.0) / 2.0;
      const double y = ((double)i + displacement[pixel] + margin) * finer + half;
      const double x = ((double)j + displacement[rows * cols + pixel] + margin) * finer + half;
      if (!(y > -1e9 && y < 1e9 && x > -1e9 && x < 1e9)) {
        for (int64_t p = 0; p < planes; p++) out[p * rows * cols + pixel] = 0.0f;
        known[pixel] = 0;
        continue;
      }
      const double whole_y = floor(y), whole_x = floor(x);
      float wy[4], wx[4];
      for (int k = 0; k < 2; k++) {
        const float t = (float)(k ? x - whole_x : y - whole_y), s = 1.0f - t;
        float *w = k ? wx : wy;
        w[0] = s * s * s / 6.0f, w[1] = (3.0f * t * t * t - 6.0f * t * t + 4.0f) / 6.0f;
        w[2] = (3.0f * s * s * s - 6.0f * s * s + 4.0f) / 6.0f, w[3] = t * t * t / 6.0f;
      }
      const int64_t r = (int64_t)whole_y - 1, c = (int64_t)whole_x - 1;
      const int inside = c >= 0 && c + 3 < wide;
      int good = 1;
      for (int64_t p = 0; p < planes; p++) {
        const float *plane = image + p * high * wide;
        float sum[4] = {0};
        for (int s = 0; s < 4; s++) {
          const float *row = plane + clamp(r + s, high) * wide;
          if (inside)
            for (int t = 0; t < 4; t++) sum[t] += wy[s] * row[c + t];
          else
            for (int t = 0; t < 4; t++) sum[t] += wy[s] * row[clamp(c + t, wide)];
        }
        const float value = wx[0] * sum[0] + wx[1] * sum[1] + wx[2] * sum[2] + wx[3] * sum[3];
        if (p == 0) good = value == value;
        out[p * rows * cols + pixel] = good ? value : 0.0f;
      }
      known[pixel] = good && y >= 1.0 && y <= high - 2.0 && x >= 1.0 && x <= wide - 2.0;
    }
  return 0;
}

/* ---- sums over windows --------------------------------------------------------------------------------------------- */

enum { FIT, RESEMBLANCE, SHIFT };

typedef struct {
  int64_t mode, channels, planes, rows, cols, top, bottom;
  const float *target, *reference; /* (channels, rows, cols), (planes, rows, cols) */
  const float *mask;               /* (rows, cols) */
  const uint8_t *inner;            /* where slopes over five points are known */
  const float *coefficients;       /* (channels, planes + 1, windows down, cols); NULL: weights are the mask */
  const float *variance;           /* (channels, windows down, cols) */
  const int64_t *near;             /* per row the first of the two windows that its values come from */
  const float *near_weight;        /* (rows, 2) */
  int64_t down, across;            /* number of windows */
  const int64_t *down_span;        /* per window down: first row and the one behind the last */
  const float *down_weight;        /* (down, rows) */
  const int64_t *across_span;
  const float *across_weight; /* (across, cols) */
  double *sums;               /* (products, down, across), added to */
  float *scores;              /* SHIFT: (channels * (planes + 3), blocks down, blocks across), added to */
  int64_t block;              /* side of the blocks; STRIP is a multiple of it */
} Sums;

static int64_t product_count(const Sums *a) {
  const int64_t n = a->planes + 1, pairs = n * (n + 1) / 2;
  if (a->mode == FIT) return pairs + a->channels * (n + 1);
  if (a->mode == RESEMBLANCE) return 2 * a->channels + 1;
  return pairs + a->channels * (3 * n + 7) + 5;
}

#define EACH for (int x = 0; x < CHUNK; x++)

/* Products of one row's columns [x0, x0 + wide), in the order in which the callers expect their sums. `work` holds
 * (3 + planes + 1 + 2 * planes + channels * 5) lines. */
static void row_products(const Sums *a, int64_t y, int64_t x0, int64_t wide, float *work, float *products) {
  const int64_t n = a->planes + 1, size = a->rows * a->cols, at = y * a->cols + x0, c = a->channels;
  float *weight = work, *distance = weight + CHUNK, *scratch = distance + CHUNK, *basis = scratch + CHUNK;
  float *slope_r = basis + n * CHUNK, *slope_c = slope_r + a->planes * CHUNK;
  float *target = slope_c + a->planes * CHUNK, *error = target + c * CHUNK, *scale = error + c * CHUNK;
  float *g_r = scale + c * CHUNK, *g_c = g_r + c * CHUNK;
  const size_t bytes = wide * sizeof(float);
  memcpy(weight, a->mask + at, bytes);
  for (int64_t p = 0; p < a->planes; p++) memcpy(basis + p * CHUNK, a->reference + p * size + at, bytes);
  for (int64_t k = 0; k < c; k++) memcpy(target + k * CHUNK, a->target + k * size + at, bytes);
  EACH basis[a->planes * CHUNK + x] = 1.0f;
  if (a->mode == SHIFT)
    for (int64_t p = 0; p < a->planes; p++) {
      const float *plane = a->reference + p * size, *rows[5];
      for (int t = 0; t < 5; t++) rows[t] = plane + clamp(y + t - 2, a->rows) * a->cols + x0;
      float line[CHUNK + 4];
      memset(line, 0, sizeof line);
      for (int64_t x = -2; x < wide + 2; x++) line[x + 2] = plane[y * a->cols + clamp(x0 + x, a->cols)];
      for (int64_t x = 0; x < wide; x++) {
        const float near_r = rows[3][x] - rows[1][x], near_c = line[x + 3] - line[x + 1];
        const int five = a->inner[at + x];
        slope_r[p * CHUNK + x] = five ? (8.0f * near_r - (rows[4][x] - rows[0][x])) / 12.0f : 0.5f * near_r;
        slope_c[p * CHUNK + x] = five ? (8.0f * near_c - (line[x + 4] - line[x])) / 12.0f : 0.5f * near_c;
      }
    }
  if (a->coefficients) {
    const int64_t first = a->near[y], second = least(first + 1, a->down - 1);
    const float w0 = a->near_weight[2 * y], w1 = a->near_weight[2 * y + 1];
    EACH distance[x] = 0.0f;
    for (int64_t k = 0; k < c; k++) {
      float *restrict e = error + k * CHUNK, *restrict v = scale + k * CHUNK;
      float *restrict r = g_r + k * CHUNK, *restrict s = g_c + k * CHUNK;
      const float *from = a->variance + k * a->down * a->cols + x0;
      for (int64_t x = 0; x < wide; x++) v[x] = w0 * from[first * a->cols + x] + w1 * from[second * a->cols + x];
      EACH e[x] = target[k * CHUNK + x], r[x] = 0.0f, s[x] = 0.0f;
      for (int64_t b = 0; b < n; b++) {
        const float *dense = a->coefficients + (k * n + b) * a->down * a->cols + x0;
        for (int64_t x = 0; x < wide; x++)
          scratch[x] = w0 * dense[first * a->cols + x] + w1 * dense[second * a->cols + x];
        EACH e[x] -= scratch[x] * basis[b * CHUNK + x];
        if (a->mode == SHIFT && b < a->planes) {
          EACH r[x] += scratch[x] * slope_r[b * CHUNK + x];
          EACH s[x] += scratch[x] * slope_c[b * CHUNK + x];
        }
      }
      EACH distance[x] += e[x] * e[x] / (v[x] > 1e-4f ? v[x] : 1e-4f);
    }
    EACH distance[x] /= (float)c;
    EACH weight[x] *= 5.0f / (4.0f + distance[x]); /* Student's t with four degrees of freedom */
  }
  float *restrict out = products;
#define PUT(value) \
  do { \
    EACH out[x] = (value); \
    out += CHUNK; \
  } while (0)
  if (a->mode == RESEMBLANCE) {
    for (int64_t k = 0; k < c; k++) PUT(error[k * CHUNK + x] * error[k * CHUNK + x] * weight[x]);
    for (int64_t k = 0; k < c; k++) PUT(target[k * CHUNK + x] * target[k * CHUNK + x] * weight[x]);
    PUT(weight[x]);
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    EACH scratch[x] = basis[i * CHUNK + x] * weight[x];
    for (int64_t b = i; b < n; b++) PUT(basis[b * CHUNK + x] * scratch[x]);
  }
  if (a->mode == FIT) {
    for (int64_t k = 0; k < c; k++) {
      EACH scratch[x] = weight[x] * target[k * CHUNK + x];
      for (int64_t b = 0; b < n; b++) PUT(basis[b * CHUNK + x] * scratch[x]);
    }
    for (int64_t k = 0; k < c; k++) PUT(target[k * CHUNK + x] * target[k * CHUNK + x] * weight[x]);
    return;
  }
  for (int64_t k = 0; k < c; k++) {
    const float *restrict t = target + k * CHUNK, *restrict e = error + k * CHUNK;
    const float *restrict r = g_r + k * CHUNK, *restrict s = g_c + k * CHUNK;
    for (int64_t b = 0; b < n; b++) PUT(basis[b * CHUNK + x] * (weight[x] * r[x]));
    for (int64_t b = 0; b < n; b++) PUT(basis[b * CHUNK + x] * (weight[x] * s[x]));
    PUT(weight[x] * r[x] * r[x]);
    PUT(weight[x] * r[x] * s[x]);
    PUT(weight[x] * s[x] * s[x]);
    PUT(weight[x] * e[x] * e[x]);
    PUT(weight[x] * t[x] * t[x]);
    PUT(weight[x] * r[x] * e[x]);
    PUT(weight[x] * s[x] * e[x]);
    for (int64_t b = 0; b < n; b++) PUT(basis[b * CHUNK + x] * (weight[x] * e[x]));
  }
  float *info = slope_r, *pull_r = basis, *pull_c = scratch; /* no longer needed */
  float *lost = slope_c;
  EACH info[x] = pull_r[x] = pull_c[x] = 0.0f;
  for (int64_t k = 0; k < c; k++)
    EACH {
      const float r = g_r[k * CHUNK + x], s = g_c[k * CHUNK + x], v = scale[k * CHUNK + x], e = error[k * CHUNK + x];
      info[x] += weight[x] * (r * r + s * s) / v;
      pull_r[x] += r * e / v, pull_c[x] += s * e / v;
    }
  EACH {
    const float pull = pull_r[x] * pull_r[x] + pull_c[x] * pull_c[x];
    lost[x] = 2.0f / (float)c * weight[x] * pull / (4.0f + distance[x]);
  }
  PUT(weight[x]);
  PUT(info[x]);
  PUT(info[x] * (float)y);
  PUT(info[x] * (float)(x0 + x));
  PUT(lost[x]);
#undef PUT
}

/* The part of rows [top, bottom) in the sums of all products over all windows; `top` is a multiple of STRIP. */
int hsf_window_sums(const Sums *a) {
  const int64_t products = product_count(a), n = a->planes + 1, c = a->channels;
  const int64_t scores = a->mode == SHIFT ? c * (n + 2) : 0;
  const int64_t blocks = (a->cols + a->block - 1) / a->block, tall = (a->rows + a->block - 1) / a->block;
  const int64_t lines = 3 + n + 2 * a->planes + 5 * c;
  /* Lines that are shorter than a chunk end in numbers that make no NaN of the products: a weight of zero. */
  float *work = calloc(lines * CHUNK, sizeof(float)), *row = malloc(products * CHUNK * sizeof(float));
  float *half = malloc(a->down * products * CHUNK * sizeof(float));
  float *score = malloc(most(scores, 1) * CHUNK * sizeof(float));
  if (!work || !row || !half || !score) {
    free(work), free(row), free(half), free(score);
    return 1;
  }
  for (int64_t s0 = a->top; s0 < a->bottom; s0 += STRIP) {
    const int64_t s1 = least(s0 + STRIP, a->bottom);
    int64_t first = a->down, last = 0;
    for (int64_t k = 0; k < a->down; k++)
      if (a->down_span[2 * k] < s1 && a->down_span[2 * k + 1] > s0) first = least(first, k), last = k + 1;
    for (int64_t x0 = 0; x0 < a->cols; x0 += CHUNK) {
      const int64_t wide = least(CHUNK, a->cols - x0);
      int some = 0;
      for (int64_t y = s0; y < s1; y++)
        for (int64_t x = 0; x < wide; x++) some |= a->mask[y * a->cols + x0 + x] != 0.0f;
      if (!some) continue; /* every product has the mask as a factor */
      for (int64_t i = 0; i < lines * CHUNK && wide < CHUNK; i++) work[i] = 0.0f;
      if (wide < CHUNK) /* nothing is divided by the zeros that fill the lines up */
        for (int64_t i = 0; i < c * CHUNK; i++) work[(3 + n + 2 * a->planes + 2 * c) * CHUNK + i] = 1.0f;
      if (last > first) memset(half, 0, (last - first) * products * CHUNK * sizeof(float));
      for (int64_t b0 = s0; b0 < s1; b0 += a->block) {
        memset(score, 0, scores * CHUNK * sizeof(float));
        for (int64_t y = b0; y < least(b0 + a->block, s1); y++) {
          row_products(a, y, x0, wide, work, row);
          for (int64_t k = first; k < last; k++) {
            const float w = a->down_weight[k * a->rows + y];
            if (w == 0.0f) continue;
            float *restrict to = half + (k - first) * products * CHUNK;
            for (int64_t i = 0; i < products * CHUNK; i++) to[i] += w * row[i];
          }
          for (int64_t k = 0; k < c && scores; k++) {
            const float *restrict own = row + (n * (n + 1) / 2 + k * (3 * n + 7) + 2 * n + 5) * CHUNK;
            float *restrict to = score + k * (n + 2) * CHUNK;
            for (int64_t i = 0; i < (n + 2) * CHUNK; i++) to[i] += own[i];
          }
        }
        for (int64_t k = 0; k < scores; k++)
          for (int64_t x = 0; x < wide; x++)
            a->scores[(k * tall + b0 / a->block) * blocks + (x0 + x) / a->block] += score[k * CHUNK + x];
      }
      for (int64_t j = 0; j < a->across; j++) {
        const int64_t from = most(a->across_span[2 * j], x0), to = least(a->across_span[2 * j + 1], x0 + wide);
        if (from >= to) continue;
        float profile[CHUNK] = {0};
        for (int64_t x = from; x < to; x++) profile[x - x0] = a->across_weight[j * a->cols + x];
        for (int64_t k = first; k < last; k++)
          for (int64_t p = 0; p < products; p++) {
            const float *line = half + ((k - first) * products + p) * CHUNK;
            a->sums[(p * a->down + k) * a->across + j] += dot(profile, line, CHUNK);
          }
      }
    }
  }
  free(work), free(row), free(half), free(score);
  return 0;
}
