/* Loops over image planes that numpy and torch can only do in several passes through the memory: separable
 * decimation and interpolation, the injection of detail, resampling and low-pass of images with gaps, encoding.
 *
 * Plain C that GCC and Clang turn into vector instructions by themselves. Every function works on one thread and
 * is safe to call from several. Edges of planes are replicated.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "planes.h"

#define UP_TAPS 5 /* taps of the cubic interpolation of one phase */
#define UP_SIDE 2

/* A row with `side` replicated samples on both ends; `line` points at the first original sample's place. */
static void widen(const float *row, int64_t n, int64_t before, int64_t after, float *line) {
  memcpy(line, row, n * sizeof(float));
  for (int64_t i = 1; i <= before; i++) line[-i] = row[0];
  for (int64_t i = 0; i < after; i++) line[n + i] = row[n - 1];
}

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
enum { TOGETHER = 4 }; /* registers of a row that are summed together */

/* Sum of at least one row of `size` samples, each row times its weight, in their order: sums stay in registers. */
static void weigh(const float *const *rows, const float *w, int64_t count, int64_t size, float *restrict out) {
  int64_t j = 0;
  for (; j + TOGETHER * LANES <= size; j += TOGETHER * LANES) {
    lanes s[TOGETHER];
    for (int v = 0; v < TOGETHER; v++) s[v] = w[0] * *(const lanes *)(rows[0] + j + v * LANES);
    for (int64_t t = 1; t < count; t++)
      for (int v = 0; v < TOGETHER; v++) s[v] += w[t] * *(const lanes *)(rows[t] + j + v * LANES);
    for (int v = 0; v < TOGETHER; v++) *(lanes *)(out + j + v * LANES) = s[v];
  }
  for (; j + LANES <= size; j += LANES) {
    lanes s = w[0] * *(const lanes *)(rows[0] + j);
    for (int64_t t = 1; t < count; t++) s += w[t] * *(const lanes *)(rows[t] + j);
    *(lanes *)(out + j) = s;
  }
  for (; j < size; j++) {
    float s = w[0] * rows[0][j];
    for (int64_t t = 1; t < count; t++) s += w[t] * rows[t][j];
    out[j] = s;
  }
}

/* Every ratio-th of `size` samples side by side: those of phase r begin at phases + r * stride. */
static void part(const float *restrict from, int64_t size, int64_t ratio, float *restrict phases, int64_t stride) {
  const int64_t whole = size / ratio;
  if (ratio == 3) /* the usual one, in whole vectors */
    for (int64_t j = 0; j < whole; j++) {
      phases[j] = from[3 * j];
      phases[stride + j] = from[3 * j + 1];
      phases[2 * stride + j] = from[3 * j + 2];
    }
  else
    for (int64_t r = 0; r < ratio; r++)
      for (int64_t j = 0; j < whole; j++) phases[r * stride + j] = from[j * ratio + r];
  for (int64_t r = 0; whole * ratio + r < size; r++) phases[r * stride + whole] = from[whole * ratio + r];
}

/* The reverse, for `count` samples of each phase. */
static void interleave(const float *restrict phases, int64_t stride, int64_t count, int64_t ratio, float *restrict to) {
  if (ratio == 3)
    for (int64_t j = 0; j < count; j++) {
      to[3 * j] = phases[j];
      to[3 * j + 1] = phases[stride + j];
      to[3 * j + 2] = phases[2 * stride + j];
    }
  else
    for (int64_t p = 0; p < ratio; p++)
      for (int64_t j = 0; j < count; j++) to[j * ratio + p] = phases[p * stride + j];
}

/* ---- products with a small matrix -------------------------------------------------------------------------- */

#define MIXED (LANES < 16 ? 3 : 6) /* rows of a product that are summed together */
#define ACROSS 4 /* registers of each */

static inline __attribute__((always_inline)) void mix_some(const float *matrix, int64_t inner, const float *in,
                                                           int64_t plane, float *out, int64_t count, const int rows) {
  lanes s[MIXED][ACROSS];
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < ACROSS; v++) s[r][v] = (lanes){0};
  for (int64_t k = 0; k < inner; k++)
    for (int v = 0; v < ACROSS; v++) {
      const lanes x = *(const lanes *)(in + k * plane + v * LANES);
      for (int r = 0; r < rows; r++) s[r][v] += matrix[r * inner + k] * x;
    }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < ACROSS; v++) *(lanes *)(out + r * count + v * LANES) = s[r][v];
}

