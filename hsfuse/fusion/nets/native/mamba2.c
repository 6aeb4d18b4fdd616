/* Mamba-2 block, inference: layer norm, projection, causal convolution, scan, gated norm, projection, residual.
 *
 * Plain C with the vector extensions of GCC and Clang; the width of a vector follows the instruction set that the
 * compiler may use. Sequences are given by strides, so rows, columns and reversed lines of an image need no
 * copy. A sequence is worked off in blocks of TOKENS tokens that stay in the second-level cache.
 *
 * The scan steps through the recurrence itself: in float32, for the head widths and state sizes of these networks,
 * that needs no more arithmetic than the chunked form with matrix products, no decay masks, and it rounds less. Where
 * pairs of bfloat16 are multiplied at once, short chunks need a third less (scan_half.h).
 */

#include "vectors.h"
#include "product.h"
#include "scan_half.h"

#define TOKENS 48
#define TAPS 4
_Static_assert(TOKENS % SUMS == 0, "a product may write so many rows");

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
  float *rise;   /* TOKENS / CHUNK x head */
  float *pending; /* head: what the state is still to be multiplied by */
  uint16_t *half; /* TOKENS x inner: factors of a product in bfloat16 */
#if defined(__AVX512BF16__)
  hsf_shared shared;
#endif
} workspace;

/* Values that are the factor of a product next: bfloat16 where that is multiplied so, else float32. */
INLINE void put_factor(float *x, uint16_t *narrow, int64_t i, vf value, int half) {
  if (half && HALF_PRODUCT)
    store_half(narrow + i, value);
  else
    store(x + i, value);
}

/* What put_factor left (tokens x depth) times a packed matrix. */
INLINE void project(const workspace *w, const float *x, int depth, const float *matrix, const uint16_t *matrix_half,
                    int columns, float *c, int64_t ldc, int tokens, int half) {
#if HALF_PRODUCT
  if (half) {
    product_half(w->half, depth, matrix_half, depth, columns, c, ldc, tokens);
    return;
  }
#else
  (void)w;
  (void)matrix_half;
  (void)half;
#endif
  product(x, depth, matrix, depth, columns, c, ldc, tokens);
}

