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

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static inline float total_of(lanes parts) {
  float sum = 0.0f;
  for (int l = 0; l < LANES; l++) sum += parts[l];
  return sum;
}

/* y += w * x over `vectors` registers. */
static inline void add_scaled(float *restrict y, const float *restrict x, float w, int64_t vectors) {
  for (int64_t v = 0; v < vectors; v++) *(lanes *)(y + v * LANES) += w * *(const lanes *)(x + v * LANES);
}

/* Copy patches into rows of `length` floats. */
static void gather(const float *image, int64_t cols, int64_t bands, const int64_t *places, int64_t count,
                   int64_t length, float *group) {
  const int64_t run = SIDE * bands, wide = cols - SIDE + 1;
  for (int64_t i = 0; i < count; i++) {
    const float *from = image + (places[i] / wide * cols + places[i] % wide) * bands;
    for (int64_t d = 0; d < SIDE; d++) memcpy(group + i * length + d * run, from + d * cols * bands, run * sizeof(float));
  }
}

/* Take the mean row away. */
static void centre(float *group, int64_t count, int64_t length, const float *mean) {
  for (int64_t i = 0; i < count; i++) add_scaled(group + i * length, mean, -1.0f, length / LANES);
}

static void mean_of(const float *group, int64_t count, int64_t length, float *mean) {
  memset(mean, 0, length * sizeof(float));
  for (int64_t i = 0; i < count; i++) add_scaled(mean, group + i * length, 1.0f / (float)count, length / LANES);
}

/* Inner products of all rows of `a` with those of `b`; the lower triangle only when `half`. Four at a time. */
static void products(const float *a, const float *b, int64_t count, int64_t length, int half, float *out) {
  for (int64_t i = 0; i < count; i++) {
    const float *x = a + i * length;
    const int64_t end = half ? i + 1 : count;
    int64_t j = 0;
    for (; j + 4 <= end; j += 4) {
      const float *y = b + j * length;
      lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
      for (int64_t v = 0; v < length; v += LANES) {
        const lanes p = *(const lanes *)(x + v);
        s0 += p * *(const lanes *)(y + v);
        s1 += p * *(const lanes *)(y + length + v);
        s2 += p * *(const lanes *)(y + 2 * length + v);
        s3 += p * *(const lanes *)(y + 3 * length + v);
      }
      out[i * count + j] = total_of(s0);
      out[i * count + j + 1] = total_of(s1);
      out[i * count + j + 2] = total_of(s2);
      out[i * count + j + 3] = total_of(s3);
    }
    for (; j < end; j++) {
      lanes s = {0};
      for (int64_t v = 0; v < length; v += LANES) s += *(const lanes *)(x + v) * *(const lanes *)(b + j * length + v);
      out[i * count + j] = total_of(s);
    }
  }
}

/* Cholesky factor of a symmetric matrix given by its lower triangle, in place; reciprocals on the diagonal. */
static void factor(float *a, int64_t n) {
  for (int64_t j = 0; j < n; j++) {
    float *row = a + j * n;
    for (int64_t k = 0; k < j; k++) {
      const float *other = a + k * n;
      float sum = row[k];
      for (int64_t l = 0; l < k; l++) sum -= row[l] * other[l];
      row[k] = sum * other[k];
    }
    float square = row[j];
    for (int64_t l = 0; l < j; l++) square -= row[l] * row[l];
    row[j] = 1.0f / sqrtf(square > 1e-12f ? square : 1e-12f);
  }
}

/* Solve with the factor for rows of `length` right-hand sides, in place. */
static void solve(const float *a, int64_t n, float *x, int64_t length) {
  const int64_t vectors = length / LANES;
  for (int64_t i = 0; i < n; i++) {
    float *row = x + i * length;
    for (int64_t k = 0; k < i; k++) add_scaled(row, x + k * length, -a[i * n + k], vectors);
    for (int64_t v = 0; v < length; v++) row[v] *= a[i * n + i];
  }
  for (int64_t i = n - 1; i >= 0; i--) {
    float *row = x + i * length;
    for (int64_t v = 0; v < length; v++) row[v] *= a[i * n + i];
    for (int64_t k = 0; k < i; k++) add_scaled(x + k * length, row, -a[i * n + k], vectors);
  }
}

/* The `wanted` smallest of `count` distances come first, with their places. */
static void select_nearest(float *distance, int64_t *place, int64_t count, int64_t wanted) {
  int64_t low = 0, high = count - 1;
  while (low < high) {
    const float pivot = distance[(low + high) / 2];
    int64_t i = low, j = high;
    while (i <= j) {
      while (distance[i] < pivot) i++;
      while (distance[j] > pivot) j--;
      if (i <= j) {
        const float d = distance[i];
        distance[i] = distance[j];
        distance[j] = d;
        const int64_t p = place[i];
        place[i++] = place[j];
        place[j--] = p;
      }
    }
    if (wanted - 1 <= j) high = j;
    else if (wanted - 1 >= i) low = i;
    else break;
  }
}

/* Distances of the reference patch at (row, col) to all patches in its window, columns side by side.
 *
 * `planes` is the image band by band with rows of `stride` floats, at least LANES more than columns. */