/* A matrix (rows, inner), contiguous, times planes (inner, count) with `plane` samples from one to the next: `out` is
 * (rows, count), contiguous. For matrices so small that their product takes no longer than going through the planes. */
void hsf_mix(const float *matrix, int64_t rows, int64_t inner, const float *in, int64_t plane, int64_t count,
             float *out) {
  const int64_t wide = ACROSS * LANES;
  for (int64_t j = 0; j < count && count >= wide; j += wide) {
    const int64_t at = j + wide <= count ? j : count - wide; /* the last ends with the row */
    int64_t r = 0;
    for (; r + MIXED <= rows; r += MIXED)
      mix_some(matrix + r * inner, inner, in + at, plane, out + r * count + at, count, MIXED);
    for (; r + 2 <= rows; r += 2) mix_some(matrix + r * inner, inner, in + at, plane, out + r * count + at, count, 2);
    if (r < rows) mix_some(matrix + r * inner, inner, in + at, plane, out + r * count + at, count, 1);
  }
  for (int64_t r = 0; r < rows && count < wide; r++)
    for (int64_t j = 0; j < count; j++) {
      float s = 0.0f;
      for (int64_t k = 0; k < inner; k++) s += matrix[r * inner + k] * in[k * plane + j];
      out[r * count + j] = s;
    }
}

/* ---- decimation (ratio 1: smoothing) ------------------------------------------------------------------------ */

/* Planes (rows, cols), contiguous, to planes (rows / ratio, cols / ratio): `taps` weights along each axis. */
int hsf_decimate(const float *in, int64_t planes, int64_t rows, int64_t cols, int64_t ratio, int64_t taps,
                 const float *down, const float *across, float *out) {
  const int64_t side = (taps - ratio) / 2, high = rows / ratio, wide = cols / ratio;
  const int64_t around = cols + 2 * side, phase = around / ratio + 1;
  float *memory = malloc((around + ratio * phase) * sizeof(float));
  const float **tap = malloc(taps * sizeof(float *));
  if (!memory || !tap) return free(memory), free(tap), 1;
  float *line = memory + side, *phases = memory + around;
  for (int64_t p = 0; p < planes; p++) {
    const float *plane = in + p * rows * cols;
    for (int64_t i = 0; i < high; i++) {
      for (int64_t t = 0; t < taps; t++) tap[t] = plane + clamp(i * ratio + t - side, rows) * cols;
      weigh(tap, down, taps, cols, line);
      for (int64_t k = 1; k <= side; k++) line[-k] = line[0], line[cols - 1 + k] = line[cols - 1];
      /* What a tap looks at lies side by side. */
      if (ratio > 1) part(memory, around, ratio, phases, phase);
      for (int64_t t = 0; t < taps; t++)
        tap[t] = ratio > 1 ? phases + t % ratio * phase + t / ratio : memory + t;
      weigh(tap, across, taps, wide, out + (p * high + i) * wide);
    }
  }
  free(memory), free(tap);
  return 0;
}

/* ---- the transpose of decimation --------------------------------------------------------------------------------- */

/* What spreads the samples of one axis to a grid `ratio` times finer: fine sample q * ratio + p is the sum over the taps t
 * of weight[p, t, q] times coarse sample q + first[p] + t, as far as there is one. */
typedef struct {
  const int64_t *first;
  const float *weight;
  int64_t taps, size;
} spreader;

