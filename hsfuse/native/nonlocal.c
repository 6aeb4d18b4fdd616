/* One pass of non-local Bayesian denoising (see fusion/map/nonlocal_bayes.py, whose plain path says in torch what this
 * does): groups of similar patches, filtered by what their own covariance says about structure and noise.
 *
 * Images are pixel-interleaved (row, col, band): three pixels of a patch's row lie side by side. Patches have 3 x 3
 * pixels; as vectors they are padded with zeros to whole vector registers. One thread; safe to call from several.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "planes.h"

#define SIDE 3
#define PANEL 4 /* rows of a matrix that are worked on together */
#define SOME (LANES < 16 ? 2 : 6) /* registers of each at most: sums fill most of those that there are */

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float quad __attribute__((vector_size(16), aligned(4)));
typedef int32_t order __attribute__((vector_size(16)));
typedef int32_t order_of_lanes __attribute__((vector_size(4 * LANES), aligned(4)));

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

#include "nonlocal_batch.h"

/* y += w * x over `vectors` registers. */
static inline void add_scaled(float *restrict y, const float *restrict x, float w, int64_t vectors) {
  for (int64_t v = 0; v < vectors; v++) *(lanes *)(y + v * LANES) += w * *(const lanes *)(x + v * LANES);
}

/* Copy the patches whose first pixels are `at` into rows of `length` floats. */
static void gather(const float *image, int64_t cols, int64_t bands, const int64_t *at, int64_t count, int64_t length,
                   float *group) {
  const int64_t run = SIDE * bands;
  for (int64_t i = 0; i < count; i++)
    for (int64_t d = 0; d < SIDE; d++) {
      const float *from = image + (at[i] + d * cols) * bands;
      float *to = group + i * length + d * run;
      int64_t v = 0;
      for (; v + 4 <= run; v += 4) *(quad *)(to + v) = *(const quad *)(from + v);
      for (; v < run; v++) to[v] = from[v];
    }
}

/* Add the mean row, so many times. */
static void centre(float *group, int64_t count, int64_t length, const float *mean, float times) {
  for (int64_t i = 0; i < count; i++) add_scaled(group + i * length, mean, times, length / LANES);
}

static void mean_of(const float *group, int64_t count, int64_t length, float *mean) {
  memset(mean, 0, length * sizeof(float));
  for (int64_t i = 0; i < count; i++) add_scaled(mean, group + i * length, 1.0f / (float)count, length / LANES);
}

/* Four rows of four, turned. */
static inline void turn(const float *from, int64_t length, float *to, int64_t stride) {
  const quad a = *(const quad *)from, b = *(const quad *)(from + length), c = *(const quad *)(from + 2 * length),
             d = *(const quad *)(from + 3 * length);
  const quad p = __builtin_shuffle(a, b, (order){0, 4, 1, 5}), q = __builtin_shuffle(c, d, (order){0, 4, 1, 5}),
             r = __builtin_shuffle(a, b, (order){2, 6, 3, 7}), s = __builtin_shuffle(c, d, (order){2, 6, 3, 7});
  *(quad *)to = __builtin_shuffle(p, q, (order){0, 1, 4, 5});
  *(quad *)(to + stride) = __builtin_shuffle(p, q, (order){2, 3, 6, 7});
  *(quad *)(to + 2 * stride) = __builtin_shuffle(r, s, (order){0, 1, 4, 5});
  *(quad *)(to + 3 * stride) = __builtin_shuffle(r, s, (order){2, 3, 6, 7});
}

/* Rows become columns: `to` has rows of `stride` floats, zero beyond `count`. */
static void transpose(const float *from, int64_t count, int64_t length, int64_t values, int64_t stride, float *to) {
  const int64_t whole = count / 4 * 4, full = values / 4 * 4;
  for (int64_t v = 0; v < full; v += 4)
    for (int64_t i = 0; i < whole; i += 4) turn(from + i * length + v, length, to + v * stride + i, stride);
  for (int64_t v = 0; v < values; v++) {
    float *row = to + v * stride;
    for (int64_t i = v < full ? whole : 0; i < count; i++) row[i] = from[i * length + v];
    for (int64_t i = count; i < stride; i++) row[i] = 0.0f;
  }
}

