/* Mamba-2 block, inference: layer norm, projection, causal convolution, scan, gated norm, projection, residual.
 *
 * Plain C with the vector extensions of GCC and Clang; the width of a vector follows the instruction set that the
 * compiler is told to use. Sequences are given by strides, so rows, columns and reversed lines of an image need no
 * copy. A sequence is worked off in blocks of TOKENS tokens that stay in the second-level cache.
 *
 * The scan steps through the recurrence itself. For the head widths and state sizes of these networks that needs
 * no more arithmetic than the chunked form with matrix products, no decay masks, and it rounds less.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8 /* rows and vectors of the matrix product's register block */
#define VECS 3
#define STEPS 4 /* tokens for which the scan keeps a piece of the state in registers */
#elif defined(__AVX__)
#define LANES 8
#define ROWS 4
#define VECS 3
#define STEPS 2
#else
#define LANES 4
#define ROWS 4
#define VECS 2
#define STEPS 2
#endif

#define HALF_VECS 4 /* of a block of the product in bfloat16 */
#define TOKENS 48
#define TAPS 4
#define ALIGNMENT 64
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Everything about one block; the packed matrices come from hsf_pack. Mirrored by a ctypes.Structure. */
typedef struct {
  int32_t width, inner, state, headdim, residual, has_norm;
  float ln_eps, rms_eps;
  const float *ln_weight, *ln_bias;
  const float *w_in, *w_out;            /* packed */
  const float *conv_weight, *conv_bias; /* (tap, channel), (channel) */
  const float *dt_bias, *decay, *skip;  /* per head; decay is negative */
  const float *rms_weight;
  const uint16_t *w_in_half, *w_out_half; /* packed as bfloat16 pairs, or null: products in float32 */
} hsf_block;

/* Where the tokens of n_seq sequences lie, in elements. */
typedef struct {
  int64_t n_seq, length;
  int64_t in_seq, in_token, out_seq, out_token;
  int32_t half; /* 0: float32, 1: bfloat16 */
} hsf_layout;

INLINE vf load(const float *p) { return *(const vf *)p; }
INLINE void store(float *p, vf x) { *(vf *)p = x; }
INLINE vf all(float x) { return x - (vf){0}; }
INLINE vf pick(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }

INLINE vf load_half(const uint16_t *p) {
  vu wide = __builtin_convertvector(*(const vh *)p, vu) << 16;
  return (vf)wide;
}

INLINE void store_half(uint16_t *p, vf x) { /* round to nearest, ties to even */
#if defined(__AVX512BF16__)
  __m256bh half = _mm512_cvtneps_pbh((__m512)x);
  memcpy(p, &half, sizeof half);
#else
  vu bits = (vu)x;
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  *(vh *)p = __builtin_convertvector(bits, vh);
#endif
}

INLINE float sum(vf x) { /* in pairs: a chain of additions would wait for each */
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float part[LANES];
  for (int i = 0; i < LANES; i++) part[i] = x[i];
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  return part[0];
#endif
}

/* exp(x) for x in [-87, 88], clamped outside; relative error below 2e-7. */
INLINE vf vexp(vf x) {
  const vf low = all(-87.0f), high = all(88.0f);
#if defined(__AVX512F__)
  x = (vf)_mm512_max_ps((__m512)low, _mm512_min_ps((__m512)high, (__m512)x));
  vf k = (vf)_mm512_roundscale_ps((__m512)(x * 1.44269504f), 0);
#else
  const vf magic = all(12582912.0f);
  x = pick(x < low, low, x);
  x = pick(x > high, high, x);
  vf k = x * 1.44269504f + magic;
  vi power = (vi)k << 23;
  k -= magic;
#endif
  vf r = x - k * 0.693359375f + k * 2.12194440e-4f;
  vf p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
#if defined(__AVX512F__)
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)k);
#else
  return (vf)((vi)p + power);
#endif
}