/* One coarse row to the fine grid; `line` has room for `side` zeros before and after it, `phases` for the result. */
static void spread_row(const float *row, const spreader *s, int64_t ratio, int64_t side, float *line, float *phases,
                       float *out) {
  memcpy(line, row, s->size * sizeof(float));
  for (int64_t i = 1; i <= side; i++) line[-i] = line[s->size - 1 + i] = 0.0f;
  for (int64_t p = 0; p < ratio; p++) {
    const float *w = s->weight + p * s->taps * s->size, *from = line + s->first[p];
    float *restrict phase = phases + p * s->size;
    /* The last vector begins where it ends with the row. */
    for (int64_t at = 0; at < s->size && s->size >= LANES; at += LANES) {
      const int64_t q = at + LANES <= s->size ? at : s->size - LANES;
      lanes sum = *(const lanes *)(w + q) * *(const lanes *)(from + q);
      for (int64_t t = 1; t < s->taps; t++)
        sum += *(const lanes *)(w + t * s->size + q) * *(const lanes *)(from + q + t);
      *(lanes *)(phase + q) = sum;
    }
    for (int64_t t = 0; t < s->taps && s->size < LANES; t++)
      for (int64_t q = 0; q < s->size; q++)
        phase[q] = w[t * s->size + q] * from[q + t] + (t ? phase[q] : 0.0f);
  }
  interleave(phases, s->size, s->size, ratio, out);
}

/* Planes (rows, cols), contiguous, spread along both axes: the rows [row0, row1) of the fine grid. `side` is at least
 * what the taps of either axis reach beyond a sample. out is (planes, row1 - row0, cols * ratio), contiguous. */
int hsf_spread(const float *in, int64_t planes, int64_t rows, int64_t cols, int64_t ratio, int64_t side,
               const int64_t *down_first, const float *down, int64_t down_taps, const int64_t *across_first,
               const float *across, int64_t across_taps, int64_t row0, int64_t row1, float *out) {
  const spreader along = {across_first, across, across_taps, cols};
  const int64_t fine = cols * ratio, low = row0 / ratio - side, high = (row1 - 1) / ratio + side;
  const int64_t first = clamp(low, rows), last = clamp(high, rows);
  const int64_t kept = (last - first + 1) * fine;
  float *memory = malloc((kept + cols + 2 * side + fine + down_taps) * sizeof(float));
  const float **tap = malloc(down_taps * sizeof(float *));
  if (!memory || !tap) return free(memory), free(tap), 1;
  float *line = memory + kept + side, *phases = line + cols + side, *weights = phases + fine;
  for (int64_t k = 0; k < planes; k++) {
    for (int64_t i = first; i <= last; i++)
      spread_row(in + (k * rows + i) * cols, &along, ratio, side, line, phases, memory + (i - first) * fine);
    for (int64_t r = row0; r < row1; r++) {
      const int64_t q = r / ratio, p = r % ratio;
      float *target = out + (k * (row1 - row0) + r - row0) * fine;
      int64_t used = 0;
      for (int64_t t = 0; t < down_taps; t++) {
        const int64_t i = q + down_first[p] + t;
        const float w = down[(p * down_taps + t) * rows + q];
        if (i >= 0 && i < rows && w != 0.0f) tap[used] = memory + (i - first) * fine, weights[used++] = w;
      }
      if (used) weigh(tap, weights, used, fine, target);
      else memset(target, 0, fine * sizeof(float));
    }
  }
  free(memory), free(tap);
  return 0;
}

/* ---- interpolation --------------------------------------------------------------------------------------------- */

/* One coarse row to columns [col0, col1) of the fine grid, given in coarse pixels. */
static void stretch(const float *row, int64_t cols, int64_t col0, int64_t col1, int64_t ratio, const float *weights,
                    float *line, float *phases, float *out) {
  widen(row, cols, UP_SIDE, UP_SIDE, line);
  const int64_t count = col1 - col0;
  for (int64_t p = 0; p < ratio; p++) {
    const float *w = weights + p * UP_TAPS, *from = line + col0 - UP_SIDE;
    float *restrict phase = phases + p * count;
    for (int64_t j = 0; j < count; j++)
      phase[j] = w[0] * from[j] + w[1] * from[j + 1] + w[2] * from[j + 2] + w[3] * from[j + 3] + w[4] * from[j + 4];
  }
  interleave(phases, count, count, ratio, out);
}

/* Interpolates planes and adds products of further planes with fine images:
 *
 *   out[k] = up(base[k]) + sum over m of up(coefficient[m, k]) * details[m]
 *
 * for the window rows [row0, row1) and columns [col0, col1) of the coarse grid. base is (planes, rows, cols),
 * coefficient (terms, planes, rows, cols), details (terms, ...) with its own strides and the window's first pixel at
 * its start, out (planes, ...) with the window's fine pixels. weights are those of the phases down the rows, then
 * those along the columns. add != 0 adds to what out holds. With terms = 0 this is plain interpolation. */