static int64_t compare(const float *planes, int64_t rows, int64_t cols, int64_t stride, int64_t bands, int64_t row,
                       int64_t col, int64_t reach, float *distance, int64_t *place) {
  const int64_t wide = cols - SIDE + 1;
  const int64_t top = most(row - reach, 0), bottom = least(row + reach, rows - SIDE);
  const int64_t left = most(col - reach, 0), right = least(col + reach, cols - SIDE);
  int64_t count = 0;
  for (int64_t i = top; i <= bottom; i++)
    for (int64_t j = left; j <= right; j += LANES) {
      lanes sum = {0};
      for (int64_t b = 0; b < bands; b++)
        for (int64_t d = 0; d < SIDE; d++) {
          const float *x = planes + (b * rows + row + d) * stride + col, *y = planes + (b * rows + i + d) * stride + j;
          for (int64_t e = 0; e < SIDE; e++) {
            const lanes gap = *(const lanes *)(y + e) - x[e];
            sum += gap * gap;
          }
        }
      const int64_t some = least(LANES, right - j + 1);
      for (int64_t l = 0; l < some; l++) {
        distance[count] = sum[l];
        place[count++] = i * wide + j + l;
      }
    }
  return count;
}

/* The image band by band, rows padded. */
static void deinterleave(const float *image, int64_t rows, int64_t cols, int64_t stride, int64_t bands, float *planes) {
  memset(planes, 0, bands * rows * stride * sizeof(float));
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++)
      for (int64_t b = 0; b < bands; b++) planes[(b * rows + i) * stride + j] = image[(i * cols + j) * bands + b];
}

/* Keep the directions of a group that stand out of the noise: (v / (v + shrink))^2 of variance v. */
static void shrink_group(float *group, int64_t n, int64_t length, float shrink, float *gram, float *work) {
  products(group, group, n, length, 1, gram);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j <= i; j++) gram[i * n + j] = gram[i * n + j] / (float)(n - 1) + (i == j ? shrink : 0.0f);
  factor(gram, n);
  for (int pass = 0; pass < 2; pass++) {
    memcpy(work, group, n * length * sizeof(float));
    solve(gram, n, work, length);
    for (int64_t i = 0; i < n; i++) add_scaled(group + i * length, work + i * length, -shrink, length / LANES);
  }
}

/* Filter a group by the covariance of its first estimate `guide`. */
static void wiener_group(float *group, float *guide, int64_t n, int64_t length, float *gram, float *cross,
                         float *work) {
  products(guide, guide, n, length, 1, gram);
  for (int64_t i = 0; i < n; i++) gram[i * n + i] += (float)(n - 1);
  products(group, guide, n, length, 0, cross);
  factor(gram, n);
  memcpy(work, guide, n * length * sizeof(float));
  solve(gram, n, work, length);
  memset(group, 0, n * length * sizeof(float));
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = 0; k < n; k++) add_scaled(group + i * length, work + k * length, cross[i * n + k], length / LANES);
}

/* Add filtered patches to `total` (row, col, band), and their number to `norm` (row, col). */
static void scatter(const float *group, const float *mean, const int64_t *place, int64_t n, int64_t length,
                    int64_t cols, int64_t bands, float *total, float *norm) {
  const int64_t run = SIDE * bands, wide = cols - SIDE + 1;
  for (int64_t i = 0; i < n; i++) {
    const int64_t at = place[i] / wide * cols + place[i] % wide;
    for (int64_t d = 0; d < SIDE; d++) {
      float *restrict to = total + (at + d * cols) * bands;
      const float *restrict from = group + i * length + d * run, *restrict level = mean + d * run;
      for (int64_t v = 0; v < run; v++) to[v] += from[v] + level[v];
      for (int64_t v = 0; v < SIDE; v++) norm[at + d * cols + v] += 1.0f;
    }
  }
}

/* One pass over an image with noise of unit variance; `basic` is the result of the first pass, NULL in the first.
 *
 * `total` (row, col, band) and `norm` (row, col) are zero before and hold sums of patches and their number after. */
int hsf_nonlocal(const float *image, const float *basic, int64_t rows, int64_t cols, int64_t bands, int64_t similar,
                 int64_t reach, int64_t step, float shrink, float *total, float *norm) {
  const int64_t length = (SIDE * SIDE * bands + LANES - 1) / LANES * LANES, window = (2 * reach + 1) * (2 * reach + 1);
  const int64_t high = rows - SIDE + 1, wide = cols - SIDE + 1;
  float *memory = calloc(3 * similar * length + 2 * similar * similar + length + window, sizeof(float));
  int64_t *place = malloc(window * sizeof(int64_t));
  const int64_t stride = cols + 2 * LANES;
  float *planes = malloc(bands * rows * stride * sizeof(float));
  if (!memory || !place || !planes) {
    free(memory);
    free(place);
    free(planes);
    return 1;
  }
  float *group = memory, *guide = group + similar * length, *work = guide + similar * length;
  float *gram = work + similar * length, *cross = gram + similar * similar, *mean = cross + similar * similar;
  float *distance = mean + length;
  deinterleave(basic ? basic : image, rows, cols, stride, bands, planes);
  for (int64_t row = 0; row < high; row = row + step < high || row == high - 1 ? row + step : high - 1)
    for (int64_t col = 0; col < wide; col = col + step < wide || col == wide - 1 ? col + step : wide - 1) {
      const int64_t found = compare(planes, rows, cols, stride, bands, row, col, reach, distance, place);
      const int64_t n = least(similar, found);
      if (n < 2) continue;
      if (n < found) select_nearest(distance, place, found, n);
      gather(image, cols, bands, place, n, length, group);
      if (basic) {
        gather(basic, cols, bands, place, n, length, guide);
        mean_of(guide, n, length, mean);
        centre(group, n, length, mean);
        centre(guide, n, length, mean);
        wiener_group(group, guide, n, length, gram, cross, work);
      } else {
        mean_of(group, n, length, mean);
        centre(group, n, length, mean);
        shrink_group(group, n, length, shrink, gram, work);
      }
      scatter(group, mean, place, n, length, cols, bands, total, norm);
    }
  free(memory);
  free(place);
  free(planes);
  return 0;
}