/* The sum of the outer products of the rows of `x` (each of `stride` floats) with themselves, `n` x `n`, the upper
 * triangle, in rows of `stride`: four rows and two registers at a time. Rows up to a multiple of four are written. */
static void outer_products(const float *x, int64_t rows, int64_t n, int64_t stride, float *out) {
  for (int64_t i = 0; i < n; i += 4)
    for (int64_t j = i / LANES * LANES; j < stride; j += 2 * LANES) {
      const int two = j + LANES < stride;
      lanes s[4][2] = {{{0}}};
      const float *row = x;
      if (two)
        for (int64_t l = 0; l < rows; l++, row += stride) {
          const lanes p = *(const lanes *)(row + j), q = *(const lanes *)(row + j + LANES);
          for (int k = 0; k < 4; k++) {
            s[k][0] += row[i + k] * p;
            s[k][1] += row[i + k] * q;
          }
        }
      else
        for (int64_t l = 0; l < rows; l++, row += stride)
          for (int k = 0; k < 4; k++) s[k][0] += row[i + k] * *(const lanes *)(row + j);
      for (int k = 0; k < 4; k++) {
        *(lanes *)(out + (i + k) * stride + j) = s[k][0];
        if (two) *(lanes *)(out + (i + k) * stride + j + LANES) = s[k][1];
      }
    }
}

/* PANEL rows of `some` registers, less what `count` rows of `x` (each of `width` floats) add to them: row k counts
 * c[k * down + t * along] in row t. Sums stay in registers. */
static inline __attribute__((always_inline)) void take_rows(lanes s[PANEL][SOME], const float *c, int64_t down,
                                                            int64_t along, const float *x, int64_t width,
                                                            int64_t count, const int some) {
  for (int64_t k = 0; k < count; k++)
    for (int v = 0; v < some; v++) {
      const lanes y = *(const lanes *)(x + k * width + v * LANES);
      for (int t = 0; t < PANEL; t++) s[t][v] -= c[k * down + t * along] * y;
    }
}

/* Part of `factor`: PANEL rows from `first` on, from register `j` on. What lies on and right of the diagonal is known
 * when those before it are. */
static inline __attribute__((always_inline)) void factor_some(float *a, int64_t first, int64_t stride, int64_t j,
                                                              const int some) {
  lanes s[PANEL][SOME];
  for (int t = 0; t < PANEL; t++)
    for (int v = 0; v < some; v++) s[t][v] = *(const lanes *)(a + (first + t) * stride + j + v * LANES);
  take_rows(s, a + first, stride, 1, a + j, stride, first, some);
  for (int t = 0; t < PANEL; t++)
    for (int v = 0; v < some; v++) *(lanes *)(a + (first + t) * stride + j + v * LANES) = s[t][v];
}

/* Cholesky factor of a symmetric matrix given by its upper triangle, in place; reciprocals on the diagonal. Rows up to
 * a multiple of PANEL are there.
 *
 * `loading` was added to the diagonal, so no pivot is smaller. Returns 0 where one is: there rounding errors exceed the
 * noise, and the factor means nothing. */
static int factor(float *a, int64_t n, int64_t stride, float loading) {
  for (int64_t first = 0; first < n; first += PANEL) {
    const int64_t start = first / LANES * LANES, next = least(first + PANEL, n);
    int64_t j = start;
    for (; j + SOME / 2 * LANES <= stride; j += SOME / 2 * LANES) factor_some(a, first, stride, j, SOME / 2);
    for (; j < stride; j += LANES) factor_some(a, first, stride, j, 1);
    for (int64_t k = first; k < next; k++) {
      float *row = a + k * stride;
      for (int64_t m = first; m < k; m++)
        add_scaled(row + start, a + m * stride + start, -a[m * stride + k], (stride - start) / LANES);
      if (!(row[k] > 0.5f * loading)) return 0;
      const float scale = 1.0f / sqrtf(row[k]);
      for (j = start; j < stride; j += LANES) *(lanes *)(row + j) *= scale;
      row[k] = scale;
    }
  }
  return 1;
}