int hsf_inject(const float *base, const float *coefficient, int64_t terms, const float *details, int64_t details_plane,
               int64_t details_row, int64_t planes, int64_t rows, int64_t cols, int64_t row0, int64_t row1,
               int64_t col0, int64_t col1, int64_t ratio, const float *weights, int32_t add, float *out,
               int64_t out_plane, int64_t out_row) {
  const int64_t fine = (col1 - col0) * ratio, sources = 1 + terms;
  const float *across = weights + ratio * UP_TAPS;
  float *memory = malloc((UP_TAPS * sources * fine + cols + 2 * UP_SIDE + fine) * sizeof(float));
  if (!memory) return 1;
  float *line = memory + UP_TAPS * sources * fine + UP_SIDE, *phases = line + cols + UP_SIDE;
  for (int64_t k = 0; k < planes; k++) {
    int64_t known = row0 - UP_SIDE; /* coarse rows (unclamped) below this one are in the ring */
    for (int64_t i = row0; i < row1; i++) {
      for (; known <= i + UP_SIDE; known++) {
        const int64_t at = clamp(known, rows);
        float *slot = memory + ((known - row0 + UP_SIDE) % UP_TAPS) * sources * fine;
        stretch(base + (k * rows + at) * cols, cols, col0, col1, ratio, across, line, phases, slot);
        for (int64_t m = 0; m < terms; m++)
          stretch(coefficient + ((m * planes + k) * rows + at) * cols, cols, col0, col1, ratio, across, line, phases,
                  slot + (m + 1) * fine);
      }
      for (int64_t p = 0; p < ratio; p++) {
        const float *w = weights + p * UP_TAPS;
        float *restrict target = out + k * out_plane + ((i - row0) * ratio + p) * out_row;
        const float *from[UP_TAPS];
        for (int64_t t = 0; t < UP_TAPS; t++) from[t] = memory + ((i - row0 + t) % UP_TAPS) * sources * fine;
        if (add)
          for (int64_t j = 0; j < fine; j++)
            target[j] += w[0] * from[0][j] + w[1] * from[1][j] + w[2] * from[2][j] + w[3] * from[3][j] +
                         w[4] * from[4][j];
        else
          for (int64_t j = 0; j < fine; j++)
            target[j] = w[0] * from[0][j] + w[1] * from[1][j] + w[2] * from[2][j] + w[3] * from[3][j] +
                        w[4] * from[4][j];
        for (int64_t m = 0; m < terms; m++) {
          const float *factor = details + m * details_plane + ((i - row0) * ratio + p) * details_row;
          const int64_t o = (m + 1) * fine;
          for (int64_t j = 0; j < fine; j++)
            target[j] += factor[j] * (w[0] * from[0][o + j] + w[1] * from[1][o + j] + w[2] * from[2][o + j] +
                                      w[3] * from[3][o + j] + w[4] * from[4][o + j]);
        }
      }
    }
  }
  free(memory);
  return 0;
}

/* ---- resampling ------------------------------------------------------------------------------------------------- */

enum { COMPLETE, PARTIAL, EMPTY };

static inline double keys(double d) {
  d = fabs(d);
  if (d >= 2.0) return 0.0;
  return d <= 1.0 ? (1.5 * d - 2.5) * d * d + 1.0 : ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0;
}

/* Bands side by side, for hsf_warp: each of its taps then is one long vector.
 *
 * Some rows [row0, row1) of a cube (bands, rows, cols; given strides, unit stride along columns) are written to
 * `pixels` (rows, cols, lane), lane being the bands filled up to a multiple of 16 with zeros, and what is known of each
 * pixel to `state` (rows, cols). */
