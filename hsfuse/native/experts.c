/* Work on single pixels behind the experts of a scene and the gate that weighs them: regressions on random Fourier
 * features and on classes, what the gate sees, and what its weights make of the experts' outputs. In torch each is a
 * chain of passes through memory over hundreds of images; here a few pixels go through all of it in registers.
 *
 * Images are planes of `pixels` floats, one behind the other. One thread; safe to call from several.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "planes.h"

#define BLOCK (2 * LANES) /* pixels that a regression works on at a time */
#define TARGETS 5         /* of its predictions that stay in registers */
#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t narrow __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE lanes all(float x) { return x - (lanes){0}; }
INLINE lanes load(const float *p) { return *(const lanes *)p; }
INLINE void store(float *p, lanes x) { *(lanes *)p = x; }
INLINE lanes pick(whole mask, lanes a, lanes b) { return (lanes)(((whole)a & mask) | ((whole)b & ~mask)); }
INLINE lanes absolute(lanes x) { return (lanes)((whole)x & 0x7fffffff); }

/* cos(2 pi t) to 2e-7: the sine of what is left to a quarter, after whole turns. */
INLINE lanes cosine(lanes t) {
  const lanes magic = all(12582912.0f); /* 1.5 * 2^23: adding and taking it away rounds to integers */
  const lanes s = 0.25f - absolute(t - ((t + magic) - magic)), z = s * s;
  lanes p = all(39.760723f);
  p = p * z - 76.581284f;
  p = p * z + 81.602477f;
  p = p * z - 41.341682f;
  return (p * z + 6.2831855f) * s;
}

/* exp(x) for x in [-87, 0], relative error below 2e-7. */
INLINE lanes exponential(lanes x) {
  const lanes magic = all(12582912.0f);
  x = pick(x < -87.0f, all(-87.0f), x);
  lanes k = x * 1.44269504f + magic;
  const whole power = (whole)k << 23;
  k -= magic;
  const lanes r = x - k * 0.693359375f + k * 2.12194440e-4f;
  lanes p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return (lanes)((whole)p + power);
}