/* Part of `take_solved`: `some` registers of every row, PANEL rows at a time. */
static inline __attribute__((always_inline)) void take_solved_some(const float *a, int64_t n, int64_t stride,
                                                                   float weight, float *x, int64_t width, float *work,
                                                                   const int some) {
  lanes s[PANEL][SOME];
  for (int64_t i = 0; i < n; i += PANEL) {
    const int count = (int)least(PANEL, n - i);
    for (int t = 0; t < PANEL; t++)
      for (int v = 0; v < some; v++) s[t][v] = *(const lanes *)(x + (t < count ? i + t : i) * width + v * LANES);
    take_rows(s, a + i, stride, 1, work, width, i, some);
    for (int t = 0; t < PANEL; t++) {
      if (t >= count) break;
      for (int v = 0; v < some; v++) {
        for (int m = 0; m < t; m++) s[t][v] -= a[(i + m) * stride + i + t] * s[m][v];
        s[t][v] *= a[(i + t) * stride + i + t];
        *(lanes *)(work + (i + t) * width + v * LANES) = s[t][v];
      }
    }
  }
  for (int64_t i = (n - 1) / PANEL * PANEL; i >= 0; i -= PANEL) {
    const int64_t count = least(PANEL, n - i), after = i + count;
    for (int t = 0; t < PANEL; t++)
      for (int v = 0; v < some; v++) s[t][v] = *(const lanes *)(work + (t < count ? i + t : i) * width + v * LANES);
    if (after < n) take_rows(s, a + i * stride + after, 1, stride, work + after * width, width, n - after, some);
    for (int t = PANEL - 1; t >= 0; t--) {
      if (t >= count) continue;
      for (int v = 0; v < some; v++) {
        for (int m = t + 1; m < PANEL; m++)
          if (m < count) s[t][v] -= a[(i + t) * stride + i + m] * s[m][v];
        s[t][v] *= a[(i + t) * stride + i + t];
        *(lanes *)(work + (i + t) * width + v * LANES) = s[t][v];
        *(lanes *)(x + (i + t) * width + v * LANES) -= weight * s[t][v];
      }
    }
  }
}

/* Take from the `n` rows of `x` (each of `width` floats) `weight` times what solving with the factor makes of them. */
static void take_solved(const float *a, int64_t n, int64_t stride, float weight, float *x, int64_t width, float *work) {
  for (int64_t left = width / LANES, parts; left > 0; left -= parts) {
    // Parts as wide as one another: a narrow one would wait for its own sums.
    const int64_t most_of_all = (left + SOME - 1) / SOME;
    parts = (left + most_of_all - 1) / most_of_all;
    const int64_t v = width - left * LANES;
    switch (parts) {
#define CASE(some) case some: take_solved_some(a, n, stride, weight, x + v, width, work + v, some); break;
      CASE(1) CASE(2)
#if LANES >= 16
      CASE(3) CASE(4) CASE(5) CASE(6)
#endif
#undef CASE
    }
  }
}

/* The places around a reference patch that are searched; their distances lie side by side. */
typedef struct {
  int64_t top, left, height, width;
} window;

static window window_around(int64_t rows, int64_t cols, int64_t row, int64_t col, int64_t reach) {
  window w = {.top = most(row - reach, 0), .left = most(col - reach, 0)};
  w.height = least(row + reach, rows - SIDE) - w.top + 1;
  w.width = least(col + reach, cols - SIDE) - w.left + 1;
  return w;
}

/* Distances of the reference patch at (row, col) to all patches in its window, one row of places after the other;
 * infinite from the last one to the next multiple of LANES.
 *
 * `planes` is the image band by band with rows of `stride` floats, at least LANES more than columns. What a row of the
 * image adds to the distances of the places in three rows is added while it is in registers. A row's distances are
 * written in whole vectors from its last columns to its first, beyond its end where those of the next row come. */