void hsf_warp_gather(const float *cube, int64_t bands, int64_t cols, int64_t band_stride, int64_t row_stride,
                     int64_t row0, int64_t row1, float *pixels, uint8_t *state) {
  enum { BLOCK = 64 };
  const int64_t lane = (bands + 15) & ~(int64_t)15;
  for (int64_t i = row0; i < row1; i++)
    for (int64_t j0 = 0; j0 < cols; j0 += BLOCK) {
      const int64_t j1 = j0 + BLOCK < cols ? j0 + BLOCK : cols;
      for (int64_t b = 0; b < bands; b++) {
        const float *from = cube + b * band_stride + i * row_stride;
        for (int64_t j = j0; j < j1; j++) pixels[(i * cols + j) * lane + b] = from[j];
      }
      for (int64_t j = j0; j < j1; j++) {
        float *p = pixels + (i * cols + j) * lane;
        int64_t finite = 0;
        for (int64_t b = bands; b < lane; b++) p[b] = 0.0f;
        for (int64_t b = 0; b < bands; b++) finite += fabsf(p[b]) <= 3.4e38f;
        state[i * cols + j] = finite == bands ? COMPLETE : finite ? PARTIAL : EMPTY;
      }
    }
}

/* Cubic resampling of what hsf_warp_gather made of a cube (bands, rows, cols), at fractional positions.
 *
 * NaN marks missing samples. Of each output sample they are left out and the weights present are scaled up; where
 * more than `tolerated` of the absolute weight is missing the output is NaN. Output is (bands, pixel) with stride
 * out_band, of which the pixels [start, stop) are written; positions are those of the output pixels in the cube's rows
 * and columns. */
int hsf_warp(const float *pixels, const uint8_t *state, int64_t bands, int64_t rows, int64_t cols,
             const double *at_row, const double *at_col, int64_t start, int64_t stop, double tolerated, float *out,
             int64_t out_band) {
  enum { BLOCK = 64 };
  const int64_t lane = (bands + 15) & ~(int64_t)15;
  float *block = aligned_alloc(64, BLOCK * lane * sizeof(float));
  float *sums = aligned_alloc(64, 2 * lane * sizeof(float));
  if (!block || !sums) {
    free(block), free(sums);
    return 1;
  }
  float *present = sums, *absent = sums + lane;
  for (int64_t n0 = start; n0 < stop; n0 += BLOCK) {
    const int64_t n1 = n0 + BLOCK < stop ? n0 + BLOCK : stop;
    for (int64_t n = n0; n < n1; n++) {
      float *value = block + (n - n0) * lane;
      const double y = at_row[n], x = at_col[n];
      for (int64_t b = 0; b < lane; b++) value[b] = 0.0f;
      /* Written so that NaN positions fail too. */
      if (!(y > -2.0 && y < rows + 1.0 && x > -2.0 && x < cols + 1.0)) {
        for (int64_t b = 0; b < lane; b++) value[b] = NAN;
        continue;
      }
      const int64_t top = (int64_t)floor(y) - 1, left = (int64_t)floor(x) - 1;
      double wy[4], wx[4], size_y = 0.0, size_x = 0.0;
      for (int t = 0; t < 4; t++) {
        wy[t] = keys(top + t - y), wx[t] = keys(left + t - x);
        size_y += fabs(wy[t]), size_x += fabs(wx[t]);
      }
      const double total = size_y * size_x;
      double missing = 0.0;
      int partial = 0;
      for (int s = 0; s < 4; s++)
        for (int t = 0; t < 4; t++) {
          const int64_t r = top + s, c = left + t;
          const double w = wy[s] * wx[t];
          if (w == 0.0) continue;
          if (r < 0 || r >= rows || c < 0 || c >= cols || state[r * cols + c] == EMPTY)
            missing += fabs(w);
          else
            partial |= state[r * cols + c] == PARTIAL;
        }
      missing /= total;
      if (missing > tolerated) {
        for (int64_t b = 0; b < lane; b++) value[b] = NAN;
        continue;
      }
      float kept = 0.0f;
      if (!partial) {
        for (int s = 0; s < 4; s++)
          for (int t = 0; t < 4; t++) {
            const int64_t r = top + s, c = left + t;
            const float w = (float)(wy[s] * wx[t]);
            if (w == 0.0f || r < 0 || r >= rows || c < 0 || c >= cols || state[r * cols + c] == EMPTY) continue;
            const float *restrict p = pixels + (r * cols + c) * lane;
            for (int64_t b = 0; b < lane; b++) value[b] += w * p[b];
            kept += w;
          }
        /* Complete windows keep their sum as it is: dividing by 0.9999999 would spoil exact copies. */
        if (missing > 1e-5) {
          const float scale = 1.0f / (kept == 0.0f ? 1.0f : kept);
          for (int64_t b = 0; b < lane; b++) value[b] *= scale;
        }
        continue;
      }
      for (int64_t b = 0; b < lane; b++) present[b] = 0.0f, absent[b] = (float)missing;
      for (int s = 0; s < 4; s++)
        for (int t = 0; t < 4; t++) {
          const int64_t r = top + s, c = left + t;
          const float w = (float)(wy[s] * wx[t]), share = (float)(fabs(wy[s] * wx[t]) / total);
          if (w == 0.0f || r < 0 || r >= rows || c < 0 || c >= cols || state[r * cols + c] == EMPTY) continue;
          const float *restrict p = pixels + (r * cols + c) * lane;
          for (int64_t b = 0; b < lane; b++) {
            const int finite = fabsf(p[b]) <= 3.4e38f;
            value[b] += finite ? w * p[b] : 0.0f;
            present[b] += finite ? w : 0.0f;
            absent[b] += finite ? 0.0f : share;
          }
        }
      for (int64_t b = 0; b < lane; b++) {
        const float scale = absent[b] > 1e-5f ? 1.0f / (present[b] == 0.0f ? 1.0f : present[b]) : 1.0f;
        value[b] = absent[b] > (float)tolerated ? NAN : value[b] * scale;
      }
    }
    for (int64_t b = 0; b < bands; b++) {
      float *target = out + b * out_band;
      for (int64_t n = n0; n < n1; n++) target[n] = block[(n - n0) * lane + b];
    }
  }
  free(block), free(sums);
  return 0;
}