/* log(x) for normal x > 0, absolute error below 1e-7 near 1 and relative beyond (Cephes). */
INLINE lanes logarithm(lanes x) {
  const whole bits = (whole)x - 0x3f3504f3, power = bits >> 23; /* 0.7071: mantissas from there to its double */
  const lanes e = __builtin_convertvector(power, lanes);
  const lanes m = (lanes)((bits & 0x007fffff) + 0x3f3504f3) - 1.0f, z = m * m;
  lanes p = all(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  return p * m * z - 2.12194440e-4f * e - 0.5f * z + m + 0.693359375f * e;
}

INLINE lanes root(lanes x) { /* of x >= 1 */
#if defined(__AVX512F__)
  /* An estimate and one step of Newton's take less time than the instruction. */
  const lanes r = (lanes)_mm512_rsqrt14_ps((__m512)x), y = x * r;
  return y + 0.5f * y * (1.0f - y * r);
#else
  for (int i = 0; i < LANES; i++) x[i] = sqrtf(x[i]);
  return x;
#endif
}

/* Inverse hyperbolic sine, absolute error below 1e-6. */
INLINE lanes compressed(lanes x) {
  const lanes size = absolute(x), y = logarithm(size + root(x * x + 1.0f));
  return (lanes)((whole)y | ((whole)x & (int32_t)0x80000000));
}

/* tanh(x) as a fraction, relative error below 4e-7. */
typedef struct {
  lanes above, below;
} fraction;

INLINE fraction tangent(lanes x) {
  x = pick(x > 7.9988117f, all(7.9988117f), x);
  x = pick(x < -7.9988117f, all(-7.9988117f), x);
  const lanes z = x * x;
  lanes p = all(-2.76076847742355e-16f), q = all(1.19825839466702e-06f);
  p = p * z + 2.00018790482477e-13f;
  p = p * z - 8.60467152213735e-11f;
  p = p * z + 5.12229709037114e-08f;
  p = p * z + 1.48572235717979e-05f;
  p = p * z + 6.37261928875436e-04f;
  p = p * z + 4.89352455891786e-03f;
  q = q * z + 1.18534705686654e-04f;
  q = q * z + 2.26843463243900e-03f;
  q = q * z + 4.89352518554385e-03f;
  return (fraction){p * x, q};
}

/* ---- regressions ------------------------------------------------------------------------------------------------ */

/* What turns features of pixels into predictions: feature by target, targets filled up to a multiple of TARGETS; and
 * room for the inputs and the features of a block. */
typedef struct {
  float *weight, *linear, *constant, *block, *values;
  int64_t features, regressors, targets, wide;
} predictor;

/* From weights (target, feature), and a linear part (target, regressor) and constants (target) that are taken off;
 * pixels have `inputs` values. All of it is one piece of memory, that of the weights. */
static int prepare(predictor *p, const float *weight, const float *linear, const float *constant, int64_t features,
                   int64_t regressors, int64_t targets, int64_t inputs) {
  const int64_t wide = (targets + TARGETS - 1) / TARGETS * TARGETS, own = wide * (features + regressors + 1);
  float *memory = calloc(own + (inputs + features) * BLOCK, sizeof(float));
  if (!memory) return 1;
  float *block = memory + own;
  *p = (predictor){memory, memory + wide * features, memory + wide * (features + regressors), block,
                   block + inputs * BLOCK, features, regressors, targets, wide};
  for (int64_t t = 0; t < targets; t++) {
    for (int64_t f = 0; f < features; f++) p->weight[f * wide + t] = weight[t * features + f];
    for (int64_t r = 0; linear && r < regressors; r++) p->linear[r * wide + t] = -linear[t * regressors + r];
    p->constant[t] = constant ? -constant[t] : 0.0f;
  }
  return 0;
}

/* `count` values (value, BLOCK) times weights (value, wide), added to predictions. */
INLINE void weighed(lanes sums[TARGETS][2], const float *values, const float *weight, int64_t count, int64_t wide) {
  for (int64_t f = 0; f < count; f++) {
    const lanes a = load(values + f * BLOCK), b = load(values + f * BLOCK + LANES);
    for (int t = 0; t < TARGETS; t++) {
      const float w = weight[f * wide + t];
      sums[t][0] += w * a;
      sums[t][1] += w * b;
    }
  }
}

/* Predictions of a block from its features and regressors, to planes that begin `plane` floats apart; `count` of its
 * pixels are real. */
static void predict(const predictor *p, const float *features, const float *x, int64_t count, float *out,
                    int64_t plane) {
  for (int64_t first = 0; first < p->wide; first += TARGETS) {
    lanes sums[TARGETS][2];
    for (int t = 0; t < TARGETS; t++) sums[t][0] = sums[t][1] = all(p->constant[first + t]);
    weighed(sums, features, p->weight + first, p->features, p->wide);
    weighed(sums, x, p->linear + first, p->regressors, p->wide);
    for (int t = 0; t < TARGETS && first + t < p->targets; t++) {
      float *to = out + (first + t) * plane;
      if (count == BLOCK)
        store(to, sums[t][0]), store(to + LANES, sums[t][1]);
      else
        for (int64_t i = 0; i < count; i++) to[i] = i < LANES ? sums[t][0][i] : sums[t][1][i - LANES];
    }
  }
}

/* The regressors of a block side by side, zero beyond `count` pixels. */
static void take(const float *x, int64_t regressors, int64_t pixels, int64_t count, float *block) {
  for (int64_t r = 0; r < regressors; r++) {
    if (count < BLOCK) memset(block + r * BLOCK, 0, BLOCK * sizeof(float));
    memcpy(block + r * BLOCK, x + r * pixels, count * sizeof(float));
  }
}

/* out = weight cos(frequency x + phase) - linear x - constant, for x (regressor, pixel) and out (target, pixel).
 *
 * Frequencies (feature, regressor) and phases (feature) are given in whole turns; targets begin `plane` floats apart. */
int hsf_fourier(const float *x, int64_t regressors, int64_t pixels, const float *frequency, const float *phase,
                int64_t features, const float *weight, const float *linear, const float *constant, int64_t targets,
                float *out, int64_t plane) {
  predictor p;
  if (prepare(&p, weight, linear, constant, features, regressors, targets, regressors)) return 1;
  float *block = p.block, *values = p.values;
  for (int64_t at = 0; at < pixels; at += BLOCK) {
    const int64_t count = least(pixels - at, BLOCK);
    take(x + at, regressors, pixels, count, block);
    for (int64_t f = 0; f < features; f++) {
      lanes a = all(phase[f]), b = a;
      for (int64_t r = 0; r < regressors; r++) {
        const float w = frequency[f * regressors + r];
        a += w * load(block + r * BLOCK);
        b += w * load(block + r * BLOCK + LANES);
      }
      store(values + f * BLOCK, cosine(a));
      store(values + f * BLOCK + LANES, cosine(b));
    }
    predict(&p, values, block, count, out + at, plane);
  }
  free(p.weight);
  return 0;
}

/* Linear predictions of classes, weighed by a softmax of scores: the share of class c is that of
 * exp(centre[c] . x + level[c]), its prediction weight[c] . (x, 1). x is (regressor, pixel), out (target, pixel);
 * weights are (target, class, regressor + 1); targets begin `plane` floats apart. */
int hsf_classes(const float *x, int64_t regressors, int64_t pixels, const float *centre, const float *level,
                int64_t classes, const float *weight, int64_t targets, float *out, int64_t plane) {
  const int64_t own = regressors + 1, features = classes * own;
  predictor p;
  if (prepare(&p, weight, NULL, NULL, features, 0, targets, regressors)) return 1;
  float *block = p.block, *values = p.values;
  for (int64_t at = 0; at < pixels; at += BLOCK) {
    const int64_t count = least(pixels - at, BLOCK);
    take(x + at, regressors, pixels, count, block);
    for (int64_t j = 0; j < BLOCK; j += LANES) {
      lanes top = all(-3.0e38f), total = {0};
      for (int64_t c = 0; c < classes; c++) { /* shares lie where their product with 1 will */
        lanes score = all(level[c]);
        for (int64_t r = 0; r < regressors; r++) score += centre[c * regressors + r] * load(block + r * BLOCK + j);
        top = pick(score > top, score, top);
        store(values + (c * own + regressors) * BLOCK + j, score);
      }
      for (int64_t c = 0; c < classes; c++) {
        float *share = values + (c * own + regressors) * BLOCK + j;
        const lanes e = exponential(load(share) - top);
        store(share, e);
        total += e;
      }
      for (int64_t c = 0; c < classes; c++) {
        float *first = values + c * own * BLOCK + j;
        const lanes share = load(first + regressors * BLOCK) / total;
        store(first + regressors * BLOCK, share);
        for (int64_t r = 0; r < regressors; r++) store(first + r * BLOCK, share * load(block + r * BLOCK + j));
      }
    }
    predict(&p, values, block, count, out + at, plane);
  }
  free(p.weight);
  return 0;
}

/* ---- gate ------------------------------------------------------------------------------------------------------- */

#define CHUNK 256 /* pixels of a plane at a time: long enough for the processor to read ahead */

/* Some pixels of a plane; of the last ones a copy, filled up with zeros. */
INLINE const float *chunk_of(const float *from, int64_t count, float *copy) {
  if (count >= CHUNK) return from;
  memset(copy, 0, CHUNK * sizeof(float));
  return memcpy(copy, from, count * sizeof(float));
}

/* Ask for some pixels of a plane before they are needed: pieces of planes are too short for the processor to see what
 * comes next. */
INLINE void announce(const float *from, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(from + i);
}

/* The compressed components of an image (component, pixel) that are present, each CHUNK pixels. */
static void compress(const float *image, int64_t plane, int64_t count, const int64_t *present, int64_t number,
                     float *to) {
  float copy[CHUNK];
  for (int64_t k = 0; k < number; k++) {
    const float *from = chunk_of(image + present[k] * plane, count, copy);
    if (k + 1 < number) announce(image + present[k + 1] * plane, count);
    for (int64_t i = 0; i < CHUNK; i += LANES) store(to + k * CHUNK + i, compressed(load(from + i)));
  }
}

/* Sums over components of products of two compressed images, times `share`. */
INLINE void products(const float *one, const float *other, int64_t number, float share, int64_t i, lanes sums[2]) {
  sums[0] = sums[1] = (lanes){0};
  for (int64_t k = i; k < number * CHUNK + i; k += CHUNK)
    for (int j = 0; j < 2; j++) sums[j] += load(one + k + j * LANES) * load(other + k + j * LANES);
  for (int j = 0; j < 2; j++) sums[j] *= share;
}

/* Rows of pixels with their channels side by side, as convolutions read them, in float32 or in bfloat16. */
typedef struct {
  void *first;
  int64_t cols, row, channels; /* pixels of a row, pixels from one row to the next, values of a pixel */
  int half;
} interleaved;

/* To bfloat16: the nearest, ties to even. */
INLINE void halve(const float *line, uint16_t *to) {
  for (int64_t i = 0; i < CHUNK; i += LANES) {
    const whole bits = (whole)load(line + i), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *(narrow *)(to + i) = __builtin_convertvector(rounded, narrow);
  }
}

/* Some channels of `count` pixels from `at` on, counted from the first through all rows: `lines` holds CHUNK pixels of
 * each, one behind the other, which go to the channels `where`. Pixel by pixel: a channel at a time would come back to
 * every pixel's memory after it has left the cache. */
static void interleave(const interleaved *to, const void *lines, const int64_t *where, int64_t number, int64_t at,
                       int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    const int64_t offset = ((at + i) / to->cols * to->row + (at + i) % to->cols) * to->channels;
    if (to->half) {
      const uint16_t *from = (const uint16_t *)lines + i;
      uint16_t *target = (uint16_t *)to->first + offset;
      for (int64_t c = 0; c < number; c++) target[where[c]] = from[c * CHUNK];
    } else {
      const float *from = (const float *)lines + i;
      float *target = (float *)to->first + offset;
      for (int64_t c = 0; c < number; c++) target[where[c]] = from[c * CHUNK];
    }
  }
}