/* Read tokens and normalise them: the first product's factor. */
INLINE void fetch(const hsf_block *p, const workspace *w, const hsf_layout *at, const void *from, int count, int tokens,
                  int half) {
  const int width = p->width;
  for (int t = 0; t < tokens; t++) {
    float *row = w->x + (int64_t)t * width;
    if (t >= count) {
      for (int i = 0; i < width; i += LANES) put_factor(w->x, w->half, (int64_t)t * width + i, (vf){0}, half);
      continue;
    }
    vf total = (vf){0};
    for (int i = 0; i < width; i += LANES) {
      const vf value = half ? load_half((const uint16_t *)from + t * at->in_token + i)
                            : load((const float *)from + t * at->in_token + i);
      total += value;
      store(row + i, value);
      if (!p->has_norm) put_factor(w->x, w->half, (int64_t)t * width + i, value, half);
    }
    if (!p->has_norm) continue;
    float mean = sum(total) / width;
    vf squares = (vf){0};
    for (int i = 0; i < width; i += LANES) {
      vf d = load(row + i) - mean;
      squares += d * d;
    }
    float scale = 1.0f / __builtin_sqrtf(sum(squares) / width + p->ln_eps);
    for (int i = 0; i < width; i += LANES)
      put_factor(w->x, w->half, (int64_t)t * width + i,
                 (load(row + i) - mean) * scale * load(p->ln_weight + i) + load(p->ln_bias + i), half);
  }
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

/* Decays below this, since the start of STEPS tokens or from the middle of a chunk, are too steep to divide by. */
#define STEEPEST -60.0f

enum way { STEPWISE, SCALED, CHUNKED };

/* Sum the logarithms of a head's decays as its way of scanning takes them, and say which way that is. */
INLINE enum way sum_decays(const workspace *w, const float *step, float decay, int heads, int tokens, int chunks) {
  float *passed = w->fade + (step - w->step);
#if defined(__AVX512BF16__)
  int gentle = chunks;
  for (int t = 0; gentle && t < tokens; t += CHUNK) {
    float now = 0.0f;
    for (int s = 0; s < CHUNK; s++) {
      now += step[(t + s) * heads] * decay;
      passed[(t + s) * heads] = now;
    }
    const float middle = 0.5f * now;
    for (int s = 0; s < CHUNK; s++) passed[(t + s) * heads] -= middle;
    w->rise[t / CHUNK * heads + (step - w->step)] = middle;
    gentle = middle > STEEPEST;
  }
  if (gentle) return CHUNKED;
#else
  (void)chunks;
#endif
  float lowest = 0.0f;
  for (int t = 0; t < tokens; t++) {
    const float now = (t % STEPS ? passed[(t - 1) * heads] : 0.0f) + step[t * heads] * decay;
    passed[t * heads] = now;
    lowest = now < lowest ? now : lowest;
  }
  if (lowest > STEEPEST) return SCALED;
  for (int t = 0; t < tokens; t++) passed[t * heads] = step[t * heads] * decay;
  return STEPWISE;
}

INLINE void scan(const hsf_block *p, const workspace *w, const float *dt, int64_t columns, int count, int tokens,
                 int half) {
  const int heads = p->inner / p->headdim, channels = p->inner + 2 * p->state, steps = tokens * heads;
  for (int t = 0; t < tokens; t++)
    for (int h = 0; h < heads; h++) w->step[t * heads + h] = dt[t * columns + h] + p->dt_bias[h];
  for (int i = 0; i < steps; i += LANES) store(w->step + i, softplus(load(w->step + i)));
  /* Beyond the sequence's end nothing may happen to the state. */
  memset(w->step + count * heads, 0, sizeof(float) * (tokens - count) * heads);

  const int pair = p->headdim % (2 * LANES) == 0, chunks = half && pair && p->state % LANES == 0;
  unsigned char way[heads];
  for (int h = 0; h < heads; h++) way[h] = sum_decays(w, w->step + h, p->decay[h], heads, tokens, chunks);
  for (int i = 0; i < steps; i += LANES) {
    const vf passed = load(w->fade + i);
    store(w->fade + i, vexp(passed));
    store(w->grow + i, load(w->step + i) * vexp(-passed));
  }

  const float *b = w->mixed + p->inner, *c = b + p->state;
#if defined(__AVX512BF16__)
  if (chunks) {
    for (int i = 0; i < tokens / CHUNK * heads; i += LANES) store(w->rise + i, vexp(load(w->rise + i)));
    share(&w->shared, b, c, channels, p->state, tokens);
  }
#endif
  for (int h = 0; h < heads; h++) {
    const float *step = w->step + h, *fade = w->fade + h, *grow = w->grow + h;
    float left = 1.0f;
    for (int i = h * p->headdim; i < (h + 1) * p->headdim; i += pair ? 2 * LANES : LANES) {
      float *state = w->state + i, *y = w->y + i;
      const float *x = w->mixed + i;
#if defined(__AVX512BF16__)
      if (way[h] == CHUNKED) {
        left = scan_chunks(state, p->inner, p->state, x, channels, &w->shared, grow, fade, w->rise + h, heads,
                           w->pending[h], p->skip[h], y, p->inner, tokens);
        continue;
      }
#endif
      if (w->pending[h] != 1.0f)
        for (int n = 0; n < p->state; n++)
          for (int j = 0; j < (pair ? 2 * LANES : LANES); j += LANES) {
            float *at = state + (int64_t)n * p->inner + j;
            store(at, load(at) * w->pending[h]);
          }
      if (way[h] == STEPWISE && pair)
        scan_piece(state, p->inner, p->state, x, channels, b, c, channels, step, fade, heads, p->skip[h], y, p->inner,
                   tokens, 2);
      else if (way[h] == STEPWISE)
        scan_piece(state, p->inner, p->state, x, channels, b, c, channels, step, fade, heads, p->skip[h], y, p->inner,
                   tokens, 1);
      else if (pair)
        scan_scaled(state, p->inner, p->state, x, channels, b, c, channels, grow, fade, heads, p->skip[h], y, p->inner,
                    tokens, 2);
      else
        scan_scaled(state, p->inner, p->state, x, channels, b, c, channels, grow, fade, heads, p->skip[h], y, p->inner,
                    tokens, 1);
    }
    w->pending[h] = left;
  }
}

/* Normalised y . silu(z): the second product's factor. */
INLINE void gate(const hsf_block *p, const float *z, int64_t columns, float *y, uint16_t *narrow, int count, int half) {
  for (int t = 0; t < count; t++) {
    const int64_t start = (int64_t)t * p->inner;
    float *row = y + start;
    vf squares = (vf){0};
    for (int i = 0; i < p->inner; i += LANES) {
      const vf open = load(z + t * columns + i);
      vf value = load(row + i) * (half ? silu_rough(open) : silu(open));
      squares += value * value;
      store(row + i, value);
    }
    float scale = 1.0f / __builtin_sqrtf(sum(squares) / p->inner + p->rms_eps);
    for (int i = 0; i < p->inner; i += LANES)
      put_factor(y, narrow, start + i, load(row + i) * scale * load(p->rms_weight + i), half);
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
  const int64_t room = (int64_t)TOKENS * (2 * p->width + channels + 2 * p->inner + 5 * (heads + LANES) + 2 * p->state) +
                       (int64_t)(TOKENS + TAPS) * columns + (int64_t)p->state * p->inner + 24 * ALIGNMENT;
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
  w.rise = take(&cursor, (int64_t)TOKENS * heads + LANES);
  w.pending = take(&cursor, heads);
#if defined(__AVX512BF16__)
  w.shared.b = (two *)take(&cursor, (int64_t)TOKENS / 2 * p->state);
  w.shared.c = (two *)take(&cursor, (int64_t)TOKENS / 2 * p->state);
  w.shared.both = (two *)take(&cursor, (int64_t)TOKENS * CHUNK);
  w.shared.whole = (two *)take(&cursor, (int64_t)MEETING / 2 * p->state);
#endif
  w.half = (uint16_t *)take(&cursor, (int64_t)TOKENS * (p->inner > p->width ? p->inner : p->width) / 2);
  float *body = w.proj + (int64_t)(TAPS - 1) * columns;
  const int64_t size = half ? 2 : 4;
  for (int64_t s = 0; s < at->n_seq; s++) {
    memset(w.state, 0, sizeof(float) * p->state * p->inner);
    for (int h = 0; h < heads; h++) w.pending[h] = 1.0f;
    memset(w.proj, 0, sizeof(float) * (TAPS - 1) * columns);
    for (int64_t t = 0; t < at->length; t += TOKENS) {
      const int count = at->length - t < TOKENS ? (int)(at->length - t) : TOKENS;
      const int tokens = round_up(count, ROWS); /* what is beyond the end is computed and left out */
      const char *from = (const char *)u + (s * at->in_seq + t * at->in_token) * size;
      char *to = (char *)out + (s * at->out_seq + t * at->out_token) * size;
      fetch(p, &w, at, from, count, tokens, half);
      const int64_t left = at->length - t - count, ahead = left < TOKENS ? left : TOKENS;
      foresee(from + count * at->in_token * size, at->in_token * size, (int)ahead, p->width * size);
      foresee(to, at->out_token * size, count, p->width * size);
      project(&w, w.x, p->width, p->w_in, p->w_in_half, columns, body, columns, tokens, half);
      convolve(p, w.proj, columns, count, w.mixed, tokens, half);
      scan(p, &w, body + p->inner + channels, columns, count, tokens, half);
      gate(p, body, columns, w.y, w.half, tokens, half);
      project(&w, w.y, p->inner, p->w_out, p->w_out_half, p->width, w.out, p->width, tokens, half);
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