/* ---- low-pass to another grid ----------------------------------------------------------------------------------- */

/* Weighted means of planes (in_planes, rows, cols; given strides, unit stride along columns) around positions of
 * another grid: output row i weighs `row_taps` rows from row_first[i] on, output column j likewise.
 *
 * A pixel counts where all planes are finite. Rows and columns outside weigh nothing. Where the pixels that count have
 * less than `fewest` of the weight the output is NaN. Output is (planes, out_rows, out_cols) with given strides. */
int hsf_lowpass(const float *in, int64_t planes, int64_t rows, int64_t cols, int64_t in_plane, int64_t in_row,
                const int64_t *row_first, const float *row_weights, int64_t row_taps, int64_t out_rows,
                const int64_t *col_first, const float *col_weights, int64_t col_taps, int64_t out_cols, float fewest,
                float *out, int64_t out_plane, int64_t out_row) {
  enum { BLOCK = 16 };
  const int64_t side = col_taps, wide = cols + 2 * side, padded = (cols + 15) & ~(int64_t)15;
  /* Per plane, and for the pixels' count: one line, and BLOCK lines side by side with zeros on both ends. */
  float *line = aligned_alloc(64, (planes + 2) * padded * sizeof(float));
  float *tall = aligned_alloc(64, (planes + 1) * wide * BLOCK * sizeof(float));
  uint8_t *gaps = calloc(rows, 1);
  if (!line || !tall || !gaps) {
    free(line), free(tall), free(gaps);
    return 1;
  }
  float *restrict count = line + planes * padded, *restrict good = count + padded;
  memset(tall, 0, (planes + 1) * wide * BLOCK * sizeof(float));
  for (int64_t p = 0; p < planes; p++)
    for (int64_t r = 0; r < rows; r++) {
      const float *value = in + p * in_plane + r * in_row;
      int missing = 0;
      for (int64_t j = 0; j < cols; j++) missing |= !(fabsf(value[j]) <= 3.4028234664e38f);
      gaps[r] |= missing;
    }
  for (int64_t i0 = 0; i0 < out_rows; i0 += BLOCK) {
    const int64_t lines = i0 + BLOCK < out_rows ? BLOCK : out_rows - i0;
    for (int64_t i = 0; i < lines; i++) {
      memset(line, 0, (planes + 1) * padded * sizeof(float));
      for (int64_t t = 0; t < row_taps; t++) {
        const int64_t r = row_first[i0 + i] + t;
        if (r < 0 || r >= rows) continue;
        const float w = row_weights[(i0 + i) * row_taps + t];
        const float *from = in + r * in_row;
        for (int64_t j = 0; j < cols; j++) good[j] = 1.0f;
        for (int64_t p = 0; gaps[r] && p < planes; p++)
          for (int64_t j = 0; j < cols; j++)
            good[j] = fabsf(from[p * in_plane + j]) <= 3.4028234664e38f ? good[j] : 0.0f;
        for (int64_t p = 0; p < planes; p++) {
          float *restrict sum = line + p * padded;
          const float *restrict value = from + p * in_plane;
          if (gaps[r])
            for (int64_t j = 0; j < cols; j++) sum[j] += good[j] != 0.0f ? w * value[j] : 0.0f;
          else
            for (int64_t j = 0; j < cols; j++) sum[j] += w * value[j];
        }
        for (int64_t j = 0; j < cols; j++) count[j] += w * good[j];
      }
      for (int64_t p = 0; p <= planes; p++) {
        float *beside = tall + (p * wide + side) * BLOCK + i;
        for (int64_t j = 0; j < cols; j++) beside[j * BLOCK] = line[p * padded + j];
      }
    }
    for (int64_t j = 0; j < out_cols; j++) {
      const float *w = col_weights + j * col_taps;
      /* Positions farther outside than the kernel reaches see nothing but the zeros. */
      int64_t first = col_first[j] + side;
      first = first < 0 ? 0 : first > wide - col_taps ? wide - col_taps : first;
      float weight[BLOCK] = {0};
      for (int64_t t = 0; t < col_taps; t++)
        for (int i = 0; i < BLOCK; i++) weight[i] += w[t] * tall[(planes * wide + first + t) * BLOCK + i];
      for (int64_t p = 0; p < planes; p++) {
        float sum[BLOCK] = {0};
        for (int64_t t = 0; t < col_taps; t++)
          for (int i = 0; i < BLOCK; i++) sum[i] += w[t] * tall[(p * wide + first + t) * BLOCK + i];
        for (int64_t i = 0; i < lines; i++)
          out[p * out_plane + (i0 + i) * out_row + j] = weight[i] >= fewest ? sum[i] / weight[i] : NAN;
      }
    }
  }
  free(line), free(tall), free(gaps);
  return 0;
}