/* What the gate sees of a state (component, pixel) and of experts' outputs (expert, component, pixel): of all their
 * compressed components that are `present`, logarithms of mean squares and compressed mean products with some experts,
 * which are `compared` where they are not negative.
 *
 * Images that go in are parts of planes, which begin `state_plane` and `plane` floats apart. Of `experts` only those
 * that are `asked` are looked at. Channels of out: (1 + experts) * (1 + others), for the state first, then the experts;
 * those of experts that are not asked stay as they are. Pixels lie in rows of `cols`, in out `row` pixels apart. */
int hsf_gate_features(const float *state, const float *outputs, int64_t experts, const int64_t *asked, int64_t count,
                      int64_t components, int64_t pixels, int64_t state_plane, int64_t plane, const int64_t *present,
                      int64_t number, const int64_t *compared, int64_t others, void *out, int64_t cols, int64_t row,
                      int64_t channels, int32_t half) {
  const int64_t images = experts + 1, size = number * CHUNK, most = (count + 1) * (others + 1);
  const interleaved to = {out, cols, row, channels, half};
  float *memory = malloc(((others + 1) * size + (most + 1) * CHUNK) * sizeof(float));
  int64_t *where = malloc(most * sizeof(int64_t));
  if (!memory || !where) {
    free(memory), free(where);
    return 1;
  }
  float *own = memory + others * size, *line = own + size, *lines = line + CHUNK;
  const float share = 1.0f / (float)(number > 0 ? number : 1);
  for (int64_t at = 0; at < pixels; at += CHUNK) {
    const int64_t some = least(pixels - at, CHUNK);
    int64_t made = 0;
    for (int64_t o = 0; o < others; o++)
      if (compared[o] >= 0)
        compress(outputs + compared[o] * components * plane + at, plane, some, present, number, memory + o * size);
    for (int64_t n = 0; n <= count; n++) {
      const int64_t image = n ? asked[n - 1] + 1 : 0;
      const float *from = n ? outputs + asked[n - 1] * components * plane : state;
      compress(from + at, n ? plane : state_plane, some, present, number, own);
      if (n < count) announce(outputs + (asked[n] * components + present[0]) * plane + at, some);
      for (int64_t o = -1; o < others; o++) {
        if (o >= 0 && compared[o] < 0) continue;
        float *to_line = half ? line : lines + made * CHUNK;
        for (int64_t i = 0; i < CHUNK; i += BLOCK) {
          lanes sums[2];
          products(own, o < 0 ? own : memory + o * size, number, share, i, sums);
          for (int j = 0; j < 2; j++)
            store(to_line + i + j * LANES, o < 0 ? logarithm(sums[j] + 1.0f) : compressed(sums[j]));
        }
        if (half) halve(line, (uint16_t *)lines + made * CHUNK);
        where[made++] = (o + 1) * images + image;
      }
    }
    interleave(&to, lines, where, made, at, some);
  }
  free(memory), free(where);
  return 0;
}

