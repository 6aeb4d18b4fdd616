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

#include "planes.h"

#define SIDE 3
#define PANEL 4 /* rows of a factor that are taken off those below together */

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float quad __attribute__((vector_size(16), aligned(4)));
typedef int32_t order __attribute__((vector_size(16)));

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

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

/* Cholesky factor of a symmetric matrix given by its upper triangle, in place; reciprocals on the diagonal.
 *
 * `loading` was added to the diagonal, so no pivot is smaller. Returns 0 where one is: there rounding errors exceed the
 * noise, and the factor means nothing. */
static int factor(float *a, int64_t n, int64_t stride, float loading) {
  for (int64_t first = 0; first < n; first += PANEL) {
    const int64_t next = least(first + PANEL, n);
    for (int64_t k = first; k < next; k++) {
      const int64_t start = k / LANES * LANES;
      float *row = a + k * stride;
      for (int64_t m = first; m < k; m++)
        add_scaled(row + start, a + m * stride + start, -a[m * stride + k], (stride - start) / LANES);
      if (!(row[k] > 0.5f * loading)) return 0;
      const float scale = 1.0f / sqrtf(row[k]);
      for (int64_t j = start; j < stride; j += LANES) *(lanes *)(row + j) *= scale;
      row[k] = scale;
    }
    const float *above = a + first * stride;
    for (int64_t i = next; i < n; i++)
      for (int64_t j = i / LANES * LANES; j < stride; j += LANES) {
        lanes left = *(lanes *)(a + i * stride + j);
        for (int m = 0; m < PANEL; m++) left -= above[m * stride + i] * *(const lanes *)(above + m * stride + j);
        *(lanes *)(a + i * stride + j) = left;
      }
  }
  return 1;
}

/* Part of `solve`: `SOME` registers of every row, two rows at a time. */
#define SOME 3
static inline void solve_some(const float *a, int64_t n, int64_t stride, float *x, int64_t width, const int some) {
  for (int64_t i = 0; i < n; i += 2) {
    lanes s[SOME], t[SOME];
    float *row = x + i * width;
    const int pair = i + 1 < n;
    for (int v = 0; v < some; v++) {
      s[v] = *(lanes *)(row + v * LANES);
      if (pair) t[v] = *(lanes *)(row + width + v * LANES);
    }
    for (int64_t k = 0; k < i; k++) {
      const float p = a[k * stride + i], q = a[k * stride + i + 1];
      for (int v = 0; v < some; v++) {
        const lanes y = *(const lanes *)(x + k * width + v * LANES);
        s[v] -= p * y;
        if (pair) t[v] -= q * y;
      }
    }
    for (int v = 0; v < some; v++) {
      s[v] *= a[i * stride + i];
      *(lanes *)(row + v * LANES) = s[v];
      if (pair) *(lanes *)(row + width + v * LANES) = (t[v] - a[i * stride + i + 1] * s[v]) * a[(i + 1) * stride + i + 1];
    }
  }
  for (int64_t i = n - 1; i >= 0; i -= 2) {
    lanes s[SOME], t[SOME];
    float *row = x + i * width;
    const int pair = i > 0;
    const float *own = a + i * stride, *other = own - (pair ? stride : 0);
    for (int v = 0; v < some; v++) {
      s[v] = *(lanes *)(row + v * LANES);
      if (pair) t[v] = *(lanes *)(row - width + v * LANES);
    }
    for (int64_t k = i + 1; k < n; k++)
      for (int v = 0; v < some; v++) {
        const lanes y = *(const lanes *)(x + k * width + v * LANES);
        s[v] -= own[k] * y;
        if (pair) t[v] -= other[k] * y;
      }
    for (int v = 0; v < some; v++) {
      s[v] *= own[i];
      *(lanes *)(row + v * LANES) = s[v];
      if (pair) *(lanes *)(row - width + v * LANES) = (t[v] - other[i] * s[v]) * other[i - 1];
    }
  }
}

/* Solve with the factor for `n` rows of `width` right-hand sides, in place. */
static void solve(const float *a, int64_t n, int64_t stride, float *x, int64_t width) {
  int64_t v = 0;
  for (; v + SOME * LANES <= width; v += SOME * LANES) solve_some(a, n, stride, x + v, width, SOME);
  for (; v < width; v += LANES) solve_some(a, n, stride, x + v, width, 1);
}

/* Take from the `n` rows of `x` (each of `width` floats) `weight` times what solving with the factor makes of them. */
static void take_solved(const float *a, int64_t n, int64_t stride, float weight, float *x, int64_t width, float *work) {
  memcpy(work, x, n * width * sizeof(float));
  solve(a, n, stride, work, width);
  for (int64_t i = 0; i < n; i++) add_scaled(x + i * width, work + i * width, -weight, width / LANES);
}

/* The places around a reference patch that are searched, and where their distances lie: a row of `pad` floats each. */
typedef struct {
  int64_t top, left, height, width, pad;
} window;

static window window_around(int64_t rows, int64_t cols, int64_t row, int64_t col, int64_t reach) {
  window w = {.top = most(row - reach, 0), .left = most(col - reach, 0)};
  w.height = least(row + reach, rows - SIDE) - w.top + 1;
  w.width = least(col + reach, cols - SIDE) - w.left + 1;
  w.pad = (w.width + LANES - 1) / LANES * LANES;
  return w;
}