INLINE vf silu(vf x) {
  vf d = 1.0f + vexp(-x);
#if defined(__AVX512F__)
  /* A division takes longer than an estimate and one step of Newton's, which is as good as float32 goes. */
  vf r = (vf)_mm512_rcp14_ps((__m512)d);
  r = r + r * (1.0f - d * r);
  return x * r;
#else
  return x / d;
#endif
}

/* 1 / (1 + exp(-x)) to a relative error of 1e-4, a fortieth of a bfloat16's last place, in half the operations. */
INLINE vf sigmoid_rough(vf x) {
#if defined(__AVX512F__)
  const __m512 t = _mm512_mul_ps((__m512)x, _mm512_set1_ps(-1.44269504f));
  const vf f = (vf)_mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF); /* t - floor(t) */
  vf p = all(7.8024537e-2f);
  p = p * f + 2.2606720e-1f;
  p = p * f + 6.9583349e-1f;
  p = p * f + 9.9992523e-1f;
  const vf d = 1.0f + (vf)_mm512_scalef_ps((__m512)p, t);
  return (vf)_mm512_rcp14_ps((__m512)d);
#else
  return 1.0f / (1.0f + vexp(-x));
#endif
}

INLINE vf silu_rough(vf x) { return x * sigmoid_rough(x); }

/* log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), the latter by the series of 2 atanh(t / (2 + t)). */
INLINE vf softplus(vf x) {
  vf positive = pick(x > 0.0f, x, all(0.0f));
  vf t = vexp(pick(x > 0.0f, -x, x));
  vf s = t / (2.0f + t), q = s * s;
  vf p = all(1.0f / 15.0f);
  p = p * q + 1.0f / 13.0f;
  p = p * q + 1.0f / 11.0f;
  p = p * q + 1.0f / 9.0f;
  p = p * q + 1.0f / 7.0f;
  p = p * q + 1.0f / 5.0f;
  p = p * q + 1.0f / 3.0f;
  p = p * q + 1.0f;
  return positive + 2.0f * s * p;
}

/* c (ROWS x vecs vectors) = a (ROWS x depth) times one packed panel (depth x vecs vectors). */
INLINE void panel_product(const float *a, int64_t lda, const float *w, int depth, float *c, int64_t ldc, int vecs) {
  vf acc[ROWS][VECS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < vecs; j++) acc[i][j] = (vf){0};
  for (int k = 0; k < depth; k++) {
    vf row[VECS];
    for (int j = 0; j < vecs; j++) row[j] = load(w + (k * vecs + j) * LANES);
    for (int i = 0; i < ROWS; i++)
      for (int j = 0; j < vecs; j++) acc[i][j] += a[i * lda + k] * row[j];
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < vecs; j++) store(c + i * ldc + j * LANES, acc[i][j]);
}

/* c = a times a packed matrix of `columns` columns (a multiple of LANES); rows is a multiple of ROWS. */
static void product(const float *a, int64_t lda, const float *w, int depth, int columns, float *c, int64_t ldc,
                    int rows) {
  for (int first = 0; first < columns; first += VECS * LANES) {
    int vecs = (columns - first) / LANES;
    for (int i = 0; i < rows; i += ROWS) {
      const float *from = a + i * lda;
      float *to = c + i * ldc + first;
      if (vecs >= VECS)
        panel_product(from, lda, w, depth, to, ldc, VECS);
      else if (vecs == 2)
        panel_product(from, lda, w, depth, to, ldc, 2);
      else
        panel_product(from, lda, w, depth, to, ldc, 1);
    }
    w += (int64_t)depth * LANES * (vecs >= VECS ? VECS : vecs);
  }
}

static int round_up(int value, int step) { return (value + step - 1) / step * step; }