/* Weigh experts' outputs: the sum over those that are `asked` of 2 tanh((a + b slope) / 2) most tanh(output / most),
 * with a and b of `found` (2 * expert, pixel), outputs (expert, component, pixel) whose planes begin `plane` floats
 * apart, slopes by component; out (component, pixel). */
int hsf_gate_applied(const float *found, const float *outputs, const float *slope, int64_t experts,
                     const int64_t *asked, int64_t number, int64_t components, int64_t pixels, int64_t plane,
                     float most, float *out) {
  float *sums = malloc(components * CHUNK * sizeof(float)), copies[3][CHUNK];
  if (!sums) return 1;
  const float unit = 1.0f / most, back = 2.0f * most;
  for (int64_t at = 0; at < pixels; at += CHUNK) {
    const int64_t count = least(pixels - at, CHUNK);
    memset(sums, 0, components * CHUNK * sizeof(float));
    for (int64_t n = 0; n < number; n++) {
      const int64_t e = asked[n];
      const float *common = chunk_of(found + e * pixels + at, count, copies[0]),
                  *sloped = chunk_of(found + (experts + e) * pixels + at, count, copies[1]);
      for (int64_t k = 0; k < components; k++) {
        const int64_t next = k + 1 < components ? e * components + k + 1 : n + 1 < number ? asked[n + 1] * components : -1;
        const float *said = chunk_of(outputs + (e * components + k) * plane + at, count, copies[2]);
        if (next >= 0) announce(outputs + next * plane + at, count);
        float *sum = sums + k * CHUNK;
        for (int64_t i = 0; i < CHUNK; i += LANES) {
          const fraction weight = tangent(0.5f * (load(common + i) + load(sloped + i) * slope[k])),
                         limited = tangent(load(said + i) * unit);
          store(sum + i, load(sum + i) + weight.above * limited.above / (weight.below * limited.below));
        }
      }
    }
    for (int64_t k = 0; k < components; k++) {
      float *sum = sums + k * CHUNK;
      for (int64_t i = 0; i < CHUNK; i += LANES) store(sum + i, load(sum + i) * back);
      memcpy(out + k * pixels + at, sum, count * sizeof(float));
    }
  }
  free(sums);
  return 0;
}