/* ---- encoding --------------------------------------------------------------------------------------------------- */

/* Reflectance planes (bands, rows, cols) to 16-bit samples with any band and row stride; see SampleEncoding.
 *
 * Samples that are not finite or not valid become `nodata`. Values outside [low, high] are counted and, with
 * `clip`, cut off. Products round to the nearest integer, ties to even, then are held in [lowest, highest].
 * `is_signed` tells int16 from uint16. Returns the number of samples outside. */
int64_t hsf_encode(const float *in, int64_t in_band, int64_t in_row, int64_t bands, int64_t rows, int64_t cols,
                   const uint8_t *valid, int64_t valid_row, float low, float high, int32_t clip, double scale,
                   double lowest, double highest, int32_t nodata, uint16_t *out, int64_t out_band,
                   int64_t out_row) {
  const double magic = 6755399441055744.0; /* 1.5 * 2^52: adding and taking it away rounds to integers */
  int64_t outside = 0;
  for (int64_t b = 0; b < bands; b++)
    for (int64_t i = 0; i < rows; i++) {
      const float *restrict from = in + b * in_band + i * in_row;
      const uint8_t *restrict good = valid + i * valid_row;
      uint16_t *restrict to = out + b * out_band + i * out_row;
      int32_t count = 0;
      for (int64_t j = 0; j < cols; j++) {
        const float x = from[j];
        const int32_t finite = (fabsf(x) <= 3.4028234664e38f) & (good[j] != 0);
        count += finite & ((x < low) | (x > high));
        float y = clip ? (x < low ? low : x > high ? high : x) : x;
        y = finite ? y : 0.0f;
        double z = ((double)y * scale + magic) - magic;
        z = z < lowest ? lowest : z > highest ? highest : z;
        to[j] = (uint16_t)(finite ? (int32_t)z : nodata);
      }
      outside += count;
    }
  return outside;
}