static void compare(const float *planes, int64_t rows, int64_t stride, int64_t bands, int64_t row, int64_t col,
                    const window *w, float *distance) {
  const float *own = planes + row * stride + col;
  for (int64_t j = (w->width - 1) / (2 * LANES) * (2 * LANES); j >= 0; j -= 2 * LANES) {
    const int two = j + LANES < w->width;
    lanes sums[SIDE][2] = {{{0}}}; /* of the rows that are not complete, the oldest first */
    for (int64_t i = 0; i < w->height + SIDE - 1; i++) {
      for (int64_t b = 0; b < bands; b++) {
        const float *x = own + b * rows * stride, *y = planes + (b * rows + w->top + i) * stride + w->left + j;
        for (int64_t e = 0; e < SIDE; e++) {
          const lanes near = *(const lanes *)(y + e), far = two ? *(const lanes *)(y + LANES + e) : near;
          for (int64_t d = 0; d < SIDE; d++) { /* row i of the image is row d of the patches in row i - d */
            const float value = x[d * stride + e];
            const lanes gap = near - value, other = far - value;
            sums[SIDE - 1 - d][0] += gap * gap;
            if (two) sums[SIDE - 1 - d][1] += other * other;
          }
        }
      }
      const int64_t done = i - SIDE + 1;
      if (done >= 0) {
        float *line = distance + done * w->width + j;
        *(lanes *)line = sums[0][0];
        if (two) *(lanes *)(line + LANES) = sums[0][1];
      }
      for (int d = 0; d + 1 < SIDE; d++) sums[d][0] = sums[d + 1][0], sums[d][1] = sums[d + 1][1];
      sums[SIDE - 1][0] = sums[SIDE - 1][1] = (lanes){0};
    }
  }
  const int64_t total = w->height * w->width;
  for (int64_t i = total; i % LANES; i++) distance[i] = INFINITY;
}

static inline int64_t count_within(const float *distance, int64_t total, float limit) {
  order_of_lanes count = {0};
  for (int64_t i = 0; i < total; i += LANES) count -= *(const lanes *)(distance + i) <= limit;
  int64_t sum = 0;
  for (int i = 0; i < LANES; i++) sum += count[i];
  return sum;
}

typedef union {
  float value;
  uint32_t bits;
} limit;

/* A limit that as many distances keep as are wanted; `guess` is one that was found nearby.
 *
 * Distances are not negative, so they are in the order of their bits: the limit is found by halving between those. */
static limit limit_of(const float *distance, int64_t total, int64_t wanted, limit guess) {
  const uint32_t largest = 0x7f7fffff;
  limit low = {.bits = 0}, high = {.value = 3.4e38f}, middle = guess;
  uint32_t step = 1 << 20;
  for (int bounded = 0; low.bits < high.bits;) {
    const int64_t within = count_within(distance, total, middle.value);
    if (within == wanted) return middle;
    const int above = within > wanted;
    if (above) high = middle;
    else low.bits = middle.bits + 1;
    bounded |= above ? 1 : 2;
    if (bounded == 3) {
      middle.bits = low.bits + (high.bits - low.bits) / 2;
    } else { /* in growing steps until it lies between two */
      middle.bits = above ? middle.bits - (uint32_t)least(step, middle.bits)
                          : middle.bits + (uint32_t)least(step, largest - middle.bits);
      middle.bits = middle.bits < low.bits ? low.bits : middle.bits < high.bits ? middle.bits : high.bits;
      if (middle.bits == high.bits) middle.bits = low.bits + (high.bits - low.bits) / 2;
      step *= 2;
    }
  }
  return high;
}