#if defined(__AVX512BF16__)
/* As panel_product, with bfloat16 factors: two steps along the depth at once. Blocks of any width have 24 sums. */
INLINE void panel_product_half(const uint16_t *a, int64_t lda, const uint16_t *w, int depth, float *c, int64_t ldc,
                               int vecs) {
  const int rows = 24 / vecs;
  __m512 acc[24];
  for (int i = 0; i < 24; i++) acc[i] = _mm512_setzero_ps();
  for (int k = 0; k < depth; k += 2) {
    __m512bh row[HALF_VECS];
    for (int j = 0; j < vecs; j++) row[j] = (__m512bh)_mm512_loadu_si512(w + (k * vecs + 2 * j) * LANES);
#pragma GCC unroll 24 /* else a block of one vector keeps its sums in memory */
    for (int i = 0; i < rows; i++) {
      int32_t pair;
      memcpy(&pair, a + i * lda + k, sizeof pair);
      __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
      for (int j = 0; j < vecs; j++) acc[i * vecs + j] = _mm512_dpbf16_ps(acc[i * vecs + j], both, row[j]);
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vecs; j++) _mm512_storeu_ps(c + i * ldc + j * LANES, acc[i * vecs + j]);
}

/* As product; a and c have room for rows rounded up to HALF_ROWS. */
static void product_half(const uint16_t *a, int64_t lda, const uint16_t *w, int depth, int columns, float *c,
                         int64_t ldc, int rows) {
  for (int first = 0; first < columns; first += HALF_VECS * LANES) {
    const int left = (columns - first) / LANES, vecs = left < HALF_VECS ? left : HALF_VECS;
    for (int i = 0; i < rows; i += 24 / vecs) {
      const uint16_t *from = a + i * lda;
      float *to = c + i * ldc + first;
      if (vecs == 4)
        panel_product_half(from, lda, w, depth, to, ldc, 4);
      else if (vecs == 3)
        panel_product_half(from, lda, w, depth, to, ldc, 3);
      else if (vecs == 2)
        panel_product_half(from, lda, w, depth, to, ldc, 2);
      else
        panel_product_half(from, lda, w, depth, to, ldc, 1);
    }
    w += (int64_t)depth * LANES * vecs;
  }
}

static void narrow(const float *x, int64_t count, uint16_t *to) {
  for (int64_t i = 0; i < count; i += LANES) store_half(to + i, load(x + i));
}
#endif

/* Whether products of bfloat16 factors are faster here than those of float32. */
int hsf_has_half_product(void) {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}

int hsf_lanes(void) { return LANES; }

/* Floats that hsf_pack writes for a (depth x columns) matrix. */
int64_t hsf_packed_size(int32_t depth, int32_t columns) { return (int64_t)depth * round_up(columns, LANES); }

/* Pack w, given as (columns, depth) like the weight of a linear layer, into panels; zero where padded. */
void hsf_pack(const float *w, int32_t depth, int32_t columns, float *packed) {
  int padded = round_up(columns, LANES);
  for (int first = 0; first < padded; first += VECS * LANES) {
    int wide = padded - first < VECS * LANES ? padded - first : VECS * LANES;
    for (int k = 0; k < depth; k++)
      for (int j = 0; j < wide; j++) *packed++ = first + j < columns ? w[(int64_t)(first + j) * depth + k] : 0.0f;
  }
}

/* Pack w (columns, depth), given as bfloat16, into panels of pairs along an even depth. */
void hsf_pack_half(const uint16_t *w, int32_t depth, int32_t columns, uint16_t *packed) {
  int padded = round_up(columns, LANES);
  for (int first = 0; first < padded; first += HALF_VECS * LANES) {
    int wide = padded - first < HALF_VECS * LANES ? padded - first : HALF_VECS * LANES;
    for (int k = 0; k < depth; k += 2)
      for (int j = 0; j < wide; j++)
        for (int half = 0; half < 2; half++)
          *packed++ = first + j < columns ? w[(int64_t)(first + j) * depth + k + half] : 0;
  }
}

/* The recurrence for `vecs` vectors of one head's channels over one block of tokens. */
INLINE void scan_piece(float *state, int64_t state_stride, int n_state, const float *x, int64_t ldx, const float *b,
                       const float *c, int64_t ldv, const float *step, const float *fade, int n_head, float skip,
                       float *y, int64_t ldy, int tokens, int vecs) {
  for (int t = 0; t < tokens; t += STEPS) {
    vf in[STEPS][2], out[STEPS][2];
    float keep[STEPS];
    for (int s = 0; s < STEPS; s++) {
      keep[s] = fade[(t + s) * n_head];
      for (int j = 0; j < vecs; j++) {
        vf value = load(x + (t + s) * ldx + j * LANES);
        out[s][j] = value * skip;
        in[s][j] = value * step[(t + s) * n_head];
      }
    }
    const float *bt = b + t * ldv, *ct = c + t * ldv;
    for (int n = 0; n < n_state; n++) {
      vf h[2];
      for (int j = 0; j < vecs; j++) h[j] = load(state + n * state_stride + j * LANES);
      for (int s = 0; s < STEPS; s++) {
        float bn = bt[s * ldv + n], cn = ct[s * ldv + n];
        for (int j = 0; j < vecs; j++) {
          h[j] = h[j] * keep[s] + bn * in[s][j];
          out[s][j] += cn * h[j];
        }
      }
      for (int j = 0; j < vecs; j++) store(state + n * state_stride + j * LANES, h[j]);
    }
    for (int s = 0; s < STEPS; s++)
      for (int j = 0; j < vecs; j++) store(y + (t + s) * ldy + j * LANES, out[s][j]);
  }
}

/* As scan_piece, with two operations for each value of the state and token instead of three: within STEPS tokens
 * the state is kept in units of the decay since their start. `grow` is the step over that decay, `fade` the decay.
 */
INLINE void scan_scaled(float *state, int64_t state_stride, int n_state, const float *x, int64_t ldx, const float *b,
                        const float *c, int64_t ldv, const float *grow, const float *fade, int n_head, float skip,
                        float *y, int64_t ldy, int tokens, int vecs) {
  for (int t = 0; t < tokens; t += STEPS) {
    vf in[STEPS][2], out[STEPS][2];
    for (int s = 0; s < STEPS; s++)
      for (int j = 0; j < vecs; j++) {
        in[s][j] = load(x + (t + s) * ldx + j * LANES) * grow[(t + s) * n_head];
        out[s][j] = (vf){0};
      }
    const float *bt = b + t * ldv, *ct = c + t * ldv;
    const float last = fade[(t + STEPS - 1) * n_head];
    for (int n = 0; n < n_state; n++) {
      vf h[2];
      for (int j = 0; j < vecs; j++) h[j] = load(state + n * state_stride + j * LANES);
      for (int s = 0; s < STEPS; s++) {
        float bn = bt[s * ldv + n], cn = ct[s * ldv + n];
        for (int j = 0; j < vecs; j++) {
          h[j] += bn * in[s][j];
          out[s][j] += cn * h[j];
        }
      }
      for (int j = 0; j < vecs; j++) store(state + n * state_stride + j * LANES, h[j] * last);
    }
    for (int s = 0; s < STEPS; s++)
      for (int j = 0; j < vecs; j++)
        store(y + (t + s) * ldy + j * LANES,
              out[s][j] * fade[(t + s) * n_head] + load(x + (t + s) * ldx + j * LANES) * skip);
  }
}

typedef struct {
  float *x;      /* TOKENS x width: input, normalised */
  float *proj;   /* (TOKENS + TAPS - 1) x columns: z, x, B, C, dt; the first rows are the previous block's last */
  float *mixed;  /* TOKENS x (inner + 2 state): after convolution */
  float *y;      /* TOKENS x inner */
  float *out;    /* TOKENS x width */
  float *step;   /* TOKENS x head */
  float *fade;   /* TOKENS x head */
  float *grow;   /* TOKENS x head */
  float *state;  /* state x inner */
  uint16_t *half; /* TOKENS x inner: factors of a product in bfloat16 */
} workspace;

/* a (tokens x depth) times a packed matrix, in bfloat16 where it is packed so. */
static void project(const workspace *w, const float *a, int depth, const float *matrix, const uint16_t *matrix_half,
                    int columns, float *c, int64_t ldc, int tokens) {
#if defined(__AVX512BF16__)
  if (matrix_half) {
    narrow(a, (int64_t)tokens * depth, w->half);
    product_half(w->half, depth, matrix_half, depth, columns, c, ldc, tokens);
    return;
  }
#else
  (void)w;
  (void)matrix_half;
#endif
  product(a, depth, matrix, depth, columns, c, ldc, tokens);
}

static void fetch(const hsf_block *p, const hsf_layout *at, const void *from, int count, float *x, int tokens) {
  const int width = p->width;
  for (int t = 0; t < count; t++) {
    float *row = x + (int64_t)t * width;
    if (at->half) {
      const uint16_t *source = (const uint16_t *)from + t * at->in_token;
      for (int i = 0; i < width; i += LANES) store(row + i, load_half(source + i));
    } else {
      const float *source = (const float *)from + t * at->in_token;
      for (int i = 0; i < width; i += LANES) store(row + i, load(source + i));
    }
    if (!p->has_norm) continue;
    vf total = (vf){0};
    for (int i = 0; i < width; i += LANES) total += load(row + i);
    float mean = sum(total) / width;
    vf squares = (vf){0};
    for (int i = 0; i < width; i += LANES) {
      vf d = load(row + i) - mean;
      squares += d * d;
    }
    float scale = 1.0f / __builtin_sqrtf(sum(squares) / width + p->ln_eps);
    for (int i = 0; i < width; i += LANES)
      store(row + i, (load(row + i) - mean) * scale * load(p->ln_weight + i) + load(p->ln_bias + i));
  }
  memset(x + (int64_t)count * width, 0, sizeof(float) * width * (tokens - count));
}

static void emit(const hsf_block *p, const hsf_layout *at, const void *from, void *to, int count, const float *out) {
  const int width = p->width;
  for (int t = 0; t < count; t++) {
    const float *row = out + (int64_t)t * width;
    if (at->half) {
      const uint16_t *source = (const uint16_t *)from + t * at->in_token;
      uint16_t *target = (uint16_t *)to + t * at->out_token;
      for (int i = 0; i < width; i += LANES) {
        vf value = load(row + i);
        if (p->residual) value += load_half(source + i);
        store_half(target + i, value);
      }
    } else {
      const float *source = (const float *)from + t * at->in_token;
      float *target = (float *)to + t * at->out_token;
      for (int i = 0; i < width; i += LANES) {
        vf value = load(row + i);
        if (p->residual) value += load(source + i);
        store(target + i, value);
      }
    }
  }
}

/* Convolution and SiLU of x, B and C; then keep the last rows for the next block. */
INLINE void convolve(const hsf_block *p, float *proj, int64_t columns, int count, float *mixed, int tokens,
                     int half) {
  const int channels = p->inner + 2 * p->state;
  for (int i = 0; i < channels; i += LANES) {
    const float *row = proj + p->inner + i;
    vf tap[TAPS], near[TAPS];
    for (int k = 0; k < TAPS; k++) tap[k] = load(p->conv_weight + k * channels + i);
    for (int k = 1; k < TAPS; k++) near[k] = load(row + (k - 1) * columns);
    const vf bias = load(p->conv_bias + i);
    for (int t = 0; t < tokens; t++) {
      vf value = bias;
      for (int k = 0; k < TAPS - 1; k++) near[k] = near[k + 1];
      near[TAPS - 1] = load(row + (t + TAPS - 1) * columns);
      for (int k = 0; k < TAPS; k++) value += near[k] * tap[k];
      store(mixed + (int64_t)t * channels + i, half ? silu_rough(value) : silu(value));
    }
  }
  for (int k = 0; k < TAPS - 1; k++)
    memmove(proj + k * columns + p->inner, proj + (count + k) * columns + p->inner, sizeof(float) * channels);
}

/* Decays below this, since the start of STEPS tokens, are too steep to divide by. */
#define STEEPEST -60.0f

static void scan(const hsf_block *p, const workspace *w, const float *dt, int64_t columns, int count, int tokens) {
  const int heads = p->inner / p->headdim, channels = p->inner + 2 * p->state, steps = tokens * heads;
  for (int t = 0; t < tokens; t++)
    for (int h = 0; h < heads; h++) w->step[t * heads + h] = dt[t * columns + h] + p->dt_bias[h];
  for (int i = 0; i < steps; i += LANES) store(w->step + i, softplus(load(w->step + i)));
  /* Beyond the sequence's end nothing may happen to the state. */
  memset(w->step + count * heads, 0, sizeof(float) * (tokens - count) * heads);
  float lowest = 0.0f;
  for (int t = 0; t < tokens; t++)
    for (int h = 0; h < heads; h++) {
      const float before = t % STEPS ? w->fade[(t - 1) * heads + h] : 0.0f;
      const float now = before + w->step[t * heads + h] * p->decay[h];
      w->fade[t * heads + h] = now;
      lowest = now < lowest ? now : lowest;
    }
  const int steep = !(lowest > STEEPEST);
  if (steep)
    for (int t = 0; t < tokens; t++)
      for (int h = 0; h < heads; h++) w->fade[t * heads + h] = w->step[t * heads + h] * p->decay[h];
  for (int i = 0; i < steps; i += LANES) {
    const vf passed = load(w->fade + i);
    store(w->fade + i, vexp(passed));
    if (!steep) store(w->grow + i, load(w->step + i) * vexp(-passed));
  }

  const float *b = w->mixed + p->inner, *c = b + p->state;
  const int pair = p->headdim % (2 * LANES) == 0;
  for (int first = 0; first < p->inner; first += pair ? 2 * LANES : LANES) {
    int h = first / p->headdim;
    float *state = w->state + first, *y = w->y + first;
    const float *x = w->mixed + first;
    if (steep && pair)
      scan_piece(state, p->inner, p->state, x, channels, b, c, channels, w->step + h, w->fade + h, heads, p->skip[h], y,
                 p->inner, tokens, 2);
    else if (steep)
      scan_piece(state, p->inner, p->state, x, channels, b, c, channels, w->step + h, w->fade + h, heads, p->skip[h], y,
                 p->inner, tokens, 1);
    else if (pair)
      scan_scaled(state, p->inner, p->state, x, channels, b, c, channels, w->grow + h, w->fade + h, heads, p->skip[h],
                  y, p->inner, tokens, 2);
    else
      scan_scaled(state, p->inner, p->state, x, channels, b, c, channels, w->grow + h, w->fade + h, heads, p->skip[h],
                  y, p->inner, tokens, 1);
  }
}

/* y <- normalised y . silu(z) */
INLINE void gate(const hsf_block *p, const float *z, int64_t columns, float *y, int count, int half) {
  for (int t = 0; t < count; t++) {
    float *row = y + (int64_t)t * p->inner;
    vf squares = (vf){0};
    for (int i = 0; i < p->inner; i += LANES) {
      const vf open = load(z + t * columns + i);
      vf value = load(row + i) * (half ? silu_rough(open) : silu(open));
      squares += value * value;
      store(row + i, value);
    }
    float scale = 1.0f / __builtin_sqrtf(sum(squares) / p->inner + p->rms_eps);
    for (int i = 0; i < p->inner; i += LANES) store(row + i, load(row + i) * scale * load(p->rms_weight + i));
  }
}

/* Ask for the tokens of the next block: along columns of an image each lies in another page, which no processor
 * foresees. */
static void foresee(const char *from, int64_t step, int count, int64_t bytes) {
  for (int t = 0; t < count; t++)
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + t * step + i);
}