/* Distances of the reference patch at (row, col) to all patches in its window, columns side by side; infinite beyond.
 *
 * `planes` is the image band by band with rows of `stride` floats, at least LANES more than columns. */
static void compare(const float *planes, int64_t rows, int64_t stride, int64_t bands, int64_t row, int64_t col,
                    const window *w, float *distance) {
  for (int64_t i = 0; i < w->height; i++) {
    float *line = distance + i * w->pad;
    for (int64_t j = 0; j < w->pad; j += LANES) {
      lanes sum = {0};
      for (int64_t b = 0; b < bands; b++)
        for (int64_t d = 0; d < SIDE; d++) {
          const float *x = planes + (b * rows + row + d) * stride + col,
                      *y = planes + (b * rows + w->top + i + d) * stride + w->left + j;
          for (int64_t e = 0; e < SIDE; e++) {
            const lanes gap = *(const lanes *)(y + e) - x[e];
            sum += gap * gap;
          }
        }
      *(lanes *)(line + j) = sum;
    }
    for (int64_t j = w->width; j < w->pad; j++) line[j] = INFINITY;
  }
}

static inline int64_t count_within(const float *distance, int64_t total, float limit) {
  int32_t count = 0;
  for (int64_t i = 0; i < total; i++) count += distance[i] <= limit;
  return count;
}

/* First pixels of the `wanted` patches at the smallest distances, in the window's order; of equal ones the first.
 * Returns how many there are: fewer where distances are beyond all numbers.
 *
 * Distances are not negative, so they are in the order of their bits: the limit is found by halving between those.
 * `at` has room for one more. */
static int64_t nearest(const float *distance, const window *w, int64_t cols, int64_t wanted, int64_t *at) {
  union {
    float value;
    uint32_t bits;
  } low = {.value = 0.0f}, high = {.value = 3.4e38f}, middle;
  const int64_t total = w->height * w->pad;
  while (low.bits < high.bits) {
    middle.bits = low.bits + (high.bits - low.bits) / 2;
    const int64_t within = count_within(distance, total, middle.value);
    if (within == wanted) {
      high = middle;
      break;
    }
    if (within > wanted) high = middle;
    else low.bits = middle.bits + 1;
  }
  // Those below the limit, and the first ones at it.
  int64_t equal = wanted;
  for (int64_t i = 0; i < total; i++) equal -= distance[i] < high.value;
  int64_t found = 0;
  for (int64_t i = 0; i < w->height; i++) {
    const float *line = distance + i * w->pad;
    const int64_t first = (w->top + i) * cols + w->left;
    for (int64_t j = 0; j < w->width; j++) {
      const int at_limit = line[j] == high.value && equal > 0;
      at[found] = first + j;
      found += line[j] < high.value || at_limit;
      equal -= at_limit;
    }
  }
  return found;
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
  const int64_t side = most(length, across), room = searched * (searched + LANES);
  // The square matrices have the larger side: whole registers and rows of four are written.
  float *memory = calloc(3 * across * length + 2 * side * side + length + room, sizeof(float));
  int64_t *at = malloc((least(similar, searched * searched) + 1) * sizeof(int64_t));
  float *planes = malloc(bands * rows * stride * sizeof(float)), *begun = calloc(rows * cols, sizeof(float));
  if (!memory || !at || !planes || !begun) {
    free(memory), free(at), free(planes), free(begun);
    return 1;
  }
  group g = {.values = values, .length = length, .across = across, .patches = memory};
  g.guide = g.patches + across * length;
  g.turned = g.guide + across * length;
  g.gram = g.turned + across * length;
  g.work = g.gram + side * side;
  float *mean = g.work + side * side, *distance = mean + length;
  deinterleave(basic ? basic : image, rows, cols, stride, bands, planes);
  for (int64_t row = 0; row < high; row = row + step < high || row == high - 1 ? row + step : high - 1)
    for (int64_t col = 0; col < wide; col = col + step < wide || col == wide - 1 ? col + step : wide - 1) {
      if (used && !used[row * cols + col]) continue;
      const window w = window_around(rows, cols, row, col, reach);
      int64_t n;
      if (similar < w.height * w.width) {
        compare(planes, rows, stride, bands, row, col, &w, distance);
        n = nearest(distance, &w, cols, similar, at);
      } else {
        n = everything(&w, cols, at);
      }
      if (n < 2) continue;
      g.n = n;
      gather(image, cols, bands, at, n, length, g.patches);
      if (basic) gather(basic, cols, bands, at, n, length, g.guide);
      mean_of(basic ? g.guide : g.patches, n, length, mean);
      centre(g.patches, n, length, mean, -1.0f);
      if (basic) {
        centre(g.guide, n, length, mean, -1.0f);
        wiener_group(&g);
      } else {
        shrink_group(&g, shrink);
      }
      centre(g.patches, n, length, mean, 1.0f);
      scatter(g.patches, at, n, length, cols, bands, total, begun);
    }
  covering(begun, rows, cols, norm);
  free(memory), free(at), free(planes), free(begun);
  return 0;
}