/* First pixels of all patches whose distance is no more than a limit, in the window's order. */
static int64_t within(const float *distance, int64_t padded, const int32_t *places, int64_t first, float limit,
                      int64_t *at) {
  int64_t found = 0;
#if defined(__AVX512F__)
  const __m512i start = _mm512_set1_epi64(first);
  for (int64_t i = 0; i < padded; i += LANES) {
    const __mmask16 kept = _mm512_cmp_ps_mask(_mm512_loadu_ps(distance + i), _mm512_set1_ps(limit), _CMP_LE_OQ);
    const __m512i some = _mm512_maskz_compress_epi32(kept, _mm512_loadu_si512(places + i));
    _mm512_storeu_si512(at + found, _mm512_add_epi64(start, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(some))));
    _mm512_storeu_si512(at + found + LANES / 2,
                        _mm512_add_epi64(start, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(some, 1))));
    found += __builtin_popcount(kept);
  }
#else
  for (int64_t i = 0; i < padded; i++) {
    at[found] = first + places[i];
    found += distance[i] <= limit;
  }
#endif
  return found;
}

/* First pixels of the `wanted` patches at the smallest distances, in the window's order; of equal ones the first.
 * Returns how many there are: fewer where distances are beyond all numbers. `places` are the window's, counted from its
 * first; `at` has room for LANES more. */
static int64_t nearest(const float *distance, const window *w, const int32_t *places, int64_t cols, int64_t wanted,
                       limit *guess, int64_t *at) {
  const int64_t total = w->height * w->width, first = w->top * cols + w->left;
  const int64_t padded = (total + LANES - 1) / LANES * LANES;
  const limit farthest = *guess = limit_of(distance, padded, wanted, *guess);
  if (count_within(distance, padded, farthest.value) <= wanted)
    return within(distance, padded, places, first, farthest.value, at);
  // Those below the limit, and the first ones at it.
  int64_t equal = wanted, found = 0;
  for (int64_t i = 0; i < total; i++) equal -= distance[i] < farthest.value;
  for (int64_t i = 0; i < total; i++) {
    const int at_limit = distance[i] == farthest.value && equal > 0;
    at[found] = first + places[i];
    found += distance[i] < farthest.value || at_limit;
    equal -= at_limit;
  }
  return found;
}

/* Where the places of windows of so many columns lie, counted from the first. */
static void list_places(int64_t count, int64_t width, int64_t cols, int32_t *places) {
  for (int64_t i = 0; i < count; i++) places[i] = (int32_t)(i / width * cols + i % width);
}

/* All patches of the window. */
static int64_t everything(const window *w, int64_t cols, int64_t *at) {
  for (int64_t i = 0; i < w->height; i++)
    for (int64_t j = 0; j < w->width; j++) *at++ = (w->top + i) * cols + w->left + j;
  return w->height * w->width;
}

/* The image band by band, rows padded. */
static void deinterleave(const float *image, int64_t rows, int64_t cols, int64_t stride, int64_t bands, float *planes) {
  memset(planes, 0, bands * rows * stride * sizeof(float));
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++)
      for (int64_t b = 0; b < bands; b++) planes[(b * rows + i) * stride + j] = image[(i * cols + j) * bands + b];
}

/* A group of patches and room to filter it.
 *
 * `patches` and `guide` have a row of `length` floats for each of `n` patches; `turned` has a row of `across` floats
 * for each of `values` entries of a patch. `gram` and `work` hold the largest matrix that comes up. */
typedef struct {
  float *patches, *guide, *turned, *gram, *work;
  int64_t n, values, length, across;
} group;

/* Keep the directions of a group that stand out of the noise: (v / (v + shrink))^2 of variance v.
 *
 * By the smaller of two matrices: the covariance of the entries, or the patches' Gram matrix. */
static void shrink_group(group *g, float shrink) {
  const int64_t n = g->n, by_entry = g->values <= n, size = by_entry ? g->values : n;
  const int64_t stride = by_entry ? g->length : g->across, width = by_entry ? g->across : g->length;
  float *x = by_entry ? g->turned : g->patches;
  transpose(g->patches, n, g->length, g->values, g->across, g->turned);
  outer_products(by_entry ? g->patches : g->turned, by_entry ? n : g->values, size, stride, g->gram);
  // The noise is scaled instead of the matrix.
  const float weight = shrink * (float)(n - 1);
  for (int64_t i = 0; i < size; i++) g->gram[i * stride + i] += weight;
  // Structure that dwarfs the noise stays as it is.
  if (!factor(g->gram, size, stride, weight)) return;
  for (int pass = 0; pass < 2; pass++) take_solved(g->gram, size, stride, weight, x, width, g->work);
  if (by_entry) transpose(g->turned, g->values, g->across, n, g->length, g->patches);
}