static float *take(char **cursor, int64_t floats) {
  float *start = (float *)*cursor;
  *cursor += (floats * (int64_t)sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return start;
}

INLINE int32_t run_block(const hsf_block *p, const hsf_layout *at, const void *u, void *out, int half) {
  const int heads = p->inner / p->headdim, channels = p->inner + 2 * p->state;
  const int columns = round_up(p->inner + channels + heads, LANES);
  const int64_t room = (int64_t)TOKENS * (2 * p->width + channels + 2 * p->inner + 3 * (heads + LANES)) +
                       (int64_t)(TOKENS + TAPS) * columns + (int64_t)p->state * p->inner + 16 * ALIGNMENT;
  void *memory;
  if (posix_memalign(&memory, ALIGNMENT, room * sizeof(float))) return 1;
  char *cursor = memory;
  workspace w;
  w.x = take(&cursor, (int64_t)TOKENS * p->width);
  w.proj = take(&cursor, (int64_t)(TOKENS + TAPS - 1) * columns);
  w.mixed = take(&cursor, (int64_t)TOKENS * channels);
  w.y = take(&cursor, (int64_t)TOKENS * p->inner);
  w.out = take(&cursor, (int64_t)TOKENS * p->width);
  w.step = take(&cursor, (int64_t)TOKENS * heads + LANES);
  w.fade = take(&cursor, (int64_t)TOKENS * heads + LANES);
  w.grow = take(&cursor, (int64_t)TOKENS * heads + LANES);
  w.state = take(&cursor, (int64_t)p->state * p->inner);
  w.half = (uint16_t *)take(&cursor, (int64_t)TOKENS * (p->inner > p->width ? p->inner : p->width) / 2);
  float *body = w.proj + (int64_t)(TAPS - 1) * columns;
  const int64_t size = half ? 2 : 4;
  for (int64_t s = 0; s < at->n_seq; s++) {
    memset(w.state, 0, sizeof(float) * p->state * p->inner);
    memset(w.proj, 0, sizeof(float) * (TAPS - 1) * columns);
    for (int64_t t = 0; t < at->length; t += TOKENS) {
      const int count = at->length - t < TOKENS ? (int)(at->length - t) : TOKENS;
      const int tokens = round_up(count, ROWS); /* what is beyond the end is computed and left out */
      const char *from = (const char *)u + (s * at->in_seq + t * at->in_token) * size;
      char *to = (char *)out + (s * at->out_seq + t * at->out_token) * size;
      fetch(p, at, from, count, w.x, tokens);
      const int64_t left = at->length - t - count, ahead = left < TOKENS ? left : TOKENS;
      foresee(from + count * at->in_token * size, at->in_token * size, (int)ahead, p->width * size);
      foresee(to, at->out_token * size, count, p->width * size);
      project(&w, w.x, p->width, p->w_in, half ? p->w_in_half : 0, columns, body, columns, tokens);
      convolve(p, w.proj, columns, count, w.mixed, tokens, half);
      scan(p, &w, body + p->inner + channels, columns, count, tokens);
      gate(p, body, columns, w.y, tokens, half);
      project(&w, w.y, p->inner, p->w_out, half ? p->w_out_half : 0, p->width, w.out, p->width, tokens);
      emit(p, at, from, to, count, w.out);
    }
  }
  free(memory);
  return 0;
}

/* Run the block over all sequences. Returns 0, or 1 when there is no memory. */
int32_t hsf_mamba2(const hsf_block *p, const hsf_layout *at, const void *u, void *out) {
  return at->half ? run_block(p, at, u, out, 1) : run_block(p, at, u, out, 0);
}