/* Filter a group by the covariance of its first estimate, `guide`: in the entries' basis one factor and one solution
 * do. */
static void wiener_group(group *g) {
  const int64_t n = g->n, size = g->values, stride = g->length;
  const float weight = (float)(n - 1);
  outer_products(g->guide, n, size, stride, g->gram);
  for (int64_t i = 0; i < size; i++) g->gram[i * stride + i] += weight;
  if (!factor(g->gram, size, stride, weight)) return;
  transpose(g->patches, n, g->length, size, g->across, g->turned);
  take_solved(g->gram, size, stride, weight, g->turned, g->across, g->work);
  transpose(g->turned, size, g->across, n, g->length, g->patches);
}

/* Add filtered patches to `total` (row, col, band), and count them where they begin in `begun` (row, col). */
static void scatter(const float *patches, const int64_t *at, int64_t n, int64_t length, int64_t cols, int64_t bands,
                    float *total, float *begun) {
  const int64_t run = SIDE * bands;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t d = 0; d < SIDE; d++) {
      float *restrict to = total + (at[i] + d * cols) * bands;
      const float *restrict from = patches + i * length + d * run;
      int64_t v = 0;
      for (; v + 4 <= run; v += 4) *(quad *)(to + v) += *(const quad *)(from + v);
      for (; v < run; v++) to[v] += from[v];
    }
    begun[at[i]] += 1.0f;
  }
}

/* Patches that cover each pixel, from how many begin where. */
static void covering(const float *begun, int64_t rows, int64_t cols, float *norm) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < SIDE && d <= i; d++)
      for (int64_t e = 0; e < SIDE; e++) {
        const float *from = begun + (i - d) * cols;
        float *to = norm + i * cols;
        for (int64_t j = e; j < cols; j++) to[j] += from[j - e];
      }
}

/* Everything that filtering groups needs, and where results go. */
typedef struct {
  const float *image, *basic;
  int64_t cols, bands;
  float shrink, *mean, *total, *begun;
  group one;
  batch many;
} filter;

/* Filter a group by itself. */
static void filter_one(filter *f, const int64_t *at, int64_t n) {
  group *g = &f->one;
  g->n = n;
  gather(f->image, f->cols, f->bands, at, n, g->length, g->patches);
  if (f->basic) gather(f->basic, f->cols, f->bands, at, n, g->length, g->guide);
  mean_of(f->basic ? g->guide : g->patches, n, g->length, f->mean);
  centre(g->patches, n, g->length, f->mean, -1.0f);
  if (f->basic) {
    centre(g->guide, n, g->length, f->mean, -1.0f);
    wiener_group(g);
  } else {
    shrink_group(g, f->shrink);
  }
  centre(g->patches, n, g->length, f->mean, 1.0f);
  scatter(g->patches, at, n, g->length, f->cols, f->bands, f->total, f->begun);
}

/* Filter the groups that wait for it. */
static void filter_waiting(filter *f) {
  batch *g = &f->many;
  if (!g->filled) return;
  filter_batch(g, f->image, f->basic, f->cols, f->bands, f->shrink);
  for (int64_t lane = 0; lane < g->filled; lane++)
    scatter(g->rows + lane * g->n * g->values, g->at + lane * g->n, g->n, g->values, f->cols, f->bands, f->total,
            f->begun);
  g->filled = 0;
}

/* Filter a group, or let it wait for others. */
static void filter_group(filter *f, const int64_t *at, int64_t n) {
  batch *g = &f->many;
  if (g->rows && n == g->n) {
    memcpy(g->at + g->filled * n, at, n * sizeof(int64_t));
    if (++g->filled == LANES) filter_waiting(f);
  } else if (n >= 2) {
    filter_waiting(f); /* sums are added in the patches' order */
    filter_one(f, at, n);
  }
}

/* Room for groups side by side, where they are of use. */
static int prepare_batch(batch *g, int64_t n, int64_t values) {
  if (values > MOST_BATCHED || values > n) return 0;
  const int64_t vectors = 2 * n * values + triangle(values);
  g->patches = aligned_alloc(4 * LANES, vectors * sizeof(lanes));
  g->rows = malloc(LANES * n * values * sizeof(float)), g->at = malloc(LANES * n * sizeof(int64_t));
  if (!g->patches || !g->rows || !g->at) return 1;
  g->guide = g->patches + n * values, g->factor = g->guide + n * values;
  g->n = n, g->values = values;
  return 0;
}

/* One pass over an image with noise of unit variance; `basic` is the result of the first pass, NULL in the first.
 *
 * `total` (row, col, band) and `norm` (row, col) are zero before and hold sums of patches and their number after. Where
 * `used` (row, col) is given, only the groups of reference patches that begin at its nonzero pixels are filtered. */
int hsf_nonlocal(const float *image, const float *basic, const uint8_t *used, int64_t rows, int64_t cols,
                 int64_t bands, int64_t similar, int64_t reach, int64_t step, float shrink, float *total,
                 float *norm) {
  const int64_t values = SIDE * SIDE * bands, searched = 2 * reach + 1;
  const int64_t length = (values + LANES - 1) / LANES * LANES, across = (similar + LANES - 1) / LANES * LANES;
  const int64_t high = rows - SIDE + 1, wide = cols - SIDE + 1, stride = cols + 2 * LANES + 2;
  const int64_t side = most(length, across), room = searched * searched + 2 * LANES;
  // The square matrices have the larger side: whole registers and rows of four are written.
  float *memory = calloc(3 * across * length + 2 * side * side + length + room, sizeof(float));
  int64_t *at = malloc((least(similar, searched * searched) + LANES) * sizeof(int64_t));
  int32_t *places = calloc(searched * searched + LANES, sizeof(int32_t));
  float *planes = malloc(bands * rows * stride * sizeof(float)), *begun = calloc(rows * cols, sizeof(float));
  filter f = {.image = image, .basic = basic, .cols = cols, .bands = bands, .shrink = shrink, .total = total,
              .begun = begun};
  if (!memory || !at || !places || !planes || !begun || prepare_batch(&f.many, similar, values)) {
    free(memory), free(at), free(places), free(planes), free(begun);
    free(f.many.patches), free(f.many.rows), free(f.many.at);
    return 1;
  }
  f.one = (group){.values = values, .length = length, .across = across, .patches = memory};
  f.one.guide = f.one.patches + across * length;
  f.one.turned = f.one.guide + across * length;
  f.one.gram = f.one.turned + across * length;
  f.one.work = f.one.gram + side * side;
  f.mean = f.one.work + side * side;
  float *distance = f.mean + length;
  deinterleave(basic ? basic : image, rows, cols, stride, bands, planes);
  limit guess = {.value = 2.0f * (float)values};
  int64_t listed = 0;
  for (int64_t row = 0; row < high; row = row + step < high || row == high - 1 ? row + step : high - 1)
    for (int64_t col = 0; col < wide; col = col + step < wide || col == wide - 1 ? col + step : wide - 1) {
      if (used && !used[row * cols + col]) continue;
      const window w = window_around(rows, cols, row, col, reach);
      if (similar >= w.height * w.width) {
        filter_group(&f, at, everything(&w, cols, at));
        continue;
      }
      if (listed != w.width) list_places(searched * w.width, listed = w.width, cols, places);
      compare(planes, rows, stride, bands, row, col, &w, distance);
      filter_group(&f, at, nearest(distance, &w, places, cols, similar, &guess, at));
    }
  filter_waiting(&f);
  covering(begun, rows, cols, norm);
  free(memory), free(at), free(places), free(planes), free(begun);
  free(f.many.patches), free(f.many.rows), free(f.many.at);
  return 0;
}
